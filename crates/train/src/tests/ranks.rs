//! Several processes.

use super::*;

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

#[test]
fn a_last_step_with_fewer_items_than_processes_is_refused_before_the_first() {
    let data = Points::noisy(24);
    let until = |samples: u64| {
        let part = phase(1, 0.05, sgd(0.0));
        let part = Phase { name: "part".into(), steps: None, samples: Some(samples), ..part };
        settings(6, vec![phase(1, 0.05, sgd(0.0)), part])
    };
    let settings = until(25);
    let trainer = Trainer::new(&data, &SquaredError, &settings, Device::flex());
    // The other rank is gone: had anything been exchanged, that would be the error.
    let group = trimtab_exchange::Threads::ranks(2).remove(0);
    let mut workers = Ranks::new(group, trimtab_exchange::ExchangeConfig::default()).unwrap();
    let error = trainer.run_with(line([0.1, 0.2], 0.0), &mut Silent::default(), &mut workers).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("phase \"part\" has a step of 1") && error.contains("hint"), "{error}");
    // Controls: one item more, or one process fewer.
    assert_eq!(trained_by(2, &data, &until(26)).len(), 2);
    assert_eq!(trained_by(1, &data, &until(25)).len(), 1);
}
