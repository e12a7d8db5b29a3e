//! Every rule against its definition, step by step in f64.

use burn::module::Param;
use burn::tensor::TensorData;

use super::*;
use crate::gradients::Gradient;
use crate::settings::{Group, Paths};

/// A matrix and a vector.
#[derive(Module, Debug)]
struct Two {
    matrix: Param<Tensor<2>>,
    vector: Param<Tensor<1>>,
}

const MATRIX: [f64; 6] = [0.5, -1.5, 2.0, 0.25, -0.75, 1.0];
const VECTOR: [f64; 3] = [1.0, -2.0, 0.5];
const STEPS: usize = 20;
const RATE: f64 = 0.05;

fn two() -> Two {
    with_matrix(MATRIX)
}

fn with_matrix(matrix: [f64; 6]) -> Two {
    let device = Device::flex().autodiff();
    let floats = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let matrix = Tensor::from_data(TensorData::new(floats(&matrix), [2, 3]), &device);
    let vector = Tensor::from_data(TensorData::new(floats(&VECTOR), [3]), &device);
    Two { matrix: Param::from_tensor(matrix), vector: Param::from_tensor(vector) }
}

/// The gradient of step `t`, from 0; entries of all signs and sizes.
fn gradient(t: usize, i: usize) -> f64 {
    f64::from(((1.3 * (t as f64) + 0.7 * i as f64).sin() * (1.0 + i as f64) / 4.0) as f32)
}

fn gradients(t: usize) -> Gradients {
    let device = Device::flex();
    let make = |first: usize, shape: &[usize]| {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| gradient(t, first + i) as f32).collect();
        Gradient { shape: shape.to_vec(), values: Tensor::from_data(TensorData::new(values, [n]), &device) }
    };
    Gradients::from_iter([("matrix".to_string(), make(0, &[2, 3])), ("vector".to_string(), make(6, &[3]))])
}

/// Both tensors after all steps.
fn trained(phase: &Phase, steps: std::ops::Range<usize>) -> [Vec<f64>; 2] {
    let (mut rule, mut module) = (Optimizer::new(phase), two());
    for t in steps {
        let rates = phase.rates(1, 1);
        module = rule.step(module, gradients(t), &rates);
    }
    values(&module)
}

fn values(module: &Two) -> [Vec<f64>; 2] {
    [module.matrix.val().into_data(), module.vector.val().into_data()]
        .map(|data| data.iter::<f64>().collect())
}

