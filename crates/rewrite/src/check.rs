//! Whether a rewrite left the function as it was, in numbers.

use serde::Serialize;
use trimtab_nn::{Ctx, Flow, Network, StageSource, host};

/// How far the outputs of two networks differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Change {
    /// Largest absolute difference of two outputs; infinite where one is no number.
    pub largest: f64,
    /// Largest magnitude among the outputs of the original.
    pub magnitude: f64,
}

/// Runs an input through both networks and compares what they give. Of a network of two parts whose second looks at what the
/// first gives, only the second counts.
///
/// # Errors
/// Stages that cannot be loaded, or that do not take the input.
pub fn compare<'c>(
    original: &dyn StageSource,
    rewritten: &dyn StageSource,
    input: &Flow,
    ctx: impl Fn() -> Ctx<'c>,
) -> trimtab_nn::Result<Change> {
    let run = |source: &dyn StageSource| -> trimtab_nn::Result<Vec<f32>> {
        Ok(numbers(Network::load(source)?.forward(input.clone(), &mut ctx())?))
    };
    let (before, after) = (run(original)?, run(rewritten)?);
    let mut change = Change::default();
    if before.len() != after.len() {
        change.largest = f64::INFINITY;
    }
    for (a, b) in before.iter().zip(&after) {
        let difference = f64::from(a - b).abs();
        change.largest = change.largest.max(if difference.is_nan() { f64::INFINITY } else { difference });
        change.magnitude = change.magnitude.max(f64::from(a.abs()));
    }
    Ok(change)
}

fn numbers(flow: Flow) -> Vec<f32> {
    match flow {
        Flow::Hidden(x) => host(x),
        Flow::Vector(x) => host(x),
        Flow::Image(x) => host(x),
        Flow::Tokens(_) => Vec::new(),
        Flow::Pair(both) => match *both {
            (Flow::Vector(a), second) => host(a).into_iter().chain(numbers(second)).collect(),
            (_, second) => numbers(second),
        },
    }
}
