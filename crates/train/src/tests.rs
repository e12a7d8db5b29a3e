//! Runs of the whole loop on problems whose answer is known.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use trimtab_math::random::Stream;
use trimtab_nn::{
    Axis, Ctx, Flow, Layer, LayerMut, Network, Norm, NormKind, Site, SiteKind, SiteMeta, Stage, Weight,
};

use super::*;
use crate::parameters::values;

/// `y = x W^T + b`.
#[derive(Module, Debug)]
struct Line {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

fn line(weight: [f32; 2], bias: f32) -> Line {
    let device = Device::flex().autodiff();
    let weight = Tensor::from_data(TensorData::new(weight.to_vec(), [1, 2]), &device);
    let bias = Tensor::from_data(TensorData::new(vec![bias], [1]), &device);
    Line { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) }
}

/// Points `(x, y)`.
struct Points(Vec<([f32; 2], f32)>);

impl Points {
    /// `y = 2 x_0 - 3 x_1 + 0.5` with noise.
    fn noisy(n: usize) -> Self {
        let mut stream = Stream::new(0, "points", 0, 0);
        let mut normal = || stream.normal() as f32;
        let point = |_| {
            let x = [normal(), normal()];
            (x, 2.0 * x[0] - 3.0 * x[1] + 0.5 + 0.3 * normal())
        };
        Self((0..n).map(point).collect())
    }
}

impl Dataset for Points {
    type Batch = (Tensor<2>, Tensor<2>);

    fn len(&self) -> usize {
        self.0.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<Self::Batch> {
        let x: Vec<f32> = items.iter().flat_map(|item| self.0[item.index].0).collect();
        let y: Vec<f32> = items.iter().map(|item| self.0[item.index].1).collect();
        let tensor = |values, width| Tensor::from_data(TensorData::new(values, [items.len(), width]), device);
        Ok((tensor(x, 2), tensor(y, 1)))
    }
}

struct SquaredError;

impl Objective<Line, (Tensor<2>, Tensor<2>)> for SquaredError {
    fn loss(&self, model: &Line, (x, y): &(Tensor<2>, Tensor<2>), _: &mut Pass) -> Result<Loss> {
        let guess = x.clone().matmul(model.weight.val().transpose()) + model.bias.val().unsqueeze();
        Ok(Loss::new((guess - y.clone()).square().mean(), y.dims()[0]))
    }
}

fn phase(steps: usize, rate: f64, optimizer: OptimizerConfig) -> Phase {
    Phase::new(steps, rate, optimizer)
}

fn settings(batch: usize, phases: Vec<Phase>) -> Settings {
    Settings { seed: 1, ..Settings::new(batch, phases) }
}

fn sgd(momentum: f64) -> OptimizerConfig {
    OptimizerConfig::Sgd { momentum, weight_decay: 0.0 }
}

fn run(
    data: &Points,
    settings: &Settings,
    state: Option<&Path>,
    observer: &mut dyn Observer<Line>,
) -> Result<Outcome<Line>> {
    let mut trainer = Trainer::new(data, &SquaredError, settings, Device::flex());
    trainer.state = state.map(Into::into);
    trainer.run(line([0.1, 0.2], 0.0), observer)
}

fn first_items(n: usize) -> Vec<Item> {
    (0..n).map(|index| Item { index, epoch: 0 }).collect()
}

/// The gradient over all points.
fn gradients_of(module: &Line, data: &Points) -> Gradients {
    let batch = data.batch(&first_items(data.len()), &Device::flex().autodiff()).unwrap();
    let loss = SquaredError.loss(module, &batch, &mut Pass::default()).unwrap();
    Gradients::collect(module, loss.mean.backward(), |_| true, loss.terms)
}

fn trained(data: &Points, settings: &Settings) -> Vec<f32> {
    numbers(&run(data, settings, None, &mut Silent::default()).unwrap().module)
}

fn numbers<M: Module>(module: &M) -> Vec<f32> {
    values(module).into_iter().flat_map(|(_, data)| data.try_into_vec::<f32>().unwrap()).collect()
}

/// Normal equations of the regression, solved by Cramer's rule in f64.
fn closed_form(data: &Points) -> [f64; 3] {
    let mut m = [[0.0f64; 4]; 3];
    for &(x, y) in &data.0 {
        let row = [f64::from(x[0]), f64::from(x[1]), 1.0, f64::from(y)];
        (0..3).for_each(|i| (0..4).for_each(|j| m[i][j] += row[i] * row[j]));
    }
    let det = |c: [usize; 3]| {
        let minor = |a: usize, b: usize| m[1][c[a]] * m[2][c[b]] - m[1][c[b]] * m[2][c[a]];
        m[0][c[0]] * minor(1, 2) - m[0][c[1]] * minor(0, 2) + m[0][c[2]] * minor(0, 1)
    };
    [det([3, 1, 2]), det([0, 3, 2]), det([0, 1, 3])].map(|d| d / det([0, 1, 2]))
}

#[test]
fn a_regression_reaches_the_closed_form() {
    let data = Points::noisy(32);
    let exact = closed_form(&data);
    let adam = OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    for phases in [vec![phase(300, 0.1, sgd(0.9))], vec![phase(300, 0.1, adam), phase(100, 0.1, sgd(0.5))]] {
        let found = trained(&data, &settings(32, phases));
        for (found, exact) in found.iter().zip(exact) {
            // Rounding of the gradient in f32, divided by the smallest curvature (about 1).
            assert!((f64::from(*found) - exact).abs() < 1e-5, "{found} {exact}");
        }
    }
    assert!(exact[0] - 2.0 != 0.0 && (exact[0] - 2.0).abs() < 0.3, "the noise moves the answer a little");
}

#[test]
fn passes_of_a_step_are_one_batch() {
    let data = Points::noisy(24);
    let whole = settings(12, vec![phase(6, 0.05, OptimizerConfig::default())]);
    let halves = Settings { micro_batch: Some(6), ..whole.clone() };
    let first_half = Settings { batch: BatchSize::Fixed(6), ..whole.clone() };
    let (a, b, c) = (trained(&data, &whole), trained(&data, &halves), trained(&data, &first_half));
    // The same sums in another order: a few roundings.
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far(&a, &b) < 1e-5, "{a:?} {b:?}");
    assert!(far(&a, &c) > 1e-3, "half of the data is not the same");
}