fn phase(optimizer: OptimizerConfig) -> Phase {
    Phase::new(STEPS, RATE, optimizer)
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The sign, and 0 of 0.
fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// Runs a rule in f64: `update(state, x, g, t)` gives the new `x`; `first` is the index of the first gradient.
fn oracle(
    x: &[f64],
    first: usize,
    mut update: impl FnMut(&mut [Vec<f64>; 2], &[f64], &[f64], f64) -> Vec<f64>,
) -> Vec<f64> {
    let mut x = x.to_vec();
    let mut state = [vec![0.0; x.len()], vec![0.0; x.len()]];
    for t in 0..STEPS {
        let g: Vec<f64> = (0..x.len()).map(|i| gradient(t, first + i)).collect();
        x = update(&mut state, &x, &g, t as f64 + 1.0);
    }
    x
}

/// Moments of Adam; the corrected ones, or as they are.
fn moments([m, v]: &mut [Vec<f64>; 2], g: &[f64], (b1, b2): (f64, f64), t: Option<f64>) -> Vec<(f64, f64)> {
    for (i, g) in g.iter().enumerate() {
        m[i] = b1 * m[i] + (1.0 - b1) * g;
        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
    }
    let [c1, c2] = t.map_or([1.0, 1.0], |t| [1.0 - b1.powf(t), 1.0 - b2.powf(t)]);
    m.iter().zip(v.iter()).map(|(m, v)| (m / c1, v / c2)).collect()
}

#[track_caller]
fn close(found: &[f64], expected: &[f64]) {
    for (a, b) in found.iter().zip(expected) {
        // Twenty steps in f32.
        assert!((a - b).abs() < 3e-6 * (1.0 + b.abs()), "{found:?} {expected:?}");
    }
}

fn lamb(variant: LambVariant) -> OptimizerConfig {
    OptimizerConfig::Lamb { variant, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-6, weight_decay: 0.1 }
}

/// LAMB in f64: with decay and trust ratio, or (for vectors) without either.
fn lamb_oracle(x: &[f64], first: usize, adapts: bool, corrected: bool, most: f64) -> Vec<f64> {
    oracle(x, first, |state, x, g, t| {
        let decay = if adapts { 0.1 } else { 0.0 };
        let moments = moments(state, g, (0.9, 0.999), corrected.then_some(t));
        let u: Vec<f64> =
            moments.iter().zip(x).map(|((m, v), x)| m / (v.sqrt() + 1e-6) + decay * x).collect();
        let ratio = if adapts { norm(x).min(most) / norm(&u) } else { 1.0 };
        x.iter().zip(&u).map(|(x, u)| x - RATE * ratio * u).collect()
    })
}

#[test]
fn lamb_is_its_definition_in_each_variant() {
    let [matrix, vector] = trained(&phase(lamb(LambVariant::Reference)), 0..STEPS);
    close(&matrix, &lamb_oracle(&MATRIX, 0, true, true, f64::MAX));
    close(&vector, &lamb_oracle(&VECTOR, 6, false, true, f64::MAX));
    let [early, vector] = trained(&phase(lamb(LambVariant::PaperV1)), 0..STEPS);
    close(&early, &lamb_oracle(&MATRIX, 0, true, false, 10.0));
    close(&vector, &lamb_oracle(&VECTOR, 6, false, false, 10.0));
    assert!(matrix.iter().zip(&early).any(|(a, b)| (a - b).abs() > 1e-3), "the variants differ");
    // Apart from the clipping of the whole gradient, which the loop does, Nvlamb is the reference where it decays,
    let [nvlamb, _] = trained(&phase(lamb(LambVariant::Nvlamb)), 0..STEPS);
    assert_eq!(nvlamb, matrix);
    assert_eq!(lamb(LambVariant::Nvlamb).clips(), Some(1.0));
    // and Adam where it does not.
    let mut undecayed = lamb(LambVariant::Nvlamb);
    if let OptimizerConfig::Lamb { weight_decay, .. } = &mut undecayed {
        *weight_decay = 0.0;
    }
    let adam = OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-6, weight_decay: 0.0 };
    close(&trained(&phase(undecayed), 0..STEPS)[0], &trained(&phase(adam), 0..STEPS)[0]);
}

#[test]
fn a_matrix_moves_by_the_rate_times_its_norm() {
    for optimizer in
        [lamb(LambVariant::Reference), OptimizerConfig::Lars { momentum: 0.9, weight_decay: 0.01 }]
    {
        let [matrix, _] = trained(&phase(optimizer.clone()), 0..1);
        let step: Vec<f64> = matrix.iter().zip(MATRIX).map(|(a, b)| a - b).collect();
        assert!((norm(&step) - RATE * norm(&MATRIX)).abs() < 1e-6, "{optimizer:?}");
        let sgd = OptimizerConfig::Sgd { momentum: 0.0, weight_decay: 0.0 };
        let [matrix, _] = trained(&phase(sgd), 0..1);
        let step: Vec<f64> = matrix.iter().zip(MATRIX).map(|(a, b)| a - b).collect();
        assert!((norm(&step) - RATE * norm(&MATRIX)).abs() > 1e-3, "other rules do not");
    }
}

#[test]
fn the_first_version_counts_the_norm_of_a_matrix_up_to_ten() {
    // What the first step moves, in rates.
    let moved = |variant: LambVariant, factor: f64| {
        let start = MATRIX.map(|w| factor * w);
        let mut rule = Optimizer::new(&phase(lamb(variant)));
        let [matrix, _] = values(&rule.step(with_matrix(start), gradients(0), &[RATE]));
        norm(&matrix.iter().zip(start).map(|(a, b)| a - b).collect::<Vec<f64>>()) / RATE
    };
    let whole = norm(&MATRIX);
    assert!(whole < 10.0 && 8.0 * whole > 20.0);
    let near = |found: f64, expected: f64| (found - expected).abs() < 1e-3;
    assert!(near(moved(LambVariant::PaperV1, 1.0), whole));
    assert!(near(moved(LambVariant::PaperV1, 8.0), 10.0));
    assert!(near(moved(LambVariant::Reference, 8.0), 8.0 * whole), "control: others count it whole");
}

