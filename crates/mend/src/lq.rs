//! LQ-LoRA: Guo, Greengard, Xing and Kim, "Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model Finetuning",
//! ICLR 2024, arXiv 2311.12023.
//!
//! EoRA and its like change a weight first and then find the branch that makes up for it. Here the two are found by turns, so that the
//! codes are those of what the branch leaves: `W ≈ Q + B A` with `Q = quantize(W − B A)` and `B A` the nearest branch to `W − Q`. How
//! the weight is changed is a function of the caller: NormalFloat codes as in the paper, or any other.
//!
//! Departures from the published code: it returns the factors of the round that came out worse, as its authors note; here the
//! best pair is returned. A branch is fitted once more to the codes of its round, which never costs anything. The plain order (codes of
//! the weight itself, then the branch) is one of the candidates, so that the result is never worse than without turns. What is
//! decomposed and what is measured are the factors as they are stored. No randomized decomposition below a side of 1024.

use serde::{Deserialize, Serialize};
use trimtab_io::{BranchFactors, Dtype};
use trimtab_math::linalg::Path;

use crate::eora::Branch;
use crate::error::{Error, Result};
use crate::measure::{Evidence, Measure, Variant};

/// Settings of [`lq`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LqSettings {
    /// What the error is measured by.
    pub variant: Variant,
    /// Rounds at most; they end with the first that is no better than the one before.
    pub rounds: usize,
    /// How the leading directions are found.
    pub path: Path,
}

impl Default for LqSettings {
    fn default() -> Self {
        Self { variant: Variant::Svd, rounds: 100, path: Path::Auto }
    }
}

/// A weight in two parts.
#[derive(Clone, Debug)]
pub struct Split<T> {
    /// The changed weight as the caller made it.
    pub changed: T,
    /// Its numbers.
    pub values: Vec<f32>,
    /// The branch, rounded to its type; `None` for rank 0.
    pub branch: Option<BranchFactors>,
    /// Squared error of the two together, in the measure of the variant.
    pub error: f64,
    /// The same where the weight itself was changed and the branch found afterwards.
    pub plain: f64,
    /// The same after each round.
    pub rounds: Vec<f64>,
}

/// Changes `original` `[rows, columns]` and finds the branch of rank `rank` beside it by turns. `plain` is the weight as it is changed
/// without a branch, and `quantize` changes any other; both give the numbers that it then stands for. Factors are of type `dtype`.
///
/// # Errors
/// What `quantize` refuses, lengths that do not fit, numbers that are not finite, [`Error::NoEvidence`].
pub fn lq<T, E: From<Error>>(
    original: &[f32],
    rows: usize,
    evidence: Evidence<'_>,
    (rank, dtype): (usize, Dtype),
    settings: &LqSettings,
    plain: (T, Vec<f32>),
    mut quantize: impl FnMut(&[f32]) -> std::result::Result<(T, Vec<f32>), E>,
) -> std::result::Result<Split<T>, E> {
    let measure = Measure::of(settings.variant, evidence, rows)?;
    let nearest = |changed: &[f32]| -> Result<Option<BranchFactors>> {
        let found = measure.branch(&difference(original, changed)?, rows, rank, settings.path)?;
        Branch::from(found).factors(dtype)
    };
    let left = |changed: &[f32], branch: Option<&BranchFactors>| -> Result<f64> {
        let mut together = changed.to_vec();
        branch.map_or(Ok(()), |branch| branch.merge_into(&mut together))?;
        measure.error(&difference(original, &together)?, rows)
    };
    let (changed, values) = plain;
    let mut branch = nearest(&values)?;
    let error = left(&values, branch.as_ref())?;
    let mut best = Split { changed, values, branch, error, plain: error, rounds: Vec::new() };
    if rank == 0 {
        return Ok(best);
    }
    // The paper's start: nothing is coded, the branch takes what it can of the weight.
    branch = nearest(&vec![0.0; original.len()])?;
    for _ in 0..settings.rounds {
        let mut rest = vec![0.0; original.len()];
        branch.map_or(Ok(()), |branch| branch.merge_into(&mut rest)).map_err(Error::from)?;
        rest.iter_mut().zip(original).for_each(|(product, w)| *product = w - *product);
        let (changed, values) = quantize(&rest)?;
        branch = nearest(&values)?;
        let error = left(&values, branch.as_ref())?;
        let worse = best.rounds.last().is_some_and(|last| error >= *last);
        best.rounds.push(error);
        if error < best.error {
            best = Split { changed, values, branch: branch.clone(), error, ..best };
        }
        if worse {
            break;
        }
    }
    Ok(best)
}

