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