#[test]
fn passes_are_weighted_by_their_terms() {
    let module = line([0.0, 0.0], 0.0);
    let gradients = |data: Points| gradients_of(&module, &data);
    let one = gradients(Points(vec![([3.0, 0.0], 1.0)]));
    let two = gradients(Points(vec![([0.0, 0.0], 1.0), ([0.0, 0.0], 1.0)]));
    // Weight: (1 * -2 * 3 + 2 * 0) / 3 = -2; bias: (1 * -2 + 2 * -2) / 3 = -2. Norm: sqrt(8).
    assert!((one.merge(two).norm() - 8.0f64.sqrt()).abs() < 1e-6);
}

#[test]
fn clipping_by_hand() {
    // One point x = (3, 0), y = -2 at zero: residual 2, gradient of the weight (12, 0), of the bias 4.
    let module = line([0.0, 0.0], 0.0);
    let data = Points(vec![([3.0, 0.0], -2.0)]);
    let gradients = || gradients_of(&module, &data);
    let norm = gradients().norm();
    assert!((norm - 160.0f64.sqrt()).abs() < 1e-5);
    let stepped = |limit| {
        let mut gradients = gradients();
        gradients.clip(norm, limit);
        numbers(&Optimizer::new(&phase(1, 1.0, sgd(0.0))).step(module.clone(), gradients, &[1.0]))
    };
    let scale = 2.0 / 160.0f32.sqrt();
    let clipped = stepped(2.0);
    assert!(
        (clipped[0] + 12.0 * scale).abs() < 1e-6 && (clipped[2] + 4.0 * scale).abs() < 1e-6,
        "{clipped:?}"
    );
    assert_eq!(stepped(20.0), [-12.0, 0.0, -4.0], "a short gradient stays as it is");
}

