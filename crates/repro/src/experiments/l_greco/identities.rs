//! What holds exactly: the choice of levels, and what ranks exchange.

use trimtab::floors::exchange::{
    Communicator, Compressor, ErrorTable, Input, Levels, PowerSgd, Qsgd, Reduced, ResidualOf, Result,
    RoundingMode, Threads, TopK, l_greco,
};
use trimtab::floors::math::random::Stream;

use crate::experiment::Check;

const INSTANCES: u64 = 500;
const RANKS: usize = 4;
/// A matrix of an odd shape.
const SHAPE: [usize; 2] = [40, 27];
const STEPS: u64 = 3;

/// Up to five tensors of up to five levels; errors fall and sizes grow with the level.
fn instance(seed: u64) -> Vec<ErrorTable> {
    let mut stream = Stream::new(seed, "l-greco/instance", 0, 0);
    let tensors = 1 + stream.below(5);
    let table = |i: usize| {
        let n = 1 + stream.below(5);
        let mut errors: Vec<f64> = (0..n).map(|_| stream.uniform() + 1e-3).collect();
        errors.sort_by(|a, b| b.total_cmp(a));
        let mut bytes: Vec<u64> = (0..n).map(|_| 1 + stream.below(500) as u64).collect();
        bytes.sort_unstable();
        let levels = (1..=n).collect();
        ErrorTable { name: format!("tensor {i}"), levels, errors, bytes, uniform: stream.below(n) }
    };
    (0..tensors).map(table).collect()
}

/// The fewest bytes of all combinations within the budget.
fn brute_force(tables: &[ErrorTable], budget: f64) -> Result<u64> {
    let (mut picks, mut best) = (vec![0; tables.len()], u64::MAX);
    loop {
        let levels = Levels::new(tables, picks.clone())?;
        if levels.error <= budget {
            best = best.min(levels.bytes);
        }
        let Some(i) = (0..picks.len()).find(|&i| picks[i] + 1 < tables[i].levels.len()) else {
            return Ok(best);
        };
        picks[i] += 1;
        picks[..i].fill(0);
    }
}

/// Inputs of the last step and what became of them, by rank, after [`STEPS`] steps with what was left added on.
type Traces = Vec<(Vec<f32>, Reduced)>;

fn traces(level: usize, make: &(dyn Fn() -> Box<dyn Compressor> + Sync)) -> Result<Traces> {
    let [n, m] = SHAPE;
    let run = |group: &Threads| -> Result<(Vec<f32>, Reduced)> {
        let mut compressor = make();
        let mut last = (Vec::new(), Reduced { mean: Vec::new(), residual: Some(vec![0.0; n * m]) });
        for step in 0..STEPS {
            let mut stream = Stream::new(0, "l-greco/gradient", step, group.rank() as u64);
            let residual = last.1.residual.unwrap_or_default();
            let values: Vec<f32> = residual.iter().map(|left| left + stream.normal() as f32).collect();
            let input = Input { name: "w", n, m, level, values: &values };
            let reduced = compressor.reduce(&[input], group)?.and_then(|mut all| all.pop());
            last = (values, reduced.unwrap_or(Reduced { mean: Vec::new(), residual: None }));
        }
        Ok(last)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let ranks: Vec<_> = Threads::ranks(RANKS).into_iter().map(|g| scope.spawn(move || run(&g))).collect();
        ranks.into_iter().enumerate().map(|(rank, thread)| joined(rank, thread.join())).collect()
    })
}

/// A thread that panicked is a rank that is gone.
pub(super) fn joined<T>(rank: usize, thread: std::thread::Result<Result<T>>) -> Result<T> {
    thread.unwrap_or(Err(trimtab::floors::exchange::Error::Lost { rank }))
}

fn mean_of<'a>(all: impl Iterator<Item = &'a [f32]>) -> Vec<f64> {
    let mut sum = vec![0.0; SHAPE[0] * SHAPE[1]];
    all.for_each(|one| sum.iter_mut().zip(one).for_each(|(sum, x)| *sum += f64::from(*x) / RANKS as f64));
    sum
}

/// Largest difference; not a number if one is missing.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Largest deviation of `mean(residual) + result` from `mean(input)`, and how far ranks differ in their results.
fn kept(traces: &Traces) -> [f64; 2] {
    let none: &[f32] = &[];
    let inputs = mean_of(traces.iter().map(|(input, _)| input.as_slice()));
    let left = mean_of(traces.iter().map(|(_, reduced)| reduced.residual.as_deref().unwrap_or(none)));
    let result: Vec<f64> = traces[0].1.mean.iter().map(|&x| f64::from(x)).collect();
    let sum: Vec<f64> = left.iter().zip(&result).map(|(a, b)| a + b).collect();
    let differ = traces.iter().any(|(_, reduced)| reduced.mean != traces[0].1.mean);
    [apart(&sum, &inputs), f64::from(u8::from(differ))]
}

pub(super) fn checks() -> Result<Vec<Check>> {
    let (mut off, mut over) = (0.0f64, 0.0f64);
    for seed in 0..INSTANCES {
        let tables = instance(seed);
        let uniform = Levels::uniform(&tables)?;
        let best = brute_force(&tables, uniform.error)?;
        let found = l_greco(&tables, uniform.error)?.unwrap_or_else(|| uniform.clone());
        off = off.max(found.bytes.abs_diff(best) as f64);
        over = over.max(found.bytes.saturating_sub(uniform.bytes) as f64);
        over = over.max(found.error - uniform.error);
    }
    let power = || Box::new(PowerSgd::new(0, ResidualOf::Mean)) as Box<dyn Compressor>;
    let full = traces(SHAPE[1], &power)?;
    let inputs = mean_of(full.iter().map(|(input, _)| input.as_slice()));
    let result: Vec<f64> = full[0].1.mean.iter().map(|&x| f64::from(x)).collect();
    let thin = kept(&traces(2, &power)?);
    let top = kept(&traces(500, &|| Box::new(TopK::new(true)))?);
    let codes = kept(&traces(3, &|| Box::new(Qsgd::new(0, RoundingMode::Nearest, true)))?);
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check("the choice is that of brute force, bytes (500 instances)", off, 0.0),
        check("the choice is never larger than uniform, nor of more error", over, 0.0),
        check("factors of full rank between 4 threads give the mean", apart(&result, &inputs), 1e-5),
        check("PowerSGD: mean(residual) + result = mean(input)", thin[0], 1e-5),
        check("TopK: mean(residual) + result = mean(input)", top[0], 1e-5),
        check("QSGD with feedback: mean(residual) + result = mean(input)", codes[0], 1e-5),
        check("all ranks hold the same bits, each family", thin[1] + top[1] + codes[1], 0.0),
    ])
}