/// `original − changed`.
pub(crate) fn difference(original: &[f32], changed: &[f32]) -> Result<Vec<f64>> {
    let (expected, found) = (original.len(), changed.len());
    match expected == found {
        true => Ok(original.iter().zip(changed).map(|(&w, &q)| f64::from(w) - f64::from(q)).collect()),
        false => Err(Error::Length { what: "branch: changed weight", expected, found }),
    }
}

#[cfg(test)]
mod tests {
    use trimtab_io::{NormalFloatScheme, NormalFloatTensor};
    use trimtab_math::linalg::Square;
    use trimtab_math::random::Stream;

    use super::*;

    const ROWS: usize = 24;
    const COLS: usize = 40;

    fn weight() -> Vec<f32> {
        let mut stream = Stream::new(25, "test/lq", 0, 0);
        (0..ROWS * COLS).map(|_| stream.normal() as f32).collect()
    }

    fn coded(weight: &[f32], scheme: NormalFloatScheme) -> Result<(NormalFloatTensor, Vec<f32>)> {
        let matrix = NormalFloatTensor::encode(weight, ROWS, COLS, scheme)?;
        let values = matrix.dequantize();
        Ok((matrix, values))
    }

    fn split(
        weight: &[f32],
        bits: u8,
        rank: usize,
        evidence: Evidence<'_>,
        variant: Variant,
    ) -> Split<NormalFloatTensor> {
        let scheme = NormalFloatScheme { block: 16, ..NormalFloatScheme::new(bits) };
        let settings = LqSettings { variant, path: Path::Exact, ..LqSettings::default() };
        let plain = coded(weight, scheme).unwrap();
        lq(weight, ROWS, evidence, (rank, Dtype::F32), &settings, plain, |rest| coded(rest, scheme)).unwrap()
    }

    fn measured(weight: &[f32], split: &Split<NormalFloatTensor>, fisher: Option<&[f32]>) -> f64 {
        let mut together = split.changed.dequantize();
        assert_eq!(together, split.values);
        split.branch.as_ref().map_or(Ok(()), |branch| branch.merge_into(&mut together)).unwrap();
        let square = |(i, (w, q)): (usize, (&f32, &f32))| {
            f64::from(fisher.map_or(1.0, |f| f[i])) * (f64::from(*w) - f64::from(*q)).powi(2)
        };
        weight.iter().zip(&together).enumerate().map(square).sum()
    }

    #[test]
    fn turns_leave_less_than_one_after_the_other_and_the_best_is_kept() {
        let weight = weight();
        for (bits, rank) in [(2, 4), (3, 4), (2, 12), (4, 8)] {
            let found = split(&weight, bits, rank, Evidence::default(), Variant::Svd);
            let least = found.rounds.iter().copied().fold(found.plain, f64::min);
            assert_eq!(found.error, least, "nf{bits}, rank {rank}");
            assert!((measured(&weight, &found, None) / least - 1.0).abs() < 1e-9);
            // The control: the first of the two orders, which the result would be without turns.
            assert!(
                found.error < 0.97 * found.plain,
                "nf{bits}, rank {rank}: {} {}",
                found.error,
                found.plain
            );
            // They end with the first round that is no better.
            let (last, before) = found.rounds.split_last().unwrap();
            assert!(before.windows(2).all(|pair| pair[1] < pair[0]), "{:?}", found.rounds);
            assert!(before.len() + 1 == 100 || last >= before.last().unwrap(), "{:?}", found.rounds);
        }
    }

    #[test]
    fn without_a_branch_it_is_the_code_and_with_all_of_it_nothing_is_left() {
        let weight = weight();
        let none = split(&weight, 3, 0, Evidence::default(), Variant::Svd);
        assert!(none.branch.is_none() && none.rounds.is_empty());
        let scheme = NormalFloatScheme { block: 16, ..NormalFloatScheme::new(3) };
        assert_eq!(none.values, coded(&weight, scheme).unwrap().1);
        let all = split(&weight, 3, ROWS, Evidence::default(), Variant::Svd);
        assert!(all.error < 1e-9 * none.error);
    }