#[test]
fn matrices_decay_and_vectors_do_not() {
    // The gradient is 0 where the model fits: only the decay acts.
    let data = Points(vec![([1.0, -1.0], 3.0)]);
    let module = line([1.0, -1.0], 1.0);
    for (optimizer, factor) in [
        (OptimizerConfig::Sgd { momentum: 0.0, weight_decay: 0.5 }, 0.95),
        (OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.95, epsilon: 1e-8, weight_decay: 0.5 }, 0.95),
    ] {
        let mut rule = Optimizer::new(&phase(1, 0.1, optimizer.clone()));
        let found = numbers(&rule.step(module.clone(), gradients_of(&module, &data), &[0.1]));
        assert_eq!(found, [factor, -factor, 1.0], "{optimizer:?}");
    }
}

#[test]
fn only_the_trainable_set_moves() {
    let data = Points::noisy(8);
    let mut first = phase(3, 0.1, sgd(0.0));
    first.trainable.0 = vec!["bias".into()];
    let found = trained(&data, &settings(8, vec![first.clone()]));
    assert!(found[..2] == [0.1, 0.2] && found[2] != 0.0, "{found:?}");
    first.trainable.0 = vec!["norm".into()];
    let error = run(&data, &settings(8, vec![first]), None, &mut Silent::default()).unwrap_err().to_string();
    assert!(error.contains("\"weight\"") && error.contains("norm"), "{error}");
}

#[test]
fn a_run_that_diverges_says_where() {
    let error =
        run(&Points::noisy(8), &settings(8, vec![phase(400, 10.0, sgd(0.9))]), None, &mut Silent::default());
    assert!(matches!(error, Err(Error::Diverged { .. })), "{error:?}");
}

/// Sets the flag after a number of steps, and keeps what it saw.
struct StopAfter {
    left: usize,
    flag: AtomicBool,
    seen: Vec<StepRecord>,
}

impl StopAfter {
    fn new(steps: usize) -> Self {
        Self { left: steps, flag: AtomicBool::new(false), seen: Vec::new() }
    }
}

impl<M> Observer<M> for StopAfter {
    fn step(&mut self, record: &StepRecord, _: &M) {
        self.left = self.left.saturating_sub(1);
        self.flag.store(self.left == 0, Ordering::SeqCst);
        self.seen.push(record.clone());
    }

    fn interrupted(&self) -> bool {
        Observer::<M>::interrupted(&Silent { stop: Some(&self.flag) })
    }
}

/// Two phases: the second starts with a fresh optimizer, also when the run is resumed at its very beginning.
fn long(passes: usize) -> Settings {
    let adamw = phase(12, 0.02, OptimizerConfig::default());
    let schedule = Schedule::Cosine { warmup: 0.25, floor: 0.1 };
    let momentum = Phase { name: "second".into(), schedule, ..phase(8, 0.02, sgd(0.9)) };
    let micro_batch = Some(5usize.div_ceil(passes));
    Settings { micro_batch, clip_norm: Some(1.0), ..settings(5, vec![adamw, momentum]) }
}

#[test]
fn a_resumed_run_gives_the_same_bytes() {
    let data = Points::noisy(17);
    for passes in [1, 2] {
        let settings = long(passes);
        let straight = trained(&data, &settings);
        for stop in [1, 10, 12, 19] {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().join("state.safetensors");
            let part = run(&data, &settings, Some(&state), &mut StopAfter::new(stop)).unwrap();
            assert!(!part.finished && part.step == stop);
            assert_ne!(numbers(&part.module), straight);
            let mut rest = StopAfter::new(0);
            let whole = run(&data, &settings, Some(&state), &mut rest);
            assert!(rest.seen.len() == 1, "a flag that is set at once stops after one step");
            assert!(whole.is_ok());
            let whole = run(&data, &settings, Some(&state), &mut Silent::default()).unwrap();
            assert!(whole.finished && whole.step == 20);
            assert_eq!(numbers(&whole.module), straight, "stopped after {stop}");
        }
    }
}

