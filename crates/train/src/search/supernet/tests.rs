//! The search on small pictures whose answers are known.

use trimtab_io::ImageSet;
use trimtab_math::random::Stream;
use trimtab_nn::Ctx;

use super::super::genotype::Choice;
use super::super::patches::{Cut, Patches, Restore};
use super::*;
use crate::data::Dataset;
use crate::optimizer::OptimizerConfig;
use crate::sampler::Item;
use crate::settings::{Group, Paths, Phase, Settings};
use crate::{Silent, Trainer};

/// Smooth pictures of 8 by 8 pixels.
fn pictures(n: usize) -> ImageSet {
    let mut stream = Stream::new(8, "pictures", 0, 0);
    let mut pixels = Vec::new();
    for _ in 0..n * 3 {
        let [a, b, c] = std::array::from_fn(|_| stream.uniform_in(-0.8, 0.8));
        for y in 0..8 {
            for x in 0..8 {
                let v = 128.0 + 100.0 * (a * f64::from(x) + b * f64::from(y) + c).sin();
                pixels.push(v as u8);
            }
        }
    }
    ImageSet::new([n, 3, 8, 8], vec![0; n], pixels).unwrap()
}

fn halves(n: usize) -> Patches {
    Patches::new(pictures(n), [8, 2], Cut::Middle, 0).unwrap().in_halves().unwrap()
}

fn small() -> QuantNas {
    QuantNas { channels: 6, cells: 1, ops: vec![Operation::Conv1, Operation::Conv3], ..QuantNas::default() }
}

fn batch(data: &Patches, n: usize) -> PatchBatch {
    let items: Vec<Item> = (0..n).map(|index| Item { index, epoch: 0 }).collect();
    data.batch(&items, &Device::flex().autodiff()).unwrap()
}