    #[test]
    fn the_fisher_variant_is_exact_where_the_information_is_of_rank_one() {
        let weight = weight();
        let row = |i: usize| 0.1 + (i % 5) as f32;
        let column = |j: usize| 0.2 + (j % 3) as f32 * 2.0;
        let outer: Vec<f32> = (0..ROWS * COLS).map(|i| row(i / COLS) * column(i % COLS)).collect();
        let evidence = Evidence { fisher: Some(&outer), second_moment: None };
        let changed: Vec<f32> = weight.iter().map(|w| w.round()).collect();
        let error = difference(&weight, &changed).unwrap();
        let measure = Measure::of(Variant::Fisher, evidence, ROWS).unwrap();
        let best = measure.branch(&error, ROWS, 5, Path::Exact).unwrap();
        let total = measure.error(&error, ROWS).unwrap();
        let left = |product: &[f64]| {
            let rest: Vec<f64> = error.iter().zip(product).map(|(e, p)| e - p).collect();
            measure.error(&rest, ROWS).unwrap()
        };
        // Eckart and Young: the weighted error is the tail of the singular values, up to the scale of the means.
        let scale = total / error.iter().zip(&outer).map(|(e, &f)| f64::from(f) * e * e).sum::<f64>();
        assert!((scale - 1.0).abs() < 1e-12);
        let mean = outer.iter().map(|&f| f64::from(f)).sum::<f64>() / outer.len() as f64;
        let tail = total - best.singular.iter().map(|s| s * s).sum::<f64>() / mean;
        let found = left(&best.product());
        assert!((found / tail - 1.0).abs() < 1e-4, "{found} {tail}");
        // The control: the plain decomposition of the same rank leaves more of it.
        let plain = Measure::Plain.branch(&error, ROWS, 5, Path::Exact).unwrap();
        assert!(left(&plain.product()) > 1.05 * found);
        let turned = split(&weight, 2, 4, evidence, Variant::Fisher);
        let unweighted = split(&weight, 2, 4, Evidence::default(), Variant::Svd);
        assert!((measured(&weight, &turned, Some(&outer)) / turned.error - 1.0).abs() < 1e-9);
        assert!(turned.error < measured(&weight, &unweighted, Some(&outer)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let weight = weight();
        let scheme = NormalFloatScheme::new(3);
        let plain = || coded(&weight, scheme).unwrap();
        let run = |variant, evidence: Evidence<'_>| {
            let settings = LqSettings { variant, ..LqSettings::default() };
            let found =
                lq(&weight, ROWS, evidence, (2, Dtype::F32), &settings, plain(), |w| coded(w, scheme));
            found.map(drop).unwrap_err().to_string()
        };
        assert!(run(Variant::Fisher, Evidence::default()).contains("Fisher information"));
        assert!(run(Variant::Eora, Evidence::default()).contains("second moment"));
        let short = [1.0; 3 * ROWS];
        assert!(
            run(Variant::Fisher, Evidence { fisher: Some(&short), second_moment: None }).contains("expected")
        );
        let h = Square::identity(COLS);
        let settings = LqSettings { variant: Variant::Eora, ..LqSettings::default() };
        let seen = Evidence::from(Some(&h));
        let one = lq(&weight, ROWS, seen, (2, Dtype::F32), &settings, plain(), |w| coded(w, scheme)).unwrap();
        let other = split_of(&weight, scheme);
        assert!(
            (one.error / other.error - 1.0).abs() < 1e-9,
            "with inputs of which all are alike, the two are one"
        );
        let refused = lq(&weight, ROWS, seen, (2, Dtype::F32), &settings, plain(), |_| {
            Err(Error::Length { what: "test", expected: 1, found: 2 })
        });
        assert!(
            refused.map(drop).unwrap_err().to_string().contains("test"),
            "what the caller refuses comes through"
        );
    }

    fn split_of(weight: &[f32], scheme: NormalFloatScheme) -> Split<NormalFloatTensor> {
        let settings = LqSettings::default();
        let plain = coded(weight, scheme).unwrap();
        lq(weight, ROWS, Evidence::default(), (2, Dtype::F32), &settings, plain, |w| coded(w, scheme))
            .unwrap()
    }
}