#[test]
fn saved_states_are_the_same_bytes_and_are_checked() {
    let data = Points::noisy(17);
    let settings = Settings { save_every: 10, ..long(1) };
    let dir = tempfile::tempdir().unwrap();
    let saved = |name: &str| {
        let state = dir.path().join(name);
        run(&data, &settings, Some(&state), &mut Silent::default()).unwrap();
        std::fs::read(&state).unwrap()
    };
    assert!(saved("a") == saved("b"), "the last save, after all steps");
    let state = dir.path().join("a");
    let again = run(&data, &settings, Some(&state), &mut Silent::default()).unwrap();
    assert!(again.finished && again.last.is_none(), "nothing is left to do");
    let more_often = Settings { save_every: 1, ..settings.clone() };
    run(&data, &more_often, Some(&state), &mut Silent::default()).unwrap();
    let other = Settings { seed: 2, ..settings.clone() };
    let error = run(&data, &other, Some(&state), &mut Silent::default()).unwrap_err().to_string();
    assert!(error.contains("settings differ") && error.contains("hint"), "{error}");
    let error =
        run(&Points::noisy(16), &settings, Some(&state), &mut Silent::default()).unwrap_err().to_string();
    assert!(error.contains("number of items"), "{error}");
    std::fs::write(&state, b"nonsense").unwrap();
    assert!(run(&data, &settings, Some(&state), &mut Silent::default()).is_err());
}

#[test]
fn the_observer_sees_rate_norm_and_heldout_loss() {
    let data = Points::noisy(10);
    let settings = Settings { heldout_every: 8, ..long(1) };
    let mut trainer = Trainer::new(&data, &SquaredError, &settings, Device::flex());
    trainer.heldout = Some(&data);
    let mut observer = StopAfter::new(usize::MAX);
    let outcome = trainer.run(line([0.0, 0.0], 0.0), &mut observer).unwrap();
    let measured: Vec<usize> = observer.seen.iter().filter(|r| r.heldout.is_some()).map(|r| r.step).collect();
    assert_eq!(measured, [8, 16, 20]);
    let last = outcome.last.unwrap();
    assert_eq!((last.step, last.total, last.samples, last.phase.as_str()), (20, 100, 100, "second"));
    let loss = trainer.heldout_loss(&outcome.module, &data).unwrap();
    assert_eq!(last.heldout, Some(loss));
    assert_eq!(loss.accuracy, None);
    // Brute force over the points.
    let w = numbers(&outcome.module);
    let errors = data.0.iter().map(|(x, y)| f64::from(w[0] * x[0] + w[1] * x[1] + w[2] - y).powi(2));
    assert!((loss.loss - errors.sum::<f64>() / 10.0).abs() < 1e-5 * loss.loss);
    assert_eq!(observer.seen[12].rate, 0.02 * 0.5, "half of the warm-up of the second phase");
}

/// Embedding, a gated layer and the embedding again: what a language model does to its tied weight.
#[derive(Module, Debug)]
struct Tied {
    embed: Site,
    up: Site,
    norm: Norm,
}

const VOCAB: usize = 40;
const WIDTH: usize = 24;

fn tied() -> Tied {
    let device = Device::flex().autodiff();
    let site = |name: &str, kind, rows: usize| {
        let meta = SiteMeta {
            name: name.into(),
            kind,
            rows,
            cols: WIDTH,
            transposed: false,
            input: Axis::new("residual", WIDTH),
            output: Axis::new(name, rows),
            reads: name.into(),
            fused: None,
        };
        let mut stream = Stream::new(0, name, 0, 0);
        let values: Vec<f32> = (0..rows * WIDTH).map(|_| 0.3 * stream.normal() as f32).collect();
        let weight = Weight::dense(Tensor::from_data(TensorData::new(values, [rows, WIDTH]), &device));
        Site::new(meta, weight, None).unwrap()
    };
    let gain = Tensor::ones([WIDTH], &device);
    Tied {
        embed: site("embed", SiteKind::Embedding, VOCAB),
        up: site("up", SiteKind::Linear, WIDTH),
        norm: Norm::new("norm", (NormKind::Rms, 1e-5), Axis::new("residual", WIDTH), gain, None),
    }
}

