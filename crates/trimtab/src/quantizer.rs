//! How codes are chosen, for all sites alike.

use serde::{Deserialize, Serialize};
use trimtab_calibrate::{Importance, ReconstructSettings, SiteEvidence, Treatment};
use trimtab_io::{AffineScheme, Dtype};
use trimtab_math::linalg::Damping;
use trimtab_mend::eora::{EoraSettings, Variant};
use trimtab_mend::lq::LqSettings;
use trimtab_plan::Settings;
use trimtab_quantize::adaquant::AdaquantSettings;
use trimtab_quantize::affine::{ScaleDtype, SymmetricScale};
use trimtab_quantize::decoupleq::DecoupleqSettings;
use trimtab_quantize::float::ScaleFinder;
use trimtab_quantize::gptq::{ColumnOrder, GptqSettings, GroupFit};
use trimtab_quantize::range::RangeFinder;
use trimtab_quantize::rtn::RtnSettings;
use trimtab_quantize::scheme::WeightScheme;
use trimtab_quantize::solver::Solver;
use trimtab_quantize::treatment::{AffineTreatment, BlockTreatment, FloatTreatment, NormalFloatTreatment};

use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::scheme::Scheme;
use crate::tune_bias::BiasTuning;

/// Methods that choose codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Round-to-nearest: no data.
    Rtn,
    /// GPTQ; for the blocks of GGUF files, whose scales have scales, errors weighted with the power of their inputs.
    #[default]
    Gptq,
    /// decoupleQ, for real zero points and symmetric integers; for anything else, GPTQ.
    Decoupleq,
    /// AdaQuant, for integers with whole zero points; for anything else, GPTQ.
    Adaquant,
}

/// How the range of a group is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// The extremes.
    MinMax,
    /// The shrunk range with the least error.
    #[default]
    Mse,
}

/// Settings of the quantizer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quantizer {
    /// Method.
    pub method: Method,
    /// Range finder.
    pub range: Range,
    /// Damping of the second moment, in parts of its mean diagonal.
    pub damping: f64,
    /// Whether columns with a large second moment are rounded first (groups keep their columns).
    pub act_order: bool,
    /// What of the inputs the branches beside codes are fitted to.
    pub branches: Variant,
    /// Rounds at most in which codes and branch are found by turns (LQ-LoRA); `None`: the branch is found to the codes of the weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<usize>,
    /// Which tokens count for how much in the second moments (RSQ); without it, all alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<Importance>,
    /// What is quantized of activations; `None`: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activations: Option<Activations>,
    /// How scales, and real zero points, are trained block by block once all codes of a block are chosen; `None`: not at all.
    pub tuning: Option<ReconstructSettings>,
    /// Whether the statistics of batch norms are measured anew, block by block, once all codes of a block are chosen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tune_batch_norms: bool,
    /// How the biases of a classifier of images are trained once all codes are chosen; `None`: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tune_biases: Option<BiasTuning>,
}

impl Default for Quantizer {
    fn default() -> Self {
        Self {
            method: Method::Gptq,
            range: Range::Mse,
            damping: 0.01,
            act_order: false,
            branches: Variant::Eora,
            turns: None,
            importance: None,
            activations: None,
            tuning: None,
            tune_batch_norms: false,
            tune_biases: None,
        }
    }
}

impl Quantizer {
    /// Round-to-nearest or GPTQ as most people run them: min-max ranges, no order.
    pub fn plain(method: Method) -> Self {
        Self { method, range: Range::MinMax, ..Self::default() }
    }

    /// How the branch of a site is found; without observations only from its weight.
    pub fn branch_settings(&self, seen: SiteEvidence<'_>) -> EoraSettings {
        EoraSettings { variant: self.variant(seen), ..EoraSettings::default() }
    }

    /// How codes and branch are found by turns; `None` where the branch comes after the codes.
    pub fn turns(&self, seen: SiteEvidence<'_>) -> Option<LqSettings> {
        let variant = self.variant(seen);
        self.turns.map(|rounds| LqSettings { variant, rounds, ..LqSettings::default() })
    }

    /// Whether branches are fitted to the Fisher information.
    pub fn needs_fisher(&self) -> bool {
        self.branches == Variant::Fisher
    }

    fn variant(&self, seen: SiteEvidence<'_>) -> Variant {
        let there = match self.branches {
            Variant::Svd => true,
            Variant::Fisher => seen.fisher.is_some(),
            Variant::ActScale | Variant::Eora => seen.second_moment.is_some(),
        };
        if there { self.branches } else { Variant::Svd }
    }

    /// The same without what is done once codes are chosen: what plans are measured with. Tuning takes far longer than choosing codes
    /// and helps every plan, and activations are quantized when a plan is carried out.
    pub fn codes_only(&self) -> Self {
        Self { tuning: None, activations: None, tune_batch_norms: false, tune_biases: None, ..*self }
    }