#[test]
fn lars_is_its_definition_and_normalized_descent_without_momentum() {
    let rule = |momentum: f64, decay: f64| {
        move |state: &mut [Vec<f64>; 2], x: &[f64], g: &[f64], _: f64| {
            let m = &mut state[0];
            for i in 0..x.len() {
                m[i] = momentum * m[i] + (1.0 - momentum) * (g[i] + decay * x[i]);
            }
            let ratio = norm(x) / norm(m);
            x.iter().zip(m.iter()).map(|(x, m)| x - RATE * ratio * m).collect()
        }
    };
    let lars = |momentum, weight_decay| phase(OptimizerConfig::Lars { momentum, weight_decay });
    close(
        &trained(&lars(0.9, 0.01), 0..STEPS)[0],
        &oracle(&MATRIX, 0, rule(f64::from(0.9f32), f64::from(0.01f32))),
    );
    let descent = oracle(&MATRIX, 0, |_, x, g, _| {
        x.iter().zip(g).map(|(x_i, g_i)| x_i - RATE * norm(x) / norm(g) * g_i).collect()
    });
    close(&trained(&lars(0.0, 0.0), 0..STEPS)[0], &descent);
    // A tensor of zeros has no length to go by: it moves as it would without the ratio.
    let zero = Tensor::<1>::zeros([2], &Device::flex());
    let along = Tensor::<1>::from_floats([3.0, 4.0], &Device::flex());
    assert_eq!(trust::scaled(along, &zero, None).into_data().iter::<f32>().collect::<Vec<_>>(), [3.0, 4.0]);
}

#[test]
fn the_other_rules_are_their_definitions() {
    let adagrad = oracle(&MATRIX, 0, |[v, _], x, g, _| {
        (0..x.len()).for_each(|i| v[i] += g[i] * g[i]);
        (0..x.len()).map(|i| x[i] - RATE * g[i] / (v[i].sqrt() + 1e-10)).collect()
    });
    let found = trained(&phase(OptimizerConfig::Adagrad { epsilon: 1e-10, weight_decay: 0.0 }), 0..STEPS);
    close(&found[0], &adagrad);
    let rmsprop = oracle(&MATRIX, 0, |[v, _], x, g, _| {
        (0..x.len()).for_each(|i| v[i] = 0.99 * v[i] + 0.01 * g[i] * g[i]);
        (0..x.len()).map(|i| x[i] - RATE * g[i] / (v[i].sqrt() + 1e-8)).collect()
    });
    let config = OptimizerConfig::Rmsprop { alpha: 0.99, epsilon: 1e-8, weight_decay: 0.0 };
    close(&trained(&phase(config), 0..STEPS)[0], &rmsprop);
    let lion = oracle(&MATRIX, 0, |[m, _], x, g, _| {
        let step: Vec<f64> = (0..x.len()).map(|i| sign(0.9 * m[i] + 0.1 * g[i])).collect();
        (0..x.len()).for_each(|i| m[i] = 0.99 * m[i] + 0.01 * g[i]);
        (0..x.len()).map(|i| x[i] - RATE * step[i]).collect()
    });
    let config = OptimizerConfig::Lion { beta_1: 0.9, beta_2: 0.99, weight_decay: 0.0 };
    close(&trained(&phase(config), 0..STEPS)[0], &lion);
    let adamw = oracle(&MATRIX, 0, |state, x, g, t| {
        let moments = moments(state, g, (f64::from(0.9f32), f64::from(0.95f32)), Some(t));
        let step = |((m, v), x): (&(f64, f64), &f64)| x - RATE * (m / (v.sqrt() + 1e-8) + 0.1 * x);
        moments.iter().zip(x).map(step).collect()
    });
    close(&trained(&phase(OptimizerConfig::default()), 0..STEPS)[0], &adamw);
}