fn tied_logits(model: &Tied, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<3>> {
    let x = model.embed.lookup(ids, ctx);
    let x = x.clone() + activation::silu(model.up.forward(x, ctx));
    let x = model.norm.forward(x, ctx);
    Ok(model.embed.forward(x, ctx))
}

#[test]
fn the_gradient_of_a_tied_weight_is_that_of_both_uses() {
    let (device, model) = (Device::flex(), tied());
    let data = TokenWindows::new((0..65).map(|i| (i * 7) % 31).collect(), 16, VOCAB, "text").unwrap();
    let loss = |model: &Tied, device: &Device| {
        let batch = data.batch(&first_items(4), device).unwrap();
        NextToken(tied_logits).loss(model, &batch, &mut Pass::default()).unwrap().mean
    };
    let backward = loss(&model, &device.clone().autodiff()).backward();
    let Weight::Dense(param) = &model.embed.weight else { panic!("dense") };
    let gradient: Vec<f32> = param.val().grad(&backward).unwrap().into_data().try_into_vec().unwrap();
    let base: Vec<f32> = param.val().into_data().try_into_vec().unwrap();
    let at = |index: usize, step: f32| {
        let mut changed = base.clone();
        changed[index] += step;
        let mut model = model.valid();
        let tensor = Tensor::from_data(TensorData::new(changed, [VOCAB, WIDTH]), &device);
        model.embed.set_weight(Weight::dense(tensor)).unwrap();
        f64::from(loss(&model, &device).into_scalar::<f32>())
    };
    // Row 35 is never an input, only a candidate of the head.
    for index in [0, 5 * WIDTH + 3, 30 * WIDTH + 7, 35 * WIDTH + 1] {
        let step = 1e-2;
        let difference = (at(index, step) - at(index, -step)) / (2.0 * f64::from(step));
        // The loss (about 3.7) is rounded to 2e-7, so a difference to 2e-5; curvature adds less.
        assert!(
            (difference - f64::from(gradient[index])).abs() < 1e-4,
            "{index}: {difference} {}",
            gradient[index]
        );
    }
    assert!(gradient.iter().any(|g| g.abs() > 1e-3), "there is something to compare");
}

#[test]
fn threads_do_not_change_a_byte() {
    let data =
        TokenWindows::new((0..4097).map(|i: u32| (i * i / 7) % 37).collect(), 64, VOCAB, "text").unwrap();
    let settings = settings(16, vec![phase(4, 3e-3, OptimizerConfig::default())]);
    let settings = Settings { clip_norm: Some(0.5), ..settings };
    let trained = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let objective = NextToken(tied_logits);
        let trainer = Trainer::new(&data, &objective, &settings, Device::flex());
        numbers(&pool.install(|| trainer.run(tied(), &mut Silent::default())).unwrap().module)
    };
    let one = trained(1);
    assert_eq!(one, trained(2));
    assert_eq!(one, trained(3));
    assert_ne!(one, numbers(&tied()), "training does something");
}

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
    let meta = SiteMeta {
        name: "w".into(),
        kind: SiteKind::Linear,
        rows: 2,
        cols: 1,
        transposed: false,
        input: Axis::new("one", 1),
        output: Axis::new("two", 2),
        reads: "one".into(),
        fused: None,
    };
    let device = Device::flex().autodiff();
    let weight = Tensor::from_data(TensorData::new(values.to_vec(), [2, 1]), &device);
    Site::new(meta, Weight::dense(weight), None).unwrap()
}

