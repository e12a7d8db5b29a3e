//! Clip factors of activations, searched together over short blocks of layers that depend on each other: Q-VLM.
//!
//! Source: Wang et al., arXiv:2410.08119 (NeurIPS 2024). A range of activations that is shrunk by a factor loses its outliers and gains
//! finer steps. What is best for one layer depends on what was chosen for the one before; to search all layers together is exponential.
//! The entropy of the quantized activations says cheaply where the dependence is strong: there neighbours make a block, and the factors of
//! a block are searched together, by the error of what the block gives, `mean |y - ŷ|^p` with `p = 1/2`.
//!
//! Here are the parts that know no network: the entropy, the partition, and the search over an error that the caller measures. With
//! blocks of one layer this is the usual search layer by layer.
//!
//! The program of the authors scores each layer by the error of its own input, and has the block in its paper only; here the
//! block's output decides, as the paper says. Its other proxy, a conditional entropy between inputs of equal width, is not here.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How the factors of a block are searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Every combination.
    #[default]
    Enumerate,
    /// One layer after the other while the others stay, in a few sweeps.
    Descend,
}

/// Settings of the search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipSearch {
    /// How a block is searched.
    pub way: Way,
    /// Layers of a block, at most; 1 searches layer by layer.
    pub longest: usize,
    /// Factors that are tried: 1, `1 - spacing`, and so on.
    pub count: usize,
    /// From one factor to the next.
    pub spacing: f64,
    /// The exponent `p` of the error.
    pub power: f64,
    /// Sweeps of [`Way::Descend`].
    pub sweeps: usize,
    /// Tokens, or images, that errors and entropies are measured on, about.
    pub rows: usize,
}

impl Default for ClipSearch {
    fn default() -> Self {
        Self { way: Way::Enumerate, longest: 3, count: 7, spacing: 0.1, power: 0.5, sweeps: 2, rows: 2048 }
    }
}

/// Combinations of one block, at most.
const MOST: usize = 4096;

impl ClipSearch {
    /// The usual search, layer by layer.
    pub fn layerwise() -> Self {
        Self { longest: 1, ..Self::default() }
    }

    /// The factor of a candidate; that of the first is 1.
    pub fn factor(&self, candidate: usize) -> f64 {
        1.0 - self.spacing * candidate as f64
    }

    /// What is wrong with the settings.
    pub fn problem(&self) -> Option<String> {
        let Self { way, longest, count, power, sweeps, rows, .. } = *self;
        let least = self.factor(count.saturating_sub(1));
        if longest == 0 || count == 0 || rows == 0 || (way == Way::Descend && sweeps == 0) {
            return Some("layers of a block, factors, sweeps and rows have to be at least 1".into());
        }
        if !(least > 0.0 && least <= 1.0) {
            return Some(format!("the last factor is {least}, expected one above 0 and at most 1"));
        }
        if !(power > 0.0 && power.is_finite()) {
            return Some(format!("the exponent of the error is {power}, expected a positive number"));
        }
        let all = (0..longest).try_fold(1usize, |all, _| all.checked_mul(count).filter(|&all| all <= MOST));
        if way == Way::Enumerate && all.is_none() {
            return Some(format!(
                "{count} factors for each of {longest} layers are more than {MOST} combinations\nhint: search them by turns"
            ));
        }
        None
    }
}

/// Entropy of quantized activations over tokens, summed up row by row.
///
/// With `p = |x̂|` of a channel, divided by its sum over tokens: the mean over channels of `-Σ p ln p`, in nats.
#[derive(Clone, Debug, PartialEq)]
pub struct Entropy {
    /// `Σ a` and `Σ a ln a` of each channel.
    sums: Vec<[f64; 2]>,
}

impl Entropy {
    /// Nothing seen yet.
    pub fn new(channels: usize) -> Self {
        Self { sums: vec![[0.0; 2]; channels] }
    }

    /// Rows `[n, channels]`, rounded; those of weight 0 are padding.
    pub fn see(&mut self, rows: &[f32], weights: Option<&[f64]>) {
        for (i, row) in rows.chunks_exact(self.sums.len().max(1)).enumerate() {
            if weights.is_some_and(|weights| weights[i] == 0.0) {
                continue;
            }
            for ([sum, log], &x) in self.sums.iter_mut().zip(row).filter(|(_, x)| **x != 0.0) {
                let a = f64::from(x.abs());
                *sum += a;
                *log += a * a.ln();
            }
        }
    }

    /// The entropy; a channel of zeros has none.
    pub fn nats(&self) -> f64 {
        let of = |&[sum, log]: &[f64; 2]| if sum > 0.0 { sum.ln() - log / sum } else { 0.0 };
        self.sums.iter().map(of).sum::<f64>() / self.sums.len().max(1) as f64
    }
}

