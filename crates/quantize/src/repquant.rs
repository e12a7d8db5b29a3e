//! What makes quantized activations cheaper: learned ends of their ranges, and weights that absorb what is left. RepQuant.
//!
//! Source: Li et al., arXiv:2402.05628, on top of [`crate::repq`]. Two parts that the abstract names and no program shows; how they are
//! done here is our choice.
//!
//! *Dual clipping*: each channel of a norm's output gets its ends by descent, `u_d = σ(a_d) max_d`, `l_d = σ(c_d) min_d`, on the output
//! error of the maps behind it, `‖(X - X̂) Wᵀ‖²`. Rounding passes gradients on, clipping gives them to the end that it clips at. Symmetric
//! codes have one end, the far one, that sets their step: `u_d = -l_d = σ(a_d) max |x_d|`. What was learned is taken only if it is better
//! on rows that it was not learned on.
//!
//! *Weights*: with `x̂` the quantized input of a map, `W* = (W X X̂ᵀ + λ W)(X̂ X̂ᵀ + λ I)⁻¹` is the map that comes closest to `W x`, and codes
//! are chosen for it instead of `W`.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use serde::{Deserialize, Serialize};
use trimtab_io::{ActivationScheme, ActivationStep};
use trimtab_math::adam::Adam;
use trimtab_math::linalg::{Damping, Square, cholesky_damped};
use trimtab_math::random::Stream;

use crate::error::{Error, Result};

/// How ends are learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClippingSettings {
    /// Steps of Adam; its rate is a tenth in the second half.
    pub steps: usize,
    /// Rate. A logit moves by about the rate a step: from the outermost end to a tenth of it is six away.
    pub rate: f64,
    /// Rows of a step.
    pub batch: usize,
    /// Seed of the rows of each step.
    pub seed: u64,
}

impl Default for ClippingSettings {
    fn default() -> Self {
        Self { steps: 300, rate: 5e-2, batch: 512, seed: 0 }
    }
}

/// Steps of channels, and the output error on held-out rows before and after they were learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Clipped {
    /// The steps: what was learned, or what was given if that was better.
    pub steps: Vec<ActivationStep>,
    /// Mean squared output error of what was given.
    pub before: f64,
    /// Of what is taken.
    pub after: f64,
}

/// One row in so many is not learned on.
const HELD_OUT: usize = 4;

/// Ends of the channels of `rows` (`[n, d]`), for maps whose sum of `Wᵀ W` is `maps`, from `start` on.
///
/// # Errors
/// [`Error::Setting`] for fewer rows than can be held out of, or another number of channels or steps.
pub fn clip(
    rows: &[f32],
    maps: &Square,
    start: &[ActivationStep],
    scheme: ActivationScheme,
    settings: &ClippingSettings,
) -> Result<Clipped> {
    let d = start.len();
    let n = rows.len().checked_div(d).unwrap_or(0);
    if n < 2 * HELD_OUT || rows.len() != n * d || maps.n() != d {
        let found = format!("{} numbers for {d} channels, maps of {}", rows.len(), maps.n());
        return Err(Error::Setting {
            what: "dual clipping: rows",
            expected: "rows of as many channels",
            found,
        });
    }
    let part = |held: bool| -> Vec<f32> {
        let rows = rows.chunks(d).enumerate().filter(|(i, _)| (i % HELD_OUT == HELD_OUT - 1) == held);
        rows.flat_map(|(_, row)| row.iter().copied()).collect()
    };
    let (learned_on, held_out) = (part(false), part(true));
    let mut ends = Ends::of(rows, start, scheme);
    let before = error(&held_out, maps, start, scheme);
    let count = learned_on.len() / d;
    let mut adam = Adam::new(ends.logits.len(), [0.9, 0.999], 1e-8);
    let mut logits: Vec<f32> = ends.logits.iter().map(|&logit| logit as f32).collect();
    let mut stream = Stream::new(settings.seed, "repquant/clipping", 0, 0);
    for step in 0..settings.steps {
        let batch: Vec<f32> = (0..settings.batch.min(count))
            .flat_map(|_| {
                let i = stream.below(count);
                learned_on[i * d..(i + 1) * d].iter().copied()
            })
            .collect();
        let rate = if 2 * step < settings.steps { settings.rate } else { 0.1 * settings.rate };
        let gradient = ends.gradient(&batch, maps, scheme);
        let gradient: Vec<f32> = gradient.into_iter().map(|g| g as f32).collect();
        adam.step(step as i32 + 1, &mut logits, &gradient, rate);
        ends.logits = logits.iter().map(|&logit| logit.into()).collect();
    }
    let steps = ends.steps(scheme);
    let after = error(&held_out, maps, &steps, scheme);
    Ok(match after < before {
        true => Clipped { steps, before, after },
        false => Clipped { steps: start.to_vec(), before, after: before },
    })
}

