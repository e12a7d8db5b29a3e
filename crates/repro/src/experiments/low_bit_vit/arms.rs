//! Ways to quantize a vision transformer to four bits, and their table.

use trimtab::activations::Activations;
use trimtab::floors::calibrate::RangeRule;
use trimtab::floors::quantize::repquant::ClippingSettings;
use trimtab::quantizer::{Method, Quantizer};

use super::{Cause, Found};
use crate::experiment::Table;
use crate::experiments::figures::percents;

/// Codes of the weights: a range a row.
pub const WEIGHTS: &str = "int4 row";

/// A way to quantize. In all of them weights have a range a row; queries, keys and values one range each, and the weights of
/// attention codes of base `√2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// One range for all channels, from the least to the largest.
    MinMax,
    /// One range for all channels, between the best quantiles.
    Percentile,
    /// The same behind scales moved as SmoothQuant does, alpha 0.5.
    Smooth,
    /// A range a channel, which no integer product takes.
    Channel,
    /// RepQ-ViT.
    Repq,
    /// RepQ-ViT, codes of weights by GPTQ.
    RepqGptq,
    /// RepQ-ViT with learned ends.
    Clipped,
    /// RepQuant: with learned ends, and codes by GPTQ for weights that absorb.
    Repquant,
}

impl Arm {
    pub fn name(self) -> &'static str {
        match self {
            Self::MinMax => "one range, min-max",
            Self::Percentile => "one range, percentile",
            Self::Smooth => "SmoothQuant 0.5, percentile",
            Self::Channel => "a range a channel",
            Self::Repq => "RepQ-ViT",
            Self::RepqGptq => "RepQ-ViT, GPTQ",
            Self::Clipped => "+ dual clipping",
            Self::Repquant => "+ reconstruction (RepQuant)",
        }
    }

    /// The settings of the pipeline.
    pub fn quantizer(self, seed: u64) -> std::result::Result<Quantizer, Cause> {
        let inputs = if self == Self::Channel { "int4 channel" } else { "int4 tensor" };
        let reparameterize = matches!(self, Self::Repq | Self::RepqGptq | Self::Clipped | Self::Repquant);
        let learned = matches!(self, Self::Clipped | Self::Repquant);
        let activations = Activations {
            range: if self == Self::MinMax { RangeRule::MinMax } else { RangeRule::Percentile },
            operands: Some("int4 tensor".parse()?),
            softmax: Some("int4 log-sqrt2".parse()?),
            reparameterize,
            clipping: learned.then(|| ClippingSettings { seed, ..ClippingSettings::default() }),
            absorb: self == Self::Repquant,
            ..Activations::of(inputs.parse()?)
        };
        let method = if matches!(self, Self::RepqGptq | Self::Repquant) { Method::Gptq } else { Method::Rtn };
        Ok(Quantizer { method, activations: Some(activations), ..Quantizer::default() })
    }
}

/// Shares of right answers by arm, with and without loud channels.
pub fn table(found: &[Found], arms: &[Arm]) -> Table {
    let cell = |loud: bool, of: &dyn Fn(&Found) -> f64| {
        percents(&found.iter().filter(|one| one.loud == loud).map(of).collect::<Vec<_>>())
    };
    let row =
        |name: &str, of: &dyn Fn(&Found) -> f64| vec![name.to_string(), cell(false, of), cell(true, of)];
    let original = row("unquantized", &|one| one.original);
    let rows = arms.iter().map(|&arm| row(arm.name(), &move |one: &Found| one.at(arm)));
    Table {
        title: "Test accuracy, W4A4, %: mean (least .. most)".into(),
        columns: ["", "as trained", "loud channels"].map(String::from).to_vec(),
        rows: std::iter::once(original).chain(rows).collect(),
    }
}

/// By how much `arm` closes the gap from `from` to `to`; where there is no gap, nothing is closed.
pub fn closed(from: f64, arm: f64, to: f64) -> f64 {
    if to > from { (arm - from) / (to - from) } else { 0.0 }
}