#[test]
fn adagrad_norm_has_one_number_for_the_whole_model() {
    let phase = phase(OptimizerConfig::AdagradNorm { initial: 0.01 });
    let mut all: Vec<f64> = MATRIX.into_iter().chain(VECTOR).collect();
    let mut sum = 0.01;
    for t in 0..STEPS {
        let g: Vec<f64> = (0..9).map(|i| gradient(t, i)).collect();
        sum += norm(&g).powi(2);
        all.iter_mut().zip(&g).for_each(|(x, g)| *x -= RATE * g / sum.sqrt());
    }
    let [matrix, vector] = trained(&phase, 0..STEPS);
    close(&matrix, &all[..6]);
    close(&vector, &all[6..]);
}

#[test]
fn a_group_has_its_own_rule_rate_and_schedule() {
    let sgd = |momentum| OptimizerConfig::Sgd { momentum, weight_decay: 0.0 };
    let group = Group {
        paths: Paths(vec!["vec".into()]),
        optimizer: Some(OptimizerConfig::Adagrad { epsilon: 1e-10, weight_decay: 0.0 }),
        rate: Some(0.5),
        schedule: None,
    };
    let grouped = Phase { groups: vec![group], ..phase(sgd(0.9)) };
    let [matrix, vector] = trained(&grouped, 0..STEPS);
    assert_eq!(matrix, trained(&phase(sgd(0.9)), 0..STEPS)[0]);
    let adagrad = OptimizerConfig::Adagrad { epsilon: 1e-10, weight_decay: 0.0 };
    assert_eq!(vector, trained(&Phase { rate: 0.5, ..phase(adagrad) }, 0..STEPS)[1]);
    assert_eq!(grouped.rates(1, 1), [0.5, RATE]);
}

#[test]
fn state_lives_as_long_as_what_is_trained() {
    let adam = || phase(OptimizerConfig::default());
    let only = |path: &str| Phase { trainable: Paths(vec![path.into()]), ..adam() };
    let mut rule = Optimizer::new(&adam());
    rule.step(two(), gradients(0), &[RATE]);
    assert_eq!(rule.states(), 2);
    let rule = rule.succeed(&only("matrix"));
    assert_eq!(rule.states(), 1, "what is frozen loses its state");
    let rule = rule.succeed(&adam());
    assert_eq!(rule.states(), 1, "what is trained again begins without one");
    let other = phase(OptimizerConfig::Sgd { momentum: 0.9, weight_decay: 0.0 });
    assert_eq!(rule.succeed(&other).states(), 0, "another rule has another state");
}

#[test]
fn saved_states_go_on_bit_for_bit() {
    let sgd = OptimizerConfig::Sgd { momentum: 0.9, weight_decay: 0.01 };
    let lars = OptimizerConfig::Lars { momentum: 0.9, weight_decay: 0.01 };
    let norm = OptimizerConfig::AdagradNorm { initial: 0.01 };
    let adagrad = OptimizerConfig::Adagrad { epsilon: 1e-10, weight_decay: 0.0 };
    let lambs = [LambVariant::Reference, LambVariant::PaperV1].map(lamb);
    for optimizer in [OptimizerConfig::default(), sgd, lars, norm, adagrad].into_iter().chain(lambs) {
        let phase = phase(optimizer);
        let straight = trained(&phase, 0..STEPS);
        let (mut rule, mut module) = (Optimizer::new(&phase), two());
        for t in 0..7 {
            module = rule.step(module, gradients(t), &[RATE]);
        }
        let mut again = Optimizer::new(&phase);
        let parameters = crate::parameters::parameters(&module);
        again.load(rule.save().unwrap(), &parameters, &Device::flex()).unwrap();
        for t in 7..STEPS {
            module = again.step(module, gradients(t), &[RATE]);
        }
        assert_eq!(values(&module), straight, "{:?}", phase.optimizer);
        let mut forgetful = Optimizer::new(&phase);
        let part = (7..STEPS).fold(two(), |module, t| forgetful.step(module, gradients(t), &[RATE]));
        assert_ne!(values(&part), straight);
    }
}