/// Mean over rows of the squared output error.
fn error(rows: &[f32], maps: &Square, steps: &[ActivationStep], scheme: ActivationScheme) -> f64 {
    let highest = scheme.highest();
    let error: Vec<f64> = rows
        .iter()
        .zip(steps.iter().cycle())
        .map(|(&x, step)| f64::from(step.decode(step.code(x, highest)) - x))
        .collect();
    let through = product(&error, maps);
    let n = (rows.len() / steps.len().max(1)).max(1);
    error.iter().zip(through).map(|(e, g)| e * g).sum::<f64>() / n as f64
}

/// `E M` for rows `E` (`[n, d]`).
fn product(rows: &[f64], maps: &Square) -> Vec<f64> {
    let d = maps.n();
    let n = rows.len() / d.max(1);
    let mut out = vec![0.0; rows.len()];
    let left = MatRef::from_row_major_slice(rows, n, d);
    let right = MatRef::from_row_major_slice(maps.as_slice(), d, d);
    matmul(MatMut::from_row_major_slice_mut(&mut out, n, d), Accum::Replace, left, right, 1.0, Par::Seq);
    out
}

/// Ends of all channels by their logits.
struct Ends {
    /// `a_d`, then `c_d`; of symmetric codes `a_d` alone.
    logits: Vec<f64>,
    /// Largest and least of each channel, 0 among them.
    high: Vec<f64>,
    low: Vec<f64>,
}

impl Ends {
    fn of(rows: &[f32], start: &[ActivationStep], scheme: ActivationScheme) -> Self {
        let d = start.len();
        let (mut high, mut low) = (vec![0.0f64; d], vec![0.0f64; d]);
        for row in rows.chunks(d) {
            for ((x, high), low) in row.iter().zip(&mut high).zip(&mut low) {
                (*high, *low) = (high.max(f64::from(*x)), low.min(f64::from(*x)));
            }
        }
        if scheme.symmetric {
            // One end: the other lies as far from 0.
            for (high, low) in high.iter_mut().zip(&mut low) {
                let far = high.max(-*low);
                (*high, *low) = (far, -far);
            }
        }
        let logit = |end: f64, most: f64| {
            // As wide as rows are, at most: more has no logit.
            let share = if most > 0.0 { (end / most).clamp(0.02, 0.982) } else { 0.982 };
            (share / (1.0 - share)).ln()
        };
        let end = |step: &ActivationStep, code: u8| f64::from(step.decode(code));
        let up = start.iter().zip(&high).map(|(step, &high)| logit(end(step, scheme.highest()), high));
        let down = start.iter().zip(&low).map(|(step, &low)| logit(-end(step, 0), -low));
        let logits = up.chain(down.filter(|_| !scheme.symmetric)).collect();
        Self { logits, high, low }
    }

    /// Upper and lower end of a channel.
    fn ends(&self, channel: usize) -> [f64; 2] {
        let up = self.high[channel] * sigmoid(self.logits[channel]);
        let down = self.logits.get(self.high.len() + channel);
        [up, down.map_or(-up, |&logit| self.low[channel] * sigmoid(logit))]
    }

    fn steps(&self, scheme: ActivationScheme) -> Vec<ActivationStep> {
        let of = |channel| {
            let [up, down] = self.ends(channel);
            scheme.step(down as f32, up as f32)
        };
        (0..self.high.len()).map(of).collect()
    }

