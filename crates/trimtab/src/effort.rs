//! How much work a fit may take: compositions of methods, so that a user gets the best of them without knowing their names.
//!
//! What a flag says goes before what the effort says. What the form of the output or the engine cannot hold (real zero points,
//! branches) is no option there, whatever the effort: [`crate::choice::Choice::fits`]. `docs/quantization.md` has the measurements behind these
//! settings.

use std::fmt;

use serde::{Deserialize, Serialize};
use trimtab_calibrate::ReconstructSettings;

use crate::measure::GAUGE_ROWS;
use crate::pricing::Metric;
use crate::quantizer::Method;

/// How much work a fit may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// GPTQ in the order of the columns' strength; what a site's error does to the output is measured on few tokens.
    Fast,
    /// The same codes; measured on four times as many tokens, with two rounds of re-pricing.
    #[default]
    Normal,
    /// decoupleQ with real zero points, low-rank branches where they pay, blocks tuned. Tokens count alike: weighing them made the
    /// result worse wherever it was measured (`docs/papers/rsq.md`).
    Best,
}

/// What an effort stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Composition {
    /// How codes are chosen.
    pub method: Method,
    /// Whether GPTQ rounds strong columns first.
    pub act_order: bool,
    /// Which damage is priced.
    pub metric: Metric,
    /// Tokens (or images) that damage is measured on, in whole batches.
    pub probe_rows: usize,
    /// Rounds of re-pricing.
    pub rounds: usize,
    /// Ranks of branches to choose from.
    pub ranks: Vec<usize>,
    /// How blocks are tuned after their codes.
    pub tuning: Option<ReconstructSettings>,
}

impl Effort {
    /// Its composition; `seed` names the order of the samples that blocks are tuned on.
    pub fn composition(self, seed: u64) -> Composition {
        let plain = Composition {
            method: Method::Gptq,
            act_order: true,
            metric: Metric::Kl,
            probe_rows: GAUGE_ROWS / 4,
            rounds: 0,
            ranks: vec![0],
            tuning: None,
        };
        let measured = Composition { probe_rows: GAUGE_ROWS, rounds: 2, ..plain.clone() };
        match self {
            Self::Fast => plain,
            Self::Normal => measured,
            Self::Best => Composition {
                method: Method::Decoupleq,
                // A treatment by decoupleQ takes long, and the first plan was the best of all rounds wherever more were measured.
                rounds: 0,
                ranks: vec![0, 8],
                tuning: Some(ReconstructSettings { seed, ..ReconstructSettings::default() }),
                ..measured
            },
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fast => "fast",
            Self::Normal => "normal",
            Self::Best => "best",
        })
    }
}