    /// As settings in a plan file: how a plan's options are made. Seeds, and what is quantized of activations, belong to the run that
    /// carries the plan out.
    ///
    /// # Errors
    /// [`Error::Setting`]: a whole number beyond what the file can hold.
    pub fn settings(&self) -> Result<Settings> {
        let unseeded = |tuning| ReconstructSettings { seed: 0, ..tuning };
        let biases = |how| BiasTuning { seed: 0, ..how };
        let plain = Self {
            activations: None,
            tuning: self.tuning.map(unseeded),
            tune_biases: self.tune_biases.map(biases),
            ..*self
        };
        let table = toml::Table::try_from(plain).map_err(|error| Error::Setting {
            what: "how codes are chosen",
            message: format!("{error}\nhint: a plan file holds whole numbers below 2^63"),
        })?;
        Ok(table.into_iter().collect())
    }

    /// From the settings in a plan file; `None` where it says nothing. `seed` is that of the run.
    pub fn from_settings(settings: &Settings, seed: u64) -> Result<Option<Self>> {
        if settings.is_empty() {
            return Ok(None);
        }
        let wrong = |problem: String| Error::Setting {
            what: "[quantizer] of the plan",
            message: format!("{problem}\nhint: plan again, or take these lines out of the file"),
        };
        let table: toml::Table = settings.clone().into_iter().collect();
        let read: Self = table.try_into().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
        if let Some(problem) = read.importance.and_then(|importance| importance.problem()) {
            return Err(wrong(problem));
        }
        Ok(Some(Self {
            tuning: read.tuning.map(|tuning| ReconstructSettings { seed, ..tuning }),
            tune_biases: read.tune_biases.map(|how| BiasTuning { seed, ..how }),
            ..read
        }))
    }

    /// A quicker method whose errors lie to those of this one about alike for all options of a width; `None` where it is quick itself.
    pub fn sketch(&self) -> Option<Self> {
        let slow = matches!(self.method, Method::Decoupleq | Method::Adaquant);
        slow.then_some(Self { method: Method::Gptq, act_order: true, ..*self })
    }

    /// Whether calibration data are needed even where codes need none.
    pub fn tunes_vectors(&self) -> bool {
        self.tune_batch_norms || self.tune_biases.is_some()
    }

    /// The treatment for one site; `None` where it stays as it is. Without observations, codes are chosen by rounding to
    /// nearest.
    pub fn treatment(&self, scheme: Scheme, dense: Dtype, observed: bool) -> Option<Box<dyn Treatment>> {
        let weighted = observed && self.method != Method::Rtn;
        let finder = match self.range {
            Range::MinMax => ScaleFinder::AbsMax,
            Range::Mse if weighted => ScaleFinder::MseWeighted,
            Range::Mse => ScaleFinder::Mse,
        };
        Some(match scheme {
            Scheme::Dense => return None,
            Scheme::Affine(scheme) => Box::new(self.integers(scheme, false, dense, weighted)),
            Scheme::Real(scheme) => Box::new(self.integers(scheme.codes(), true, dense, weighted)),
            Scheme::NormalFloat(scheme) => Box::new(NormalFloatTreatment { scheme }),
            Scheme::Float(scheme) => Box::new(FloatTreatment {
                scheme,
                finder,
                gptq: weighted.then(|| self.gptq(RangeFinder::MinMax)),
            }),
            Scheme::Blocks(ty) => Box::new(BlockTreatment { ty, weighted }),
        })
    }

    fn integers(
        &self,
        scheme: AffineScheme,
        real_zero: bool,
        dense: Dtype,
        weighted: bool,
    ) -> AffineTreatment {
        let range = match self.range {
            Range::MinMax => RangeFinder::MinMax,
            Range::Mse if weighted => RangeFinder::mse_weighted(),
            Range::Mse => RangeFinder::mse_of_squares(),
        };
        let solver = match weighted {
            false => Solver::Rtn(RtnSettings { range }),
            true if self.method == Method::Decoupleq && (real_zero || scheme.symmetric) => {
                Solver::Decoupleq(DecoupleqSettings {
                    damping: Damping { first: self.damping, ..Damping::default() },
                    ..DecoupleqSettings::default()
                })
            }
            true if self.method == Method::Adaquant && !real_zero => {
                Solver::Adaquant(AdaquantSettings::default())
            }
            true => Solver::Gptq(self.gptq(range)),
        };
        let scale_dtype = match crate::scheme::scale_dtype(dense) {
            Dtype::F16 => ScaleDtype::F16,
            Dtype::BF16 => ScaleDtype::Bf16,
            _ => ScaleDtype::F32,
        };
        let scheme = WeightScheme {
            bits: scheme.bits,
            group_size: scheme.group_size,
            symmetric: scheme.symmetric && !real_zero,
            real_zero,
            symmetric_scale: SymmetricScale::CompressedTensors,
            scale_dtype,
            ..WeightScheme::default()
        };
        AffineTreatment { solver, scheme }
    }

    fn gptq(&self, range: RangeFinder) -> GptqSettings {
        GptqSettings {
            range,
            damping: Damping { first: self.damping, ..Damping::default() },
            order: if self.act_order { ColumnOrder::DescendingDiagonal } else { ColumnOrder::Natural },
            // In another order, only groups fitted beforehand keep their columns together.
            groups: if self.act_order { GroupFit::Static } else { GroupFit::Dynamic },
            ..GptqSettings::default()
        }
    }
}
