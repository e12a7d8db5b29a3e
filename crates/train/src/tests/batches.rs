//! Batches that grow.

use trimtab_exchange::{ExchangeConfig, Family};

use super::*;

/// One number, pulled towards a point with noise of a known size.
struct Noisy {
    n: usize,
    deviation: f32,
}

impl Dataset for Noisy {
    type Batch = Tensor<2>;

    fn len(&self) -> usize {
        self.n
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<Tensor<2>> {
        let value = |item: &Item| {
            let mut stream = Stream::new(9, "noisy", item.epoch, item.index as u64);
            [0, 1].map(|_| self.deviation * stream.normal() as f32)
        };
        let values: Vec<f32> = items.iter().flat_map(value).collect();
        Ok(Tensor::from_data(TensorData::new(values, [items.len(), 2]), device))
    }
}

/// `|w - x|^2 / 2` per sample, whose gradient has a known spread.
struct Pull;

impl Objective<Network, Tensor<2>> for Pull {
    fn loss(&self, model: &Network, batch: &Tensor<2>, pass: &mut Pass) -> Result<Loss> {
        let [n, _] = batch.dims();
        // The gradient of a sample with respect to W is (W - noise) where the input is one and the noise is the target.
        let one = Tensor::<2>::ones([n, 1], &batch.device());
        let y = model.forward(Flow::Vector(one), &mut pass.ctx())?.vector("test")? - batch.clone();
        Ok(Loss::new((y.square() * 0.5).sum() / n as f64, n))
    }
}

/// A stage of one site.
#[derive(Clone)]
struct Only(Site);

impl Stage for Only {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Flow> {
        Ok(Flow::Vector(self.0.forward(flow.vector("test")?, ctx)))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        vec![Layer::Site(&self.0)]
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        vec![LayerMut::Site(&mut self.0)]
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}

fn scalar_site(values: [f32; 2]) -> Site {
    let meta = SiteMeta::linear("w", 2, 1);
    let device = Device::flex().autodiff();
    let weight = Tensor::from_data(TensorData::new(values.to_vec(), [2, 1]), &device);
    Site::new(meta, Weight::dense(weight), None).unwrap()
}

#[test]
fn an_adaptive_batch_follows_the_control_law() {
    // Gradient of a sample: W + noise of variance 2 s^2 in all. A batch passes where 2 s^2 / b <= eta^2 |W|^2, here 0.18 / b <= 0.01 |W|^2.
    let data = Noisy { n: 100_000, deviation: 0.3 };
    let adaptive = Adaptive { max: 100_000, test: Test::Norm { eta: 0.1 }, growth_cap: 1e9, ..adaptive() };
    let phase = Phase { steps: None, samples: Some(150_000), rate: 0.05, ..phase(1, 0.05, sgd(0.0)) };
    let settings = Settings { batch: BatchSize::Adaptive(adaptive), ..settings(1, vec![phase]) };
    let trainer = Trainer::new(&data, &Pull, &settings, Device::flex());
    let mut seen = Law::default();
    let stages: Vec<Box<dyn Stage>> = vec![Box::new(Only(scalar_site([3.0, -4.0])))];
    trainer.run(Network::new(stages, None, 0), &mut seen).unwrap();
    seen.0.pop(); // the last batch is what is left
    assert!(seen.0.windows(2).all(|pair| pair[0].0 <= pair[1].0), "it never shrinks: {:?}", seen.0);
    // What the law asks for at the weights of then. One that has overshot waits until it is right again, hence the mean.
    let ratio = |(batch, norm): &(usize, f64)| *batch as f64 / (2.0 * 0.09 / (0.01 * norm));
    let tested: Vec<f64> = seen.0.iter().filter(|(batch, _)| *batch > 32).map(ratio).collect();
    let mean = tested.iter().sum::<f64>() / tested.len() as f64;
    let worst = tested.iter().fold(0.0f64, |worst, r| worst.max(r.ln().abs())).exp();
    assert!(tested.len() > 40 && (mean - 1.0).abs() < 0.2 && worst < 2.0, "{} {mean} {worst}", tested.len());
    assert!(seen.0.last().unwrap().1 < 25.0 / 1e4, "while the gradient fell by a hundred");
}

/// Batch of each step, and the squared norm of the weights before it.
struct Law(Vec<(usize, f64)>, f64);

impl Default for Law {
    fn default() -> Self {
        Self(Vec::new(), 25.0)
    }
}

impl Observer<Network> for Law {
    fn step(&mut self, record: &StepRecord, module: &Network) {
        self.0.push((record.batch, self.1));
        self.1 = numbers(module).iter().map(|w| f64::from(*w).powi(2)).sum();
    }
}

#[test]
fn a_batch_that_adapts_does_not_measure_a_compressor() {
    let data = Noisy { n: 100, deviation: 0.3 };
    let ends = |batch: BatchSize, family: Family| {
        let phase = Phase { steps: None, samples: Some(64), ..phase(1, 0.05, sgd(0.0)) };
        let settings = Settings { batch, ..settings(1, vec![phase]) };
        let trainer = Trainer::new(&data, &Pull, &settings, Device::flex());
        let config = ExchangeConfig { family, ..ExchangeConfig::default() };
        let mut workers = Ranks::new(trimtab_exchange::Alone, config).unwrap();
        let stages: Vec<Box<dyn Stage>> = vec![Box::new(Only(scalar_site([3.0, -4.0])))];
        let network = Network::new(stages, None, 0);
        trainer.run_with(network, &mut Silent::default(), &mut workers).err().map(|error| error.to_string())
    };
    let top_k = Family::TopK { density: 1000, error_feedback: true };
    let error = ends(BatchSize::Adaptive(adaptive()), top_k).unwrap();
    assert!(error.contains("compressed") && error.contains("hint"), "{error}");
    // Controls: the same batch without a compressor, and the same compressor with another batch.
    assert_eq!(ends(BatchSize::Adaptive(adaptive()), Family::Dense), None);
    assert_eq!(ends(BatchSize::Fixed(4), top_k), None);
}

#[test]
fn the_paths_of_captures_are_those_of_the_module() {
    // A parameter that no layer captures is an error, not a wrong number.
    let data = Points::noisy(64);
    let phase = Phase { steps: None, samples: Some(64), ..phase(1, 0.05, sgd(0.0)) };
    let settings = Settings { batch: BatchSize::Adaptive(adaptive()), ..settings(1, vec![phase]) };
    let error = run(&data, &settings, None, &mut Silent::default()).unwrap_err().to_string();
    assert!(error.contains("no statistics of single samples for \"bias\""), "{error}");
}
