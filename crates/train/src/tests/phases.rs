//! Noise and phases.

use super::*;

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