/// Blocks of layers, from the proxy of each: a layer joins the block before it if the proxy of its predecessor is at least the mean of all
/// proxies so far, that one among them, and the block is shorter than `longest`. Where `begins` says so, a new block begins in any case.
pub fn partition(proxies: &[f64], begins: &[bool], longest: usize) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let (mut sum, mut joins) = (0.0, false);
    for (k, &proxy) in proxies.iter().enumerate() {
        match blocks.last_mut() {
            Some(block) if joins && block.len() < longest && !begins.get(k).is_some_and(|&b| b) => {
                block.end = k + 1;
            }
            _ => blocks.push(k..k + 1),
        }
        sum += proxy;
        joins = proxy >= sum / (k + 1) as f64;
    }
    blocks
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The candidate of each layer.
    pub chosen: Vec<usize>,
    /// The error at the start.
    pub before: f64,
    /// The error of what was chosen: at most that.
    pub after: f64,
    /// How often the error was measured.
    pub evaluations: usize,
}

/// Searches the candidates of the layers of a block from `start` on. Among equals, the start stays, or the first in order.
///
/// # Errors
/// Those of `error`.
pub fn search<E>(
    start: &[usize],
    settings: &ClipSearch,
    mut error: impl FnMut(&[usize]) -> Result<f64, E>,
) -> Result<Found, E> {
    let before = error(start)?;
    let mut found = Found { chosen: start.to_vec(), before, after: before, evaluations: 1 };
    let mut take = |candidate: &[usize], found: &mut Found| -> Result<(), E> {
        let at = error(candidate)?;
        found.evaluations += 1;
        if at < found.after {
            (found.after, found.chosen) = (at, candidate.to_vec());
        }
        Ok(())
    };
    match settings.way {
        Way::Enumerate => {
            let all = settings.count.pow(start.len() as u32);
            for number in 0..all {
                let digit = |layer: usize| {
                    number / settings.count.pow((start.len() - 1 - layer) as u32) % settings.count
                };
                let candidate: Vec<usize> = (0..start.len()).map(digit).collect();
                if candidate != start {
                    take(&candidate, &mut found)?;
                }
            }
        }
        Way::Descend => {
            for _ in 0..settings.sweeps {
                let begun = found.chosen.clone();
                for layer in 0..start.len() {
                    let mut candidate = found.chosen.clone();
                    let kept = candidate[layer];
                    for at in (0..settings.count).filter(|&at| at != kept) {
                        candidate[layer] = at;
                        take(&candidate, &mut found)?;
                    }
                }
                if found.chosen == begun {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// `Σ |a - b|^p`, and how many numbers that are; rows of `width` and weight 0 do not count.
pub fn powered(a: &[f32], b: &[f32], width: usize, weights: Option<&[f64]>, power: f64) -> (f64, usize) {
    let (mut sum, mut count) = (0.0, 0);
    for (i, (a, b)) in a.chunks(width.max(1)).zip(b.chunks(width.max(1))).enumerate() {
        let weight = weights.map_or(1.0, |weights| weights[i]);
        if weight == 0.0 {
            continue;
        }
        let row: f64 = match power == 0.5 {
            true => a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs().sqrt())).sum(),
            false => a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()).powf(power)).sum(),
        };
        sum += weight * row;
        count += a.len();
    }
    (sum, count)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use trimtab_math::random::Stream;

    use super::*;

    #[test]
    fn entropy_by_hand_and_in_parts() {
        // Channels: alike over four tokens, all on one, none at all, and 1/4, 3/4.
        let rows = [1.0, 0.0, 0.0, 1.0, -1.0, 5.0, 0.0, -3.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0];
        let mut whole = Entropy::new(4);
        whole.see(&rows, None);
        let quarters = -(0.25f64 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
        assert!((whole.nats() - (4.0f64.ln() + quarters) / 4.0).abs() < 1e-12, "{}", whole.nats());
        let mut parts = Entropy::new(4);
        parts.see(&rows[..8], None);
        parts.see(&rows[8..], None);
        assert_eq!(parts, whole);
        // A factor changes nothing; padding counts for nothing; control: a token that counts does.
        let mut scaled = Entropy::new(4);
        scaled.see(&rows.map(|x| 8.0 * x), None);
        assert!((scaled.nats() - whole.nats()).abs() < 1e-12);
        let padded = [&rows[..], &[9.0; 4]].concat();
        let mut masked = Entropy::new(4);
        masked.see(&padded, Some(&[1.0, 0.5, 1.0, 1.0, 0.0]));
        assert_eq!(masked, whole);
        masked.see(&[9.0; 4], None);
        assert_ne!(masked, whole);
    }

    #[test]
    fn blocks_by_hand() {
        // Means so far: 2, 1.5, 2, 2, 2, 1.83.
        let (proxies, none) = ([2.0, 1.0, 3.0, 2.0, 2.0, 1.0], [false; 6]);
        assert_eq!(partition(&proxies, &none, 3), [0..2, 2..5, 5..6]);
        assert_eq!(partition(&proxies, &none, 9), [0..2, 2..6]);
        assert_eq!(partition(&proxies, &none, 2), [0..2, 2..4, 4..6]);
        let single: Vec<_> = (0..6).map(|k| k..k + 1).collect();
        assert_eq!(partition(&proxies, &none, 1), single);
        // A border that nothing crosses.
        let begins = [true, false, false, true, false, false];
        assert_eq!(partition(&proxies, &begins, 3), [0..2, 2..3, 3..6]);
        assert!(partition(&[], &[], 3).is_empty());
    }

    /// An error in which the best of a layer depends on the others.
    fn coupled(n: usize, seed: u64) -> impl Fn(&[usize]) -> f64 {
        let mut stream = Stream::new(seed, "test/qvlm", 0, 0);
        let table: Vec<f64> = (0..7usize.pow(n as u32)).map(|_| stream.uniform()).collect();
        move |at| table[at.iter().fold(0, |sum, &digit| 7 * sum + digit)]
    }

    #[test]
    fn every_combination_is_tried_and_the_best_is_taken() {
        for n in 1..=3 {
            for seed in 0..20 {
                let error = coupled(n, seed);
                let run = |way| {
                    let settings = ClipSearch { way, ..ClipSearch::default() };
                    search(&vec![0; n], &settings, |at| Ok::<_, Infallible>(error(at))).unwrap()
                };
                let (whole, turns) = (run(Way::Enumerate), run(Way::Descend));
                let least = (0..7usize.pow(n as u32))
                    .map(|i| error(&(0..n).map(|d| i / 7usize.pow(d as u32) % 7).collect::<Vec<_>>()))
                    .fold(f64::INFINITY, f64::min);
                assert_eq!((whole.after, whole.evaluations), (least, 7usize.pow(n as u32)));
                assert_eq!(error(&whole.chosen), whole.after);
                assert!(whole.after <= turns.after && turns.after <= turns.before);
                assert!(turns.evaluations <= 1 + 2 * 6 * n);
                if n == 1 {
                    assert_eq!(whole.chosen, turns.chosen, "one layer: both are the usual search");
                }
            }
        }
        // Control: where layers depend on each other, turns miss the best now and then.
        let missed = (0..20).filter(|&seed| {
            let error = coupled(3, seed);
            let run = |way| {
                search(&[0; 3], &ClipSearch { way, ..ClipSearch::default() }, |at| {
                    Ok::<_, Infallible>(error(at))
                })
                .unwrap()
                .after
            };
            run(Way::Descend) > run(Way::Enumerate)
        });
        assert!(missed.count() > 5);
    }

    #[test]
    fn what_is_no_better_changes_nothing() {
        for way in [Way::Enumerate, Way::Descend] {
            let settings = ClipSearch { way, ..ClipSearch::default() };
            let flat = search(&[2, 0], &settings, |_| Ok::<_, Infallible>(1.0)).unwrap();
            assert_eq!((flat.chosen, flat.after), (vec![2, 0], 1.0));
            assert!(search(&[0], &settings, |_| Err::<f64, &str>("no")).is_err());
        }
    }

    #[test]
    fn settings_that_make_no_search_are_named() {
        let fine = ClipSearch::default();
        assert_eq!(fine.problem(), None);
        assert!((fine.factor(6) - 0.4).abs() < 1e-12 && fine.factor(0) == 1.0);
        for wrong in [
            ClipSearch { longest: 0, ..fine },
            ClipSearch { count: 11, ..fine },
            ClipSearch { spacing: -0.1, ..fine },
            ClipSearch { spacing: f64::NAN, ..fine },
            ClipSearch { power: 0.0, ..fine },
            ClipSearch { longest: 5, ..fine },
            ClipSearch { way: Way::Descend, sweeps: 0, ..fine },
        ] {
            assert!(wrong.problem().is_some(), "{wrong:?}");
        }
        assert_eq!(ClipSearch { longest: 5, way: Way::Descend, ..fine }.problem(), None);
    }

    #[test]
    fn the_error_by_hand() {
        let (a, b) = ([1.0, 2.0, 3.0, 9.0], [1.0, -2.0, 4.0, 0.0]);
        assert_eq!(powered(&a, &b, 2, None, 0.5), (2.0 + 1.0 + 3.0, 4));
        assert_eq!(powered(&a, &b, 2, Some(&[2.0, 0.0]), 0.5), (4.0, 2));
        assert_eq!(powered(&a, &b, 2, None, 2.0), (16.0 + 1.0 + 81.0, 4));
    }
}