    /// Gradient of the mean squared output error by the logits.
    fn gradient(&self, rows: &[f32], maps: &Square, scheme: ActivationScheme) -> Vec<f64> {
        let d = self.high.len();
        let (steps, highest) = (self.steps(scheme), scheme.highest());
        let parts: Vec<(f64, Share)> = rows
            .iter()
            .zip(steps.iter().cycle())
            .map(|(&x, step)| {
                let code = step.code(x, highest);
                let (at, value) = (x / step.scale, step.decode(code));
                let inside = at + f32::from(step.zero);
                let clips = !(0.0..=f32::from(highest)).contains(&inside);
                let share = match inside {
                    // What clips is so many steps from 0, at either end.
                    _ if scheme.symmetric && clips => Share::Step(f64::from(value / step.scale)),
                    inside if inside > f32::from(highest) => Share::Up,
                    inside if inside < 0.0 => Share::Down,
                    _ => Share::Step(f64::from(value / step.scale - at)),
                };
                (f64::from(value - x), share)
            })
            .collect();
        let errors: Vec<f64> = parts.iter().map(|(error, _)| *error).collect();
        let through = product(&errors, maps);
        let n = (rows.len() / d.max(1)).max(1) as f64;
        let mut by_end = vec![0.0; self.logits.len()];
        for (i, ((_, share), through)) in parts.iter().zip(through).enumerate() {
            let (channel, slope) = (i % d, 2.0 * through / n);
            // A step is the range over its codes; of symmetric ones, the far end over those of one side.
            match share {
                Share::Up => by_end[channel] += slope,
                Share::Down => by_end[d + channel] += slope,
                Share::Step(share) if scheme.symmetric => {
                    by_end[channel] += slope * share / f64::from(scheme.middle() - 1);
                }
                Share::Step(share) => {
                    let per_step = slope * share / f64::from(highest);
                    by_end[channel] += per_step;
                    by_end[d + channel] -= per_step;
                }
            }
        }
        let most = self.high.iter().chain(&self.low);
        let chain = self.logits.iter().zip(most).map(|(logit, most)| {
            let share = sigmoid(*logit);
            most * share * (1.0 - share)
        });
        by_end.iter().zip(chain).map(|(end, chain)| end * chain).collect()
    }
}

/// Which end moves what a number is rounded to.
enum Share {
    /// It is the upper end.
    Up,
    /// It is the lower end.
    Down,
    /// By so much a step, as of a learned step (Esser et al., arXiv:1902.08153).
    Step(f64),
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The map `[rows, d]` that comes closest on quantized inputs to what `weight` gives on the inputs themselves: `quantized` is the
/// second moment of `x̂`, `cross` the mean of `x x̂ᵀ` (`[d, d]`), `damping` is `λ` in parts of the mean diagonal.
///
/// # Errors
/// Lengths that do not fit together; a second moment that stays singular with all damping.
pub fn absorb(weight: &[f32], quantized: &Square, cross: &Square, damping: f64) -> Result<(Vec<f32>, f64)> {
    let d = quantized.n();
    if d == 0 || !weight.len().is_multiple_of(d) || cross.n() != d {
        let found = format!("{} weights, moments of {d} and {}", weight.len(), cross.n());
        return Err(Error::Setting { what: "absorbing: weight", expected: "rows of as many inputs", found });
    }
    let rows = weight.len() / d;
    let factor = cholesky_damped(quantized, &Damping { first: damping, ..Damping::default() })?;
    // (H + λI) W*ᵀ = (W C + λ W)ᵀ.
    let wide: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
    let mut right = vec![0.0; rows * d];
    let left = MatRef::from_row_major_slice(&wide, rows, d);
    let moment = MatRef::from_row_major_slice(cross.as_slice(), d, d);
    matmul(
        MatMut::from_row_major_slice_mut(&mut right, rows, d),
        Accum::Replace,
        left,
        moment,
        1.0,
        Par::Seq,
    );
    let mut transposed = vec![0.0; rows * d];
    for o in 0..rows {
        for i in 0..d {
            transposed[i * rows + o] = right[o * d + i] + factor.shift * wide[o * d + i];
        }
    }
    let solved = factor.solve(&transposed, rows)?;
    let value = |at: usize| solved[(at % d) * rows + at / d] as f32;
    Ok(((0..rows * d).map(value).collect(), factor.shift))
}

#[cfg(test)]
mod tests;
