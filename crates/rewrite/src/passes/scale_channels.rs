//! Scales between norms and the maps that read them.
//!
//! SmoothQuant (Xiao et al., arXiv:2211.10438, equation 4): channel `c` of what a norm gives is divided by
//! `s_c = max|x_c|^alpha / max|W_c|^(1 - alpha)`, and the columns of the maps that read it are multiplied with it, so that loud
//! channels of activations become louder columns of weights. `max|W_c|` is over all maps that read the norm.
//!
//! Departure: a channel that is never seen, or that no map reads, keeps the factor one; all factors of a norm are divided by
//! their geometric mean, which changes no quantizer and keeps the norm's gain near one.

use std::collections::BTreeMap;
use std::sync::Arc;

use trimtab_nn::NormEdge;

use super::{MoveScales, no_free_norm};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass, Ranges};

/// The pass.
#[derive(Clone, Debug)]
pub struct ScaleChannels {
    /// How much of the range of the activations moves into the weights, from 0 to 1.
    pub alpha: f64,
    /// Largest magnitude of what each norm gives, channel by channel.
    pub ranges: Option<Arc<Ranges>>,
}

impl EquivalentRewrite for ScaleChannels {
    fn pass(&self) -> Pass {
        Pass::ScaleChannels
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        let fail = |message: String| Error::Setting { pass: name, message };
        if !(0.0..=1.0).contains(&self.alpha) {
            return Err(fail(format!("alpha is {}, expected a number from 0 to 1", self.alpha)));
        }
        let norms: Vec<NormEdge> = draft.wiring.free_norms().cloned().collect();
        if norms.is_empty() {
            return Err(Error::refused(name, no_free_norm(draft)));
        }
        let ranges =
            self.ranges.as_ref().ok_or_else(|| fail("it needs the ranges of what norms give".into()))?;
        let (mut factors, mut notes) = (BTreeMap::new(), Vec::new());
        for norm in &norms {
            let Some(seen) = ranges.get(&norm.name) else {
                notes.push(format!("\"{}\": no site sees what it gives; it stays", norm.name));
                continue;
            };
            let n = norm.axis.size();
            if seen.len() != n {
                return Err(fail(format!(
                    "\"{}\" has {n} channels, {} ranges are given",
                    norm.name,
                    seen.len()
                )));
            }
            let mut weights = vec![0.0f64; n];
            for reader in &norm.readers {
                let (matrix, cols) = (draft.matrix(reader)?, reader.dims[1]);
                for row in matrix[reader.rows.start * cols..reader.rows.end * cols].chunks(cols) {
                    let channels = row[reader.cols.clone()].chunks(reader.spread);
                    for (largest, w) in weights.iter_mut().zip(channels) {
                        *largest = w.iter().fold(*largest, |m, w| m.max(w.abs()));
                    }
                }
            }
            factors.insert(norm.name.clone(), self.factors(seen, &weights));
        }
        if factors.is_empty() {
            return Err(Error::refused(name, notes.join("\n")));
        }
        let applied = MoveScales { factors }.apply(draft)?;
        Ok(Applied { notes, ..applied })
    }
}

impl ScaleChannels {
    fn factors(&self, seen: &[f64], weights: &[f64]) -> Arc<[f64]> {
        let log = |(x, w): (&f64, &f64)| {
            (*x > 0.0 && *w > 0.0).then(|| self.alpha * x.ln() - (1.0 - self.alpha) * w.ln())
        };
        let logs: Vec<Option<f64>> = seen.iter().zip(weights).map(log).collect();
        let known: Vec<f64> = logs.iter().copied().flatten().collect();
        let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
        logs.into_iter().map(|log| log.map_or(1.0, |log| (log - mean).exp())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_moves_the_range() {
        let scales =
            |alpha| ScaleChannels { alpha, ranges: None }.factors(&[8.0, 2.0, 0.0], &[1.0, 1.0, 1.0]);
        // Ranges 8 and 2 have the geometric mean 4.
        let close = |a: &[f64], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(&scales(1.0), [2.0, 0.5, 1.0]));
        assert!(close(&scales(0.0), [1.0, 1.0, 1.0]));
        assert!(close(&scales(0.5), [2f64.sqrt(), 0.5f64.sqrt(), 1.0]));
    }
}
