//! Perplexity by windows.

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;
use trimtab_math::stats::argmax;
use trimtab_nn::{Ctx, Flow, Network, host};

use crate::error::{Error, Result};
use crate::{Progress, on_all_threads, rows};

/// A token stream cut into windows.
///
/// With `stride == window` the windows follow each other and each is fed alone; with a shorter stride they overlap,
/// and every window scores only the tokens that no earlier one has scored. The short last window is dropped.
#[derive(Clone, Debug)]
pub struct Windows<'t> {
    windows: Vec<&'t [u32]>,
    window: usize,
    stride: usize,
}

impl<'t> Windows<'t> {
    /// Cuts `tokens`; ids must lie below `vocab`.
    pub fn cut(tokens: &'t [u32], window: usize, stride: usize, vocab: usize) -> Result<Self> {
        if window < 2 || stride == 0 || stride > window {
            return Err(Error::Window { window, stride });
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::Vocabulary { id, vocab });
        }
        let windows: Vec<_> = tokens.windows(window).step_by(stride).collect();
        if windows.is_empty() {
            return Err(Error::TooShort { found: tokens.len(), window });
        }
        Ok(Self { windows, window, stride })
    }

    /// Keeps the first `n` windows.
    pub fn take(mut self, n: usize) -> Self {
        self.windows.truncate(n);
        self
    }

    /// The windows.
    pub fn as_slices(&self) -> &[&'t [u32]] {
        &self.windows
    }

    /// First scored position of a window: the prediction made there is the first that counts.
    fn first_scored(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.window - 1 - self.stride.min(self.window - 1) }
    }

    /// Windows that are computed at once: enough rows for the kernels, few enough for the caches.
    fn batch(&self) -> usize {
        (256 / self.window).max(1)
    }
}

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LanguageScore {
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Mean negative log-likelihood, nats per token.
    pub nll: f64,
    /// Standard error of the mean over windows.
    pub nll_standard_error: f64,
    /// Predictions that were scored.
    pub tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Tokens between windows.
    pub stride: usize,
}

/// How far a treated model is from its original on a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LanguageComparison {
    /// The treated model.
    pub treated: LanguageScore,
    /// The original.
    pub original: LanguageScore,
    /// Mean `KL(original || treated)`, nats per token.
    pub kl: f64,
    /// Standard error of the mean over windows.
    pub kl_standard_error: f64,
    /// Share of positions at which both find the same token most likely.
    pub same_top1: f64,
}

/// Scores a network on windows.
pub fn score(
    network: &Network,
    windows: &Windows<'_>,
    vocab: usize,
    progress: Progress<'_>,
) -> Result<LanguageScore> {
    let sums = for_batches(windows, progress, |first, part| {
        let logits = logits(network, part)?;
        logits.expect_width(vocab)?;
        window_nlls(windows, first, part, &logits)
    })?;
    Ok(summarize(windows, &sums.concat()))
}

/// What is found of a treated network on some windows, per window.
#[derive(Default)]
struct Compared {
    nlls: Vec<f64>,
    kls: Vec<f64>,
    same_tops: usize,
}

/// Scores treated networks and their original on the same windows: a comparison for each of `treated`.
pub fn compare(
    treated: &[&Network],
    original: &Network,
    windows: &Windows<'_>,
    vocab: usize,
    progress: Progress<'_>,
) -> Result<Vec<LanguageComparison>> {
    let parts = for_batches(windows, progress, |first, part| {
        let p = logits(original, part)?;
        p.expect_width(vocab)?;
        let one = |network: &&Network| {
            let q = logits(network, part)?;
            q.expect_width(vocab)?;
            let mut found = Compared { nlls: window_nlls(windows, first, part, &q)?, ..Compared::default() };
            for w in 0..part.len() {
                let from = windows.first_scored(first + w);
                let rows = rows::map_rows(windows.window - 1 - from, |i| {
                    let row = w * windows.window + from + i;
                    let (p, q) = (p.row(row), q.row(row));
                    Some((rows::kl(p, q)?, argmax(p) == argmax(q)))
                })?;
                found.kls.push(rows.iter().map(|(kl, _)| kl).sum::<f64>());
                found.same_tops += rows.iter().filter(|(_, same)| *same).count();
            }
            Ok(found)
        };
        let found = treated.iter().map(one).collect::<Result<Vec<_>>>()?;
        Ok((window_nlls(windows, first, part, &p)?, found))
    })?;
    let nlls: Vec<f64> = parts.iter().flat_map(|(nlls, _)| nlls).copied().collect();
    let original = summarize(windows, &nlls);
    let comparison = |index: usize| {
        let parts = || parts.iter().map(move |(_, found)| &found[index]);
        let all = |values: fn(&Compared) -> &Vec<f64>| parts().flat_map(values).copied().collect::<Vec<_>>();
        let (kl, kl_standard_error, tokens) = mean_over_windows(windows, &all(|part| &part.kls));
        let tops: usize = parts().map(|part| part.same_tops).sum();
        LanguageComparison {
            treated: summarize(windows, &all(|part| &part.nlls)),
            original: original.clone(),
            kl,
            kl_standard_error,
            same_top1: tops as f64 / tokens as f64,
        }
    };
    Ok((0..treated.len()).map(comparison).collect())
}

