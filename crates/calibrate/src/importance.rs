//! Token importance: which tokens count for how much in the second moments of a block.
//!
//! Source: RSQ (Sung, Yadav, Li, Yoon, Bansal, arXiv:2503.01820, section 4). Scores of a sequence are brought to `[r_min, 1]`,
//! then scaled to the mean one, and multiply the squared error: `H = sum_t w_t x_t x_tᵀ`. Scores are those of the block as it was
//! before it is treated, on the inputs that the treated blocks before it give, and hold for all its sites.
//!
//! Departure: the paper writes `R X`, so that an error would count `r²`; its code multiplies with `√r`. Both are here
//! ([`Importance::power`]), the code's as default. Tokens of a padding have weight 0 and no part in the range.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

/// What makes a token important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// All tokens alike: what GPTQ does.
    Uniform,
    /// How much attention the token gets: its column in the attention, summed over heads and queries (AttnCon).
    Attention,
    /// The norm of its hidden state before the block (ActNorm).
    Norm,
    /// How little the block changes its hidden state (ActDiff).
    Change,
    /// Its mean squared distance from the other hidden states of the sequence (TokenSim).
    Distance,
    /// How rarely its id occurs in the calibration data (TokenFreq).
    Rarity,
    /// Whether it is among the first eighth of the sequence; others do not count at all (FirstN).
    First,
    /// Whether it is among the first or last thirty-second part; others do not count at all (First&LastN).
    FirstAndLast,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Uniform,
        Self::Attention,
        Self::Norm,
        Self::Change,
        Self::Distance,
        Self::Rarity,
        Self::First,
        Self::FirstAndLast,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Attention => "attention",
            Self::Norm => "norm",
            Self::Change => "change",
            Self::Distance => "distance",
            Self::Rarity => "rarity",
            Self::First => "first",
            Self::FirstAndLast => "first-and-last",
        }
    }
}

/// What is done to weights that are known, for experiments: the same numbers for other tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// Nothing.
    #[default]
    None,
    /// They are dealt out at random within the sequence, by this seed.
    Shuffled(u64),
    /// The most important token counts least: `1 + r_min - r`.
    Reversed,
}

/// Settings of token importance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Importance {
    /// What makes a token important.
    pub strategy: Strategy,
    /// Weight of the least important token beside that of the most important, in `(0, 1]`.
    pub r_min: f64,
    /// 1: the squared error of a token counts `r`; 2: it counts `r²`.
    pub power: u8,
    /// For experiments.
    pub control: Control,
}

impl Default for Importance {
    fn default() -> Self {
        Self { strategy: Strategy::Attention, r_min: 0.005, power: 1, control: Control::None }
    }
}

impl Importance {
    /// What is wrong with the settings, if anything is.
    pub fn problem(&self) -> Option<String> {
        if !(self.r_min > 0.0 && self.r_min <= 1.0) {
            return Some(format!("r_min is {}, expected a number above 0 and at most 1", self.r_min));
        }
        (!matches!(self.power, 1 | 2)).then(|| format!("the power is {}, expected 1 or 2", self.power))
    }

    /// From scores of the tokens of a sequence to weights with the mean one; `keep` tells which tokens count. `item` names the
    /// sequence, for what is drawn.
    pub fn weights(&self, scores: &[f64], keep: &[bool], item: u64) -> Vec<f64> {
        let kept: Vec<usize> = (0..scores.len()).filter(|&t| keep[t]).collect();
        let part =
            |t: usize, n: usize| kept.get(..n.max(1).min(kept.len())).is_some_and(|first| first.contains(&t));
        let n = kept.len();
        let mut r: Vec<f64> = match self.strategy {
            // Others do not count at all: the range of the scores says nothing then.
            Strategy::First => kept.iter().map(|&t| f64::from(u8::from(part(t, n / 8)))).collect(),
            Strategy::FirstAndLast => {
                let m = (n / 32).max(1).min(n);
                (0..n).map(|i| f64::from(u8::from(i < m || i + m >= n))).collect()
            }
            _ => self.ranged(&kept.iter().map(|&t| scores[t]).collect::<Vec<_>>()),
        };
        match self.control {
            Control::None => {}
            Control::Shuffled(seed) => Stream::new(seed, "calibrate/importance", 0, item).shuffle(&mut r),
            Control::Reversed => r.iter_mut().for_each(|r| *r = 1.0 + self.r_min - *r),
        }
        if self.power == 2 {
            r.iter_mut().for_each(|r| *r *= *r);
        }
        let sum: f64 = r.iter().sum();
        let mut weights = vec![0.0; scores.len()];
        for (&t, r) in kept.iter().zip(r) {
            weights[t] = if sum > 0.0 { r * n as f64 / sum } else { 1.0 };
        }
        weights
    }

    /// `[r_min, 1]`; all ones where the scores do not differ.
    fn ranged(&self, scores: &[f64]) -> Vec<f64> {
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = most - least;
        if self.strategy == Strategy::Uniform || !(range.is_finite() && range > 0.0) {
            return vec![1.0; scores.len()];
        }
        let ranged = |score: &f64| (score - least) / range * (1.0 - self.r_min) + self.r_min;
        scores.iter().map(|score| ranged(score).clamp(self.r_min, 1.0)).collect()
    }
}

