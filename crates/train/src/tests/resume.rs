//! Interrupted runs, and what an observer sees of one.

use super::*;

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