#[test]
fn an_adaptive_batch_follows_the_control_law() {
    // Gradient of a sample: W + noise of variance 2 s^2 in all. A batch passes where 2 s^2 / b <= eta^2 |W|^2, here 0.18 / b <= 0.01 |W|^2.
    let data = Noisy { n: 100_000, deviation: 0.3 };
    let adaptive = Adaptive {
        initial: 4,
        max: 100_000,
        test: Test::Norm { eta: 0.1 },
        interval: 1,
        growth_cap: 1e9,
        grid: 1,
    };
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
fn the_paths_of_captures_are_those_of_the_module() {
    // A parameter that no layer captures is an error, not a wrong number.
    let data = Points::noisy(64);
    let adaptive = Adaptive {
        initial: 4,
        max: 64,
        test: Test::Norm { eta: 0.5 },
        interval: 1,
        growth_cap: 2.0,
        grid: 1,
    };
    let phase = Phase { steps: None, samples: Some(64), ..phase(1, 0.05, sgd(0.0)) };
    let settings = Settings { batch: BatchSize::Adaptive(adaptive), ..settings(1, vec![phase]) };
    let error = run(&data, &settings, None, &mut Silent::default()).unwrap_err().to_string();
    assert!(error.contains("no statistics of single samples for \"bias\""), "{error}");
}

#[test]
fn noise_has_its_variance_and_is_the_same_again() {
    let gradient = |n: usize| {
        let values = Tensor::zeros([n], &Device::flex());
        Gradients::from_iter([("w".to_string(), Gradient { shape: vec![n], values })])
    };
    let noise = GradientNoise { eta: 0.3, gamma: 0.55 };
    let drawn = |noise: GradientNoise, seed, t, n| -> Vec<f64> {
        let mut gradients = gradient(n);
        noise.apply(&mut gradients, seed, t);
        let (_, gradient) = gradients.iter().next().unwrap();
        gradient.values.clone().into_data().iter::<f64>().collect()
    };
    for t in [0, 9, 999] {
        let x = drawn(noise, 1, t, 1_000_000);
        let variance = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        // A million draws: 0.14 percent; one percent is seven of it.
        assert!((variance / (0.3 / (1.0 + t as f64).powf(0.55)) - 1.0).abs() < 0.01, "{t}: {variance}");
        // The deviation in place of the variance, as in several ports, would be seen.
        assert!((variance.sqrt() / noise.variance(t) - 1.0).abs() > 0.1, "{t}");
    }
    assert_eq!(drawn(noise, 1, 5, 100), drawn(noise, 1, 5, 100));
    assert_ne!(drawn(noise, 1, 5, 100), drawn(noise, 1, 6, 100));
    assert_ne!(drawn(noise, 1, 5, 100), drawn(noise, 2, 5, 100));
    let none = GradientNoise { eta: 0.0, gamma: 0.55 };
    assert_eq!(drawn(none, 1, 5, 100), [0.0; 100]);
    // And in the loop: a run with noise is another one, and the same when it is repeated.
    let data = Points::noisy(16);
    let plain = settings(4, vec![phase(6, 0.05, sgd(0.0))]);
    let noisy = Settings { noise: Some(noise), ..plain.clone() };
    assert_eq!(trained(&data, &noisy), trained(&data, &noisy));
    assert_ne!(trained(&data, &noisy), trained(&data, &plain));
    assert_eq!(trained(&data, &Settings { noise: Some(none), ..plain.clone() }), trained(&data, &plain));
}

#[test]
fn an_average_of_the_parameters_is_kept_and_resumed() {
    let data = Points::noisy(17);
    let settings = Settings { average: Some(0.75), ..long(1) };
    let mut expected = vec![0.1f32, 0.2, 0.0];
    let straight = run(&data, &settings, None, &mut Follow(&mut expected)).unwrap();
    let average = numbers(straight.average.as_ref().unwrap());
    // The average of what the same run without one goes through.
    let mut plain = Silent::default();
    let module = run(&data, &long(1), None, &mut plain).unwrap().module;
    assert_eq!(numbers(&straight.module), numbers(&module));
    assert_ne!(average, numbers(&module));
    let mut by_hand = vec![0.1f32, 0.2, 0.0];
    let mut each = Blend(&mut by_hand);
    run(&data, &long(1), None, &mut each).unwrap();
    assert!(by_hand.iter().zip(&average).all(|(a, b)| (a - b).abs() < 1e-6), "{by_hand:?} {average:?}");
    assert_eq!(expected, average, "the observer sees the average");
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.safetensors");
    run(&data, &settings, Some(&state), &mut StopAfter::new(7)).unwrap();
    let rest = run(&data, &settings, Some(&state), &mut Silent::default()).unwrap();
    assert_eq!(numbers(rest.result()), average);
}

/// Keeps the numbers that the loop shows.
struct Follow<'a>(&'a mut Vec<f32>);

impl Observer<Line> for Follow<'_> {
    fn step(&mut self, _: &StepRecord, module: &Line) {
        *self.0 = numbers(module);
    }
}

/// A moving average of what the loop shows.
struct Blend<'a>(&'a mut Vec<f32>);

impl Observer<Line> for Blend<'_> {
    fn step(&mut self, _: &StepRecord, module: &Line) {
        self.0.iter_mut().zip(numbers(module)).for_each(|(a, x)| *a = 0.75 * *a + 0.25 * x);
    }
}

