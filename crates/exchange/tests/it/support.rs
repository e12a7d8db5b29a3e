//! Random tensors, and functions run on every rank of a group.

use trimtab_exchange::{Communicator, Compressor, Input, Reduced, Threads};
use trimtab_math::random::Stream;

/// Runs `f` on every rank, each on its own thread; results by rank.
pub fn on_ranks<T: Send>(n: usize, f: impl Fn(&Threads) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let f = &f;
        let ranks: Vec<_> = Threads::ranks(n).into_iter().map(|comm| scope.spawn(move || f(&comm))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Normal numbers named by what they are for.
pub fn normal(purpose: &str, step: u64, item: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(11, purpose, step, item);
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// A matrix of two strong directions and noise, different on every rank.
pub fn gradient(rank: usize, step: u64, n: usize, m: usize) -> Vec<f32> {
    let mut values = normal("noise", step, rank as u64, n * m);
    for direction in 0..2 {
        let left = normal("left", direction, 0, n);
        let right = normal("right", direction, 0, m);
        for (i, value) in values.iter_mut().enumerate() {
            *value = 0.3 * *value + left[i / m] * right[i % m];
        }
    }
    values
}

/// Mean of several vectors, in `f64`.
pub fn mean(all: &[Vec<f32>]) -> Vec<f64> {
    let sum = |i: usize| all.iter().map(|v| f64::from(v[i])).sum::<f64>();
    (0..all[0].len()).map(|i| sum(i) / all.len() as f64).collect()
}

/// Largest difference.
pub fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// What one matrix of a run became on one rank.
pub struct Trace {
    /// Input of the last step: gradient plus residual.
    pub corrected: Vec<f32>,
    pub reduced: Reduced,
}

/// `steps` exchanges of one matrix with error feedback on `ranks` threads; the last step of every rank.
pub fn run(
    ranks: usize,
    steps: u64,
    [n, m, level]: [usize; 3],
    make: impl Fn() -> Box<dyn Compressor> + Sync,
) -> Vec<Trace> {
    on_ranks(ranks, |comm| {
        let mut compressor = make();
        let mut residual = vec![0.0f32; n * m];
        let mut last = None;
        for step in 0..steps {
            let mut values = gradient(comm.rank(), step, n, m);
            values.iter_mut().zip(&residual).for_each(|(g, r)| *g += r);
            let input = Input { name: "w", n, m, level, values: &values };
            let reduced = compressor.reduce(&[input], comm).unwrap().unwrap().remove(0);
            residual = reduced.residual.clone().unwrap_or(vec![0.0; n * m]);
            last = Some(Trace { corrected: values, reduced });
        }
        last.unwrap()
    })
}