/// Norms of rows.
pub(crate) fn norms(rows: &[f32], width: usize) -> Vec<f64> {
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    rows.chunks_exact(width).map(norm).collect()
}

/// Mean squared distance of each row from all rows that count.
pub(crate) fn distances(rows: &[f32], width: usize, keep: &[bool]) -> Vec<f64> {
    let (mut mean, mut power, mut n) = (vec![0.0f64; width], 0.0, 0.0f64);
    for (row, _) in rows.chunks_exact(width).zip(keep).filter(|(_, keep)| **keep) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
        power += row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        n += 1.0;
    }
    let n = n.max(1.0);
    let distance = |row: &[f32]| {
        let (own, dot) = row.iter().zip(&mean).fold((0.0, 0.0), |(own, dot), (&x, m)| {
            let x = f64::from(x);
            (own + x * x, dot + x * m)
        });
        own - 2.0 * dot / n + power / n
    };
    rows.chunks_exact(width).map(distance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn scores_are_ranged_and_have_the_mean_one() {
        let importance = Importance { r_min: 0.1, ..Importance::default() };
        let weights = importance.weights(&[1.0, 3.0, 2.0, 9.0], &[true, true, true, false], 0);
        // r = 0.1, 1, 0.55; the padding counts for nothing and is not in the range.
        let r: Vec<f64> = [0.1, 1.0, 0.55].map(|r| r * 3.0 / 1.65).into();
        assert!(close(&weights, &[r[0], r[1], r[2], 0.0]));
        let squared = Importance { power: 2, ..importance }.weights(&[1.0, 3.0], &[true; 2], 0);
        assert!(close(&squared, &[0.01 * 2.0 / 1.01, 2.0 / 1.01]));
        let reversed =
            Importance { control: Control::Reversed, ..importance }.weights(&[1.0, 3.0], &[true; 2], 0);
        assert!(close(&reversed, &[2.0 / 1.1, 0.2 / 1.1]));
    }

    #[test]
    fn equal_scores_are_equal_weights() {
        for strategy in [Strategy::Uniform, Strategy::Attention] {
            let importance = Importance { strategy, ..Importance::default() };
            assert!(close(&importance.weights(&[0.5; 3], &[true; 3], 0), &[1.0; 3]));
        }
        let uniform = Importance { strategy: Strategy::Uniform, ..Importance::default() };
        assert!(close(&uniform.weights(&[0.5, 7.0], &[true; 2], 0), &[1.0; 2]));
    }

    #[test]
    fn a_shuffle_keeps_the_histogram_and_moves_it() {
        let scores: Vec<f64> = (0..20).map(f64::from).collect();
        let importance = Importance::default();
        let plain = importance.weights(&scores, &[true; 20], 3);
        let shuffled =
            Importance { control: Control::Shuffled(1), ..importance }.weights(&scores, &[true; 20], 3);
        assert!(!close(&plain, &shuffled));
        let sorted = |mut weights: Vec<f64>| {
            weights.sort_by(f64::total_cmp);
            weights
        };
        assert!(close(&sorted(plain), &sorted(shuffled)));
    }

    #[test]
    fn the_first_tokens_alone() {
        let first = Importance { strategy: Strategy::First, ..Importance::default() };
        let weights = first.weights(&[0.0; 16], &[true; 16], 0);
        assert_eq!(weights.iter().filter(|w| **w > 0.0).count(), 2);
        assert!((weights.iter().sum::<f64>() - 16.0).abs() < 1e-12 && weights[0] == 8.0);
        let both = Importance { strategy: Strategy::FirstAndLast, ..Importance::default() };
        let weights = both.weights(&[0.0; 64], &[true; 64], 0);
        let counted: Vec<usize> = (0..64).filter(|&t| weights[t] > 0.0).collect();
        assert_eq!(counted, [0, 1, 62, 63]);
    }

    #[test]
    fn distances_are_those_of_all_pairs() {
        let rows = [0.0f32, 1.0, 2.0, -1.0, 0.5, 0.5, 9.0, 9.0];
        let keep = [true, true, true, false];
        let found = distances(&rows, 2, &keep);
        for t in 0..3 {
            let one = |u: usize| -> f64 {
                (0..2).map(|i| f64::from(rows[2 * t + i] - rows[2 * u + i]).powi(2)).sum()
            };
            let expected = (0..3).map(one).sum::<f64>() / 3.0;
            assert!((found[t] - expected).abs() < 1e-9);
        }
        assert!(close(&norms(&[3.0, 4.0], 2), &[5.0]));
    }

    #[test]
    fn settings_out_of_range_are_told() {
        assert_eq!(Importance::default().problem(), None);
        assert!(Importance { r_min: 0.0, ..Importance::default() }.problem().is_some());
        assert!(Importance { power: 3, ..Importance::default() }.problem().is_some());
    }
}