#[test]
fn phases_take_turns_in_rounds_and_keep_their_state_if_asked() {
    let data = Points::noisy(12);
    let part = |name: &str, steps| Phase {
        name: name.into(),
        trainable: Paths(vec![name.into()]),
        ..phase(steps, 0.05, sgd(0.9))
    };
    let alternating = Settings {
        rounds: 3,
        ..settings(4, vec![part("weight", 2), Phase { keep_state: true, ..part("bias", 1) }])
    };
    let mut seen = StopAfter::new(usize::MAX);
    let outcome = run(&data, &alternating, None, &mut seen).unwrap();
    let names: Vec<&str> = seen.seen.iter().map(|record| record.phase.as_str()).collect();
    assert_eq!(names, ["weight", "weight", "bias"].repeat(3));
    assert_eq!((outcome.step, outcome.samples), (9, 36));
    // Two halves of one phase are the phase, if the optimizer goes on; not if it begins again.
    let half = |keep_state| Phase { keep_state, ..phase(3, 0.05, sgd(0.9)) };
    let whole = trained(&data, &settings(4, vec![phase(6, 0.05, sgd(0.9))]));
    assert_eq!(trained(&data, &settings(4, vec![half(false), half(true)])), whole);
    assert_ne!(trained(&data, &settings(4, vec![half(false), half(false)])), whole);
}

#[test]
fn a_phase_in_epochs_ends_with_the_data_and_without_progress_early() {
    let data = Points::noisy(10);
    let epochs = Phase { steps: None, epochs: Some(1.5), ..phase(1, 0.05, sgd(0.0)) };
    let mut seen = StopAfter::new(usize::MAX);
    run(&data, &settings(4, vec![epochs]), None, &mut seen).unwrap();
    let batches: Vec<usize> = seen.seen.iter().map(|record| record.batch).collect();
    assert_eq!(batches, [4, 4, 4, 3]);
    // The best is reached soon; then three measurements without a new one end the phase.
    let patient =
        Settings { heldout_every: 1, patience: Some(3), ..settings(10, vec![phase(500, 0.3, sgd(0.0))]) };
    let mut trainer = Trainer::new(&data, &SquaredError, &patient, Device::flex());
    trainer.heldout = Some(&data);
    let mut seen = StopAfter::new(usize::MAX);
    let outcome = trainer.run(line([0.0, 0.0], 0.0), &mut seen).unwrap();
    assert!(outcome.finished && outcome.step < 400, "{}", outcome.step);
    let losses: Vec<f64> = seen.seen.iter().map(|record| record.heldout.unwrap().loss).collect();
    let (best, last) = losses.split_at(losses.len() - 3);
    assert!(last.iter().all(|loss| *loss >= best.iter().fold(f64::MAX, |a, b| a.min(*b))));
}

/// Trains as several ranks in threads; the numbers of every rank.
fn trained_by(ranks: usize, data: &Points, settings: &Settings) -> Vec<Vec<f32>> {
    let run = |group| {
        let mut workers = Ranks::new(group, trimtab_exchange::ExchangeConfig::default()).unwrap();
        let trainer = Trainer::new(data, &SquaredError, settings, Device::flex());
        let outcome = trainer.run_with(line([0.1, 0.2], 0.0), &mut Silent::default(), &mut workers).unwrap();
        numbers(&outcome.module)
    };
    std::thread::scope(|scope| {
        let groups = trimtab_exchange::Threads::ranks(ranks).into_iter();
        let threads: Vec<_> = groups.map(|group| scope.spawn(move || run(group))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn several_processes_are_one() {
    let data = Points::noisy(24);
    let adam = OptimizerConfig::default();
    let noise = Some(GradientNoise { eta: 0.01, gamma: 0.55 });
    // Six items of a step, unevenly shared by four.
    let settings = Settings { noise, clip_norm: Some(1.0), ..settings(6, vec![phase(8, 0.05, adam)]) };
    let alone = trained(&data, &settings);
    for ranks in [1, 2, 4] {
        let all = trained_by(ranks, &data, &settings);
        assert!(all.iter().all(|numbers| *numbers == all[0]), "all ranks hold the same bits");
        let far = all[0].iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "{ranks}: {far}");
    }
    let other = Settings { batch: BatchSize::Fixed(3), ..settings };
    assert!(trained_by(2, &data, &other)[0] != alone);
}