/// Token ids `[n, window]` and logits `[n, window, vocab]` of windows, row-major: to compare with other programs.
pub fn dump(network: &Network, windows: &Windows<'_>, vocab: usize) -> Result<(Vec<u32>, Vec<f32>)> {
    let parts = for_batches(windows, &mut |_, _| (), |_, part| {
        let logits = logits(network, part)?;
        logits.expect_width(vocab)?;
        Ok(logits.values)
    })?;
    Ok((windows.as_slices().concat(), parts.concat()))
}

/// Logits of a batch of windows on the host.
struct Logits {
    values: Vec<f32>,
    width: usize,
}

impl Logits {
    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    fn expect_width(&self, vocab: usize) -> Result<()> {
        if self.width == vocab { Ok(()) } else { Err(Error::Widths { left: self.width, right: vocab }) }
    }
}

fn logits(network: &Network, windows: &[&[u32]]) -> Result<Logits> {
    match network.forward(Flow::Tokens(tokens(windows)), &mut Ctx::default())? {
        Flow::Hidden(x) => {
            let [_, _, width] = x.dims();
            Ok(Logits { values: host(x), width })
        }
        other => Err(Error::Output { expected: "logits for every token", found: other.kind() }),
    }
}

fn tokens(windows: &[&[u32]]) -> Tensor<2, Int> {
    let width = windows.first().map_or(0, |w| w.len());
    let ids: Vec<i64> = windows.iter().flat_map(|w| w.iter().map(|&id| i64::from(id))).collect();
    Tensor::from_data(TensorData::new(ids, [windows.len(), width]), &Device::flex())
}

/// Runs `f` on a few windows at a time, on all threads; it gets the index of the first. Results are in order.
fn for_batches<T: Send>(
    windows: &Windows<'_>,
    progress: Progress<'_>,
    f: impl Fn(usize, &[&[u32]]) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let all = windows.as_slices();
    let size = windows.batch();
    let batches: Vec<_> = all.chunks(size).enumerate().collect();
    let done = |n: usize| progress((n * size).min(all.len()), all.len());
    on_all_threads(&batches, done, |(i, part)| f(i * size, part))
}

/// Sum of the negative log-likelihoods of each window.
fn window_nlls(windows: &Windows<'_>, first: usize, part: &[&[u32]], logits: &Logits) -> Result<Vec<f64>> {
    let one = |(w, tokens): (usize, &&[u32])| -> Result<f64> {
        let from = windows.first_scored(first + w);
        let rows = rows::map_rows(windows.window - 1 - from, |i| {
            let row = logits.row(w * windows.window + from + i);
            Some(rows::log_sum_exp(row)? - f64::from(row[tokens[from + i + 1] as usize]))
        })?;
        Ok(rows.iter().sum())
    };
    part.iter().enumerate().map(one).collect()
}

fn mean_over_windows(windows: &Windows<'_>, sums: &[f64]) -> (f64, f64, usize) {
    let counts: Vec<usize> = (0..sums.len()).map(|i| windows.window - 1 - windows.first_scored(i)).collect();
    let tokens: usize = counts.iter().sum();
    let mean = sums.iter().sum::<f64>() / tokens as f64;
    let n = sums.len() as f64;
    let spread: f64 = sums.iter().zip(&counts).map(|(s, &c)| (s / c as f64 - mean).powi(2)).sum();
    let error = if n > 1.0 { (spread / (n - 1.0) / n).sqrt() } else { f64::NAN };
    (mean, error, tokens)
}

fn summarize(windows: &Windows<'_>, sums: &[f64]) -> LanguageScore {
    let (nll, nll_standard_error, tokens) = mean_over_windows(windows, sums);
    let (window, stride) = (windows.window, windows.stride);
    LanguageScore { perplexity: nll.exp(), nll, nll_standard_error, tokens, window, stride }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_windows_score_every_prediction_once() {
        let tokens: Vec<u32> = (0..20).collect();
        for (window, stride) in [(5, 5), (5, 2), (8, 3), (4, 1), (4, 3)] {
            let windows = Windows::cut(&tokens, window, stride, 20).unwrap();
            let mut targets: Vec<u32> = Vec::new();
            for (i, w) in windows.as_slices().iter().enumerate() {
                targets.extend((windows.first_scored(i)..window - 1).map(|p| w[p + 1]));
            }
            let mut unique = targets.clone();
            unique.dedup();
            assert_eq!(unique.len(), targets.len(), "window {window}, stride {stride}: {targets:?}");
            if stride < window {
                assert!(targets.windows(2).all(|t| t[1] == t[0] + 1), "no target is left out: {targets:?}");
            }
        }
    }

    #[test]
    fn bad_windows_are_refused() {
        let tokens = [1, 2, 3];
        assert!(matches!(Windows::cut(&tokens, 1, 1, 9), Err(Error::Window { .. })));
        assert!(matches!(Windows::cut(&tokens, 2, 3, 9), Err(Error::Window { .. })));
        assert!(matches!(Windows::cut(&tokens, 4, 4, 9), Err(Error::TooShort { .. })));
        assert!(matches!(Windows::cut(&tokens, 2, 2, 3), Err(Error::Vocabulary { id: 3, .. })));
    }
}
