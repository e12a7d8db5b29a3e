//! A deep perceptron on images of digits: rows of pixels in, classes out.

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use trimtab::floors::io::ImageSet;
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::{
    Activation, Axis, Ctx, Flow, Layer, LayerMut, Network, Result, Site, SiteMeta, Stage, Weight,
};
use trimtab::floors::train::{self, Dataset, Item, Loss, Objective, Pass};

/// How weights begin; biases are 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// All zero.
    Zeros,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with variance `2 / fan_in` (He et al., arXiv:1502.01852).
    He,
    /// Normal with this standard deviation times `1 / sqrt(fan_in)`, none beyond two deviations.
    Fan(f64),
}

/// One linear map, with an activation behind it or not.
#[derive(Clone)]
struct Dense {
    site: Site,
    after: Option<Activation>,
}

impl Stage for Dense {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let y = self.site.forward(flow.vector(self.site.name())?, ctx);
        Ok(Flow::Vector(match self.after {
            Some(activation) => activation.forward(y),
            None => y,
        }))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        vec![Layer::Site(&self.site)]
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        vec![LayerMut::Site(&mut self.site)]
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}

/// A linear map between these axes, to be trained, with an activation behind it or not.
pub fn dense(
    name: &str,
    [input, output]: [Axis; 2],
    start: Start,
    after: Option<Activation>,
    seed: u64,
) -> Box<dyn Stage> {
    let device = Device::flex().autodiff();
    let (cols, rows) = (input.size(), output.size());
    let deviation = match start {
        Start::Zeros => 0.0,
        Start::Normal(deviation) => deviation,
        Start::He => (2.0 / cols as f64).sqrt(),
        Start::Fan(factor) => factor / (cols as f64).sqrt(),
    };
    let mut stream = Stream::new(seed, &format!("init/{name}"), 0, 0);
    let mut draw = || match start {
        Start::Fan(_) => std::iter::repeat_with(|| stream.normal()).find(|x| x.abs() <= 2.0).unwrap_or(0.0),
        _ => stream.normal(),
    };
    let values: Vec<f32> = (0..rows * cols).map(|_| (deviation * draw()) as f32).collect();
    let meta = SiteMeta { input, output, ..SiteMeta::linear(name, rows, cols) };
    let weight = Weight::dense(Tensor::from_data(TensorData::new(values, [rows, cols]), &device));
    let site = Site::new(meta, weight, Some(Tensor::zeros([rows], &device)));
    Box::new(Dense { site: site.expect("the weight has the shape of its site"), after })
}

/// A perceptron of these widths with ReLUs, from pixels to classes, to be trained.
pub fn perceptron(widths: &[usize], start: Start, seed: u64) -> Network {
    perceptron_with(Activation::Relu, widths, start, seed)
}

/// A perceptron of these widths, to be trained.
pub fn perceptron_with(activation: Activation, widths: &[usize], start: Start, seed: u64) -> Network {
    let last = widths.len() - 2;
    let axis = |i: usize| Axis::new(format!("hidden.{i}"), widths[i]);
    let stage = |i: usize| {
        let after = (i < last).then_some(activation);
        dense(&format!("layers.{i}"), [axis(i), axis(i + 1)], start, after, seed)
    };
    Network::new((0..=last).map(stage).collect(), None, 1)
}

/// Rows of numbers with a class each, such as digits.
pub struct Digits {
    pixels: Vec<f32>,
    labels: Vec<i64>,
    width: usize,
}

impl Digits {
    /// Rows of `width` numbers.
    pub fn rows(pixels: Vec<f32>, labels: Vec<i64>, width: usize) -> Self {
        Self { pixels, labels, width }
    }

    /// Images as rows of numbers between 0 and 1.
    pub fn new(images: &ImageSet) -> Self {
        let pixels = images.pixels(0..images.len()).iter().map(|&p| f32::from(p) / 255.0).collect();
        Self { pixels, labels: images.labels.clone(), width: images.shape[1..].iter().product() }
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }
}

impl Dataset for Digits {
    type Batch = (Tensor<2>, Vec<i64>);

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> train::Result<Self::Batch> {
        let row = |item: &Item| self.pixels[item.index * self.width..(item.index + 1) * self.width].iter();
        let values: Vec<f32> = items.iter().flat_map(row).copied().collect();
        let rows = Tensor::from_data(TensorData::new(values, [items.len(), self.width]), device);
        Ok((rows, items.iter().map(|item| self.labels[item.index]).collect()))
    }
}

/// Cross-entropy of the class.
pub struct Classes;

impl Objective<Network, (Tensor<2>, Vec<i64>)> for Classes {
    fn loss(
        &self,
        model: &Network,
        (rows, labels): &(Tensor<2>, Vec<i64>),
        pass: &mut Pass,
    ) -> train::Result<Loss> {
        let n = labels.len();
        let logits = model.forward(Flow::Vector(rows.clone()), &mut pass.ctx())?.vector("loss")?;
        let index = Tensor::<2, Int>::from_data(TensorData::new(labels.clone(), [n, 1]), &rows.device());
        let guesses = logits.clone().without_autodiff().argmax(1).into_data();
        let correct = guesses.iter::<i64>().zip(labels).filter(|(guess, label)| guess == *label).count();
        let mean = activation::log_softmax(logits, 1).gather(1, index).mean().neg();
        Ok(Loss::new(mean, n).with_correct(correct))
    }
}
