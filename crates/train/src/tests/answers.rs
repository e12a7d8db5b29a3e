//! Problems whose answer is known.

use super::*;

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