fn pass(part: usize, progress: f64) -> Pass {
    Pass { training: true, part, progress, ..Pass::default() }
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// With these logits at every place.
fn with_logits(mut model: Supernet, of: impl Fn(usize, usize) -> f32) -> Supernet {
    for (i, logits) in model.logits.iter_mut().enumerate() {
        let n = logits.dims()[0];
        let values: Vec<f32> = (0..n).map(|j| of(i, j)).collect();
        *logits = Param::from_tensor(Tensor::from_data(TensorData::new(values, [n]), &device()));
    }
    model
}

#[test]
fn each_half_moves_its_own_parameters() {
    let (data, bilevel) = (halves(8), Bilevel { warm_up: 0.25 });
    let batch = batch(&data, 4);
    for by in [SearchBy::Noise, SearchBy::Rounding] {
        let model = Supernet::new(&QuantNas { by, ..small() }, 0, &device()).unwrap();
        let moved = |part: usize, progress: f64| {
            let loss = bilevel.loss(&model, &batch, &mut pass(part, progress)).unwrap();
            let found = crate::Gradients::collect(&model, loss.mean.backward(), |_| true, 1);
            let norm = |of: &str| {
                let own = found.iter().filter(|(path, _)| path.starts_with(of));
                own.map(|(_, gradient)| gradient.squared_norm()).sum::<f64>()
            };
            [norm("network"), norm("logits")]
        };
        let [weights, logits] = moved(WEIGHTS, 0.5);
        assert!(weights > 0.0 && logits == 0.0, "{by:?}: {weights} {logits}");
        let [weights, logits] = moved(LOGITS, 0.5);
        assert!(weights == 0.0 && logits > 0.0, "{by:?}: {weights} {logits}");
        assert_eq!(moved(LOGITS, 0.1), [0.0; 2], "weights alone at first");
    }
}

#[test]
fn the_gradient_of_coefficients_is_that_of_differences_with_frozen_noise() {
    // One place, so that what is noisy does not depend on coefficients before it.
    use super::super::edge::Edge;
    let device = device();
    let spec = EdgeSpec {
        name: "edge".into(),
        inputs: 6,
        outputs: 6,
        skip: true,
        pixels: 1,
        ops: vec![Operation::Conv1, Operation::Conv3, Operation::Grouped3],
        bits: vec![2, 4],
    };
    let mut stream = Stream::new(3, "x", 0, 0);
    let x: Vec<f32> = (0..2 * 6 * 25).map(|_| stream.normal() as f32).collect();
    let x = Tensor::<4>::from_data(TensorData::new(x, [2, 6, 5, 5]), &device);
    let weights: Vec<f32> = (0..300).map(|_| stream.normal() as f32).collect();
    let weights = Tensor::<4>::from_data(TensorData::new(weights, [2, 6, 5, 5]), &device);
    for by_noise in [true, false] {
        let edge = Edge::new(0, spec.clone(), true, 1, &device);
        let draws =
            Draws { kind: NoiseKind::Normal, gradient: NoiseGradient::Clean, seed: 0, step: 4, pass: 1 };
        let value = |alpha: [f32; 6], pass: u64| {
            let alpha = Tensor::<1>::from_floats(alpha, &device).require_grad();
            let draws = Draws { pass, ..draws };
            let y = edge.forward(x.clone(), Some(&alpha), by_noise.then_some(&draws), &mut Ctx::default());
            let sum = (y * weights.clone()).sum();
            let value = f64::from(sum.clone().into_scalar::<f32>());
            (value, host(alpha.grad(&sum.backward()).unwrap()))
        };
        let at = [0.1, 0.3, 0.05, 0.2, 0.25, 0.1];
        let (_, slope) = value(at, 1);
        let differences = |pass: u64| -> Vec<f64> {
            (0..6)
                .map(|i| {
                    let moved = |h: f32| {
                        let alpha = std::array::from_fn(|j| if i == j { at[j] + h } else { at[j] });
                        value(alpha, pass).0
                    };
                    (moved(1e-2) - moved(-1e-2)) / 2e-2
                })
                .collect()
        };
        let size = slope.iter().fold(0.0f32, |most, s| most.max(s.abs()));
        let far = |pass: u64| {
            let differences = differences(pass);
            slope.iter().zip(differences).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
        };
        assert!(far(1) < 0.01 * f64::from(size), "{by_noise}: {} of {size}", far(1));
        if by_noise {
            assert!(far(2) > 0.02 * f64::from(size), "control: other noise has another slope");
        }
    }
}

#[test]
fn a_certain_mixture_of_rounded_ones_is_the_network_that_is_derived() {
    let settings = QuantNas { by: SearchBy::Rounding, ..small() };
    let model = Supernet::new(&settings, 2, &device()).unwrap();
    let model = with_logits(model, |i, j| if j == i % 3 { 80.0 } else { -80.0 });
    let genotype = model.genotype();
    assert_eq!(model.certainty(), 1.0);
    let bytes = {
        let chosen: std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)> = model
            .network
            .tensors()
            .into_iter()
            .map(|(name, shape, values)| (name, (shape, values)))
            .collect();
        let wanted = Upscaler::of(&genotype, 0, &Device::flex()).unwrap().tensors();
        let raw: Vec<(String, trimtab_io::RawTensor)> = wanted
            .into_iter()
            .map(|(name, ..)| {
                let (shape, values) = &chosen[&name];
                (
                    name,
                    trimtab_io::RawTensor::from_f32(shape.clone(), values, trimtab_io::Dtype::F32).unwrap(),
                )
            })
            .collect();
        trimtab_io::to_safetensors(&raw, &Default::default()).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chosen.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = trimtab_io::Checkpoint::open(&path).unwrap();
    let derived = Upscaler::read(&genotype, &checkpoint, &Device::flex()).unwrap();
    let data = halves(6);
    let small = batch(&data, 3).first.small.without_autodiff();
    let plain = model.valid();
    let of = |model: &Supernet| {
        let alphas = model.coefficients();
        host(model.network.mixture(small.clone(), Some(&alphas), None, &mut Ctx::default()))
    };
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let expected = host(derived.forward(small.clone(), &mut Ctx::default()));
    assert!(far(&of(&plain), &expected) < 1e-5, "{}", far(&of(&plain), &expected));
    let other = with_logits(model, |i, j| if j == (i + 1) % 3 { 80.0 } else { -80.0 }).valid();
    assert!(far(&of(&other), &expected) > 1e-3, "control: another choice is another network");
}

#[test]
fn cost_and_entropy_by_hand() {
    let model = Supernet::new(&small(), 0, &device()).unwrap();
    let scalar = |x: Tensor<1>| f64::from(x.into_scalar::<f32>());
    assert!((scalar(model.cost(&model.coefficients())) - 1.0).abs() < 1e-5);
    // Nine open places with four candidates each.
    let open = model.network.specs().filter(|edge| edge.is_open()).count();
    assert_eq!(open, 9);
    assert!((scalar(model.entropy()) - 9.0 * 4f64.ln()).abs() < 1e-4);
    let edges = small().edges();
    let first: f64 = edges
        .iter()
        .map(|edge| {
            let all = edge.candidates();
            all.iter().map(|&choice| edge.bit_ops(choice)).sum::<f64>() / all.len() as f64
        })
        .sum();
    let certain = with_logits(model, |_, j| if j == 2 { 60.0 } else { 0.0 });
    let genotype = certain.genotype();
    let name = &edges[0].name;
    assert_eq!(genotype.edges[name], Choice { op: Operation::Conv3, bits: 4 });
    assert!(
        (scalar(certain.cost(&certain.coefficients())) - genotype.bit_ops().unwrap() / first).abs() < 1e-5
    );
    assert!(scalar(certain.entropy()) < 1e-6);
    assert_eq!(certain.told()[name]["conv3 int4"], 1.0);
}

#[test]
fn the_weight_of_the_entropy_grows_from_a_quarter_after_the_warm_up() {
    // T = 20, t0 = 8, q = 3: 0 up to 10, then (t - 8) / 11 * ln(t - 9) / ln 10.
    for t in 0..20 {
        let expected = match t {
            0..11 => 0.0,
            _ => (t as f64 - 8.0) / 11.0 * (t as f64 - 9.0).ln() / 10f64.ln(),
        };
        assert!((entropy_weight(t, 8, 20) - expected).abs() < 1e-12, "{t}");
    }
    assert_eq!(entropy_weight(19, 8, 20), 1.0);
    assert!(entropy_weight(0, 0, 1) <= 1.0 && entropy_weight(5, 5, 5) <= 1.0);
    let bilevel = Bilevel { warm_up: 0.4 };
    let settings = QuantNas { entropy: 2.0, ..QuantNas::default() };
    assert_eq!(bilevel.entropy(&settings, 0.5), 0.0);
    assert!((bilevel.entropy(&settings, 0.96) - 2.0).abs() < 1e-12);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |change: &dyn Fn(&mut QuantNas), part: &str| {
        let mut settings = QuantNas::default();
        change(&mut settings);
        let message = Supernet::new(&settings, 0, &device()).map(drop).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(&|s| s.bits = vec![4, 5], "search.bits");
    refused(&|s| s.bits = vec![4, 4], "once");
    refused(&|s| s.bits.clear(), "at least one");
    refused(&|s| s.ops = vec![Operation::Grouped3], "tail");
    refused(&|s| s.ops = vec![Operation::Conv1; 2], "each operation once");
    refused(&|s| s.penalty = -1.0, "search.penalty");
    refused(&|s| s.entropy = f64::NAN, "search.entropy");
    refused(&|s| s.channels = 10, "channels");
    refused(&|s| s.epochs = 0, "search.epochs");
}

fn settings(steps: [usize; 2], rate: f64) -> Settings {
    let adam = |beta_1| OptimizerConfig::Adam { beta_1, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let weights = Phase {
        name: "warm-up".into(),
        trainable: Paths(vec!["network".into()]),
        ..Phase::new(steps[0], 1e-3, adam(0.9))
    };
    let logits = Group {
        paths: Paths(vec!["logits".into()]),
        optimizer: Some(adam(0.5)),
        rate: Some(rate),
        schedule: None,
    };
    let both = Phase { name: "search".into(), groups: vec![logits], ..Phase::new(steps[1], 1e-3, adam(0.9)) };
    Settings::new(4, vec![weights, both])
}

#[test]
fn a_dear_search_finds_the_cheapest_network_and_it_learns() {
    let data = halves(32);
    let search = QuantNas { penalty: 50.0, ..small() };
    let run = |penalty: f64| {
        let model = Supernet::new(&QuantNas { penalty, ..search.clone() }, 0, &device()).unwrap();
        let settings = settings([4, 30], 0.2);
        let bilevel = Bilevel { warm_up: 4.0 / 34.0 };
        let trainer = Trainer::new(&data, &bilevel, &settings, Device::flex());
        trainer.run(model, &mut Silent::default()).unwrap().module
    };
    let found = run(50.0);
    let cheapest = Genotype::uniform(search.skeleton(), Choice { op: Operation::Conv1, bits: 4 });
    assert_eq!(found.genotype().edges, cheapest.edges);
    assert_ne!(run(0.0).genotype().edges, cheapest.edges, "control: cost is what made it cheap");
    assert_eq!(run(50.0).alphas(), found.alphas(), "the same seed, the same coefficients");
    // It learns in its bits.
    let plain = Patches::new(pictures(32), [8, 2], Cut::Middle, 0).unwrap();
    let network = Upscaler::of(&cheapest, 0, &device()).unwrap();
    let adam = OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let settings = Settings::new(8, vec![Phase::new(120, 5e-3, adam)]);
    let trainer = Trainer::new(&plain, &Restore, &settings, Device::flex());
    let before = trainer.heldout_loss(&network, &plain).unwrap().loss;
    let outcome = trainer.run(network, &mut Silent::default()).unwrap();
    let after = trainer.heldout_loss(&outcome.module, &plain).unwrap().loss;
    assert!(after < 0.5 * before, "{before} {after}");
}
