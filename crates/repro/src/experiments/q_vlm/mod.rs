//! Paper 95: Q-VLM, clip factors searched together over blocks of dependent layers (Wang et al., arXiv:2410.08119).

mod identities;
mod subject;
mod verdict;

use trimtab::floors::math::random::Stream;
use trimtab::floors::math::stats::spearman;

use super::wikilm::{Attempt, Failure};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use subject::{Subject, Units};

/// One in so many pairs of neighbours is searched together.
const SHARE: usize = 3;

/// What is searched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    /// Nothing: ranges from the least to the largest.
    Plain,
    /// Each layer for itself.
    Layers,
    /// The pairs whose first layer has the most entropy.
    Entropy,
    /// As many pairs, drawn.
    Random,
    /// Every pair, one after the other.
    All,
    /// The blocks that the paper's rule gives, up to three layers.
    Blocks,
}

impl Arm {
    const ALL: [Self; 6] = [Self::Plain, Self::Layers, Self::Entropy, Self::Random, Self::All, Self::Blocks];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "min-max, no search",
            Self::Layers => "layer by layer",
            Self::Entropy => "pairs by entropy",
            Self::Random => "as many random pairs",
            Self::All => "all pairs",
            Self::Blocks => "blocks of the paper's rule, up to 3",
        }
    }
}

/// What one seed gave.
struct Found {
    /// Rank correlation of the measured dependence of neighbours with entropy, place and range of the first.
    correlation: [f64; 3],
    /// KL to the original on held-out reviews, by arm.
    kl: [f64; 6],
    /// How often the error of a block was measured, by arm.
    evaluations: [usize; 6],
}

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    seeds: u64,
    /// Windows that ranges are found on, factors are searched on, dependence is measured on, and arms are judged on.
    windows: [usize; 4],
    /// Random choices of pairs.
    draws: u64,
}

impl Size {
    fn of(scale: Scale) -> Self {
        match scale {
            Scale::Quick => Self { seeds: 1, windows: [4, 1, 1, 4], draws: 1 },
            Scale::Full => Self { seeds: 3, windows: [16, 1, 3, 16], draws: 2 },
        }
    }
}

/// The experiment.
pub struct QVlm;

impl QVlm {
    fn failed(step: &'static str) -> impl Fn(Failure) -> Error {
        move |source| match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Experiment { number: 95, name: "q-vlm", step, source },
        }
    }
}

/// So many pairs in this order that no two share a layer.
fn disjoint(pairs: &[usize], count: usize) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for &first in pairs {
        if taken.len() < count && taken.iter().all(|other| other.abs_diff(first) > 1) {
            taken.push(first);
        }
    }
    taken
}

fn one(subject: &Subject, size: Size, seed: u64, lab: &Lab<'_>) -> Attempt<Found> {
    let tell = |what: &str| lab.tell(&format!("seed {seed}: {what}"));
    tell("ranges")?;
    let data = subject.prepare(lab, [size.windows[0], size.windows[1]], seed)?;
    tell("dependence of neighbours")?;
    let dependence = subject.dependence(&data)?;
    let pairs = subject.pairs();
    // What is known of the first of each pair of neighbours, across blocks too.
    let first = |of: &[f64]| of[..dependence.len()].to_vec();
    let place: Vec<f64> = (0..dependence.len()).map(|k| k as f64).collect();
    let correlation = [
        spearman(&dependence, &first(&data.entropy))?,
        spearman(&dependence, &place)?,
        spearman(&dependence, &first(&data.range))?,
    ];
    let count = pairs.len() / SHARE;
    let mut by_entropy = pairs.clone();
    by_entropy.sort_by(|&a, &b| data.entropy[b].total_cmp(&data.entropy[a]).then(a.cmp(&b)));
    let mut found = Found { correlation, kl: [f64::NAN; 6], evaluations: [0; 6] };
    for (i, arm) in Arm::ALL.into_iter().enumerate() {
        tell(arm.name())?;
        let chosen: Vec<Units> = match arm {
            Arm::Plain => vec![subject.none()],
            Arm::Layers => vec![subject.units(&[])],
            Arm::Entropy => vec![subject.units(&disjoint(&by_entropy, count))],
            Arm::Random => (0..size.draws)
                .map(|draw| {
                    let mut drawn = pairs.clone();
                    Stream::new(seed, "q-vlm/pairs", draw, 0).shuffle(&mut drawn);
                    subject.units(&disjoint(&drawn, count))
                })
                .collect(),
            Arm::All => vec![subject.all_pairs()],
            Arm::Blocks => vec![data.blocks.clone()],
        };
        let (mut kl, mut evaluations) = (0.0, 0);
        for units in &chosen {
            let (network, cost) = subject.searched(&data, units)?;
            kl += subject.kl(&network)? / chosen.len() as f64;
            evaluations += cost / chosen.len();
        }
        (found.kl[i], found.evaluations[i]) = (kl, evaluations);
    }
    Ok(found)
}

impl Experiment for QVlm {
    fn paper(&self) -> u8 {
        95
    }

    fn rule(&self) -> &'static str {
        "wikilm, all maps of its blocks, weights in 4 bits (round-to-nearest, groups of 64), what they read in 4 bits with a static range a \
         channel, min-max; factors 1, 0.9 .. 0.4, mean |.|^0.5 of what a block of layers gives; 3 seeds for the calibration data. A layer is \
         what reads the same rows. Dependence of neighbours: KL with the inputs of both rounded, less those with each alone, on \
         held-out reviews. Two parts: (i) its rank correlation with the entropy of the first is above 0.3, and above those with place and range \
         (taken without sign), on every seed; (ii) a third of the pairs inside blocks, those of most entropy, searched together (a third of \
         the joint search of all pairs) give a lower KL on held-out reviews than layer by layer and than as many random pairs, on every \
         seed. Reproduced if both hold, partly if one does, not reproduced otherwise. Baselines: no search, layer by layer, random pairs, all \
         pairs, and the paper's own partition up to three layers beside them."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::all().map_err(Self::failed("identities"))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let size = Size::of(scale);
        let subject =
            Subject::open(lab, [size.windows[2], size.windows[3]]).map_err(Self::failed("the model"))?;
        let seeds = 0..size.seeds;
        let found = seeds.map(|seed| one(&subject, size, seed, lab).map_err(Self::failed("a seed")));
        let found: Vec<Found> = found.collect::<Result<_>>()?;
        let [ranges, searched, measured, judged] = size.windows;
        let scale = format!(
            "{}; windows of 256 tokens: ranges from {ranges}, factors from {searched}, dependence on {measured}, judged on {judged}; {} seed(s)",
            subject.describe(),
            size.seeds
        );
        Ok(verdict::judge(&found, scale))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "KL 0.0662 with pairs by entropy, 0.0639 layer by layer, 0.0652 with random pairs, 0.0667 with all pairs, 0.0858 without a search; \
                      rank correlation of entropy with dependence -0.01 (-0.24 .. 0.11)";
        let scale = "wikilm: llama of 6 blocks, width 256, 4718592 weights in 42 maps; windows of 256 tokens: ranges \
                      from 16, factors from 1, dependence on 3, judged on 16; 3 seed(s)";
        Some(Measurement::new(Verdict::NotReproduced, figure, scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_share_no_layer() {
        assert_eq!(disjoint(&[3, 4, 2, 7, 6, 0], 9), [3, 7, 0]);
        assert_eq!(disjoint(&[3, 4, 2, 7, 6, 0], 2), [3, 7]);
    }
}
