//! What engines take: rules for plans, and for models that are written already.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use trimtab_io::{AffineScheme, FloatElement, FloatScheme, Quantization, ScaleFormat, ScaleGrid};
use trimtab_models::Model;
use trimtab_nn::{SiteMeta, StageSource};

use crate::error::Result;
use crate::scheme::Scheme;
use crate::source;

/// A program that runs models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// vLLM. Source: `compressed_tensors/schemes/compressed_tensors_wNa16.py` and `utils/marlin_utils.py`: symmetric codes
    /// of 2 to 8 bits, with zero points only 4 and 8; groups of 32, 64, 128 or a row; layers that it fuses have one scheme.
    Vllm,
    /// llama.cpp: GGUF, or what its converter reads of compressed-tensors: one group of settings for the whole model
    /// (`conversion/base.py`).
    LlamaCpp,
    /// transformers with the library of the format. Of compressed-tensors that is symmetric codes only: versions 0.18 to 0.20 declare
    /// zero points in another shape than they pack them in, and refuse every checkpoint that has them.
    Transformers,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
            Self::Transformers => "transformers",
        })
    }
}

/// A rule that a model breaks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Breach {
    /// The site, or what else is wrong.
    pub at: String,
    /// What the engine expects, and what is there.
    pub message: String,
}

impl Engine {
    /// What no engine runs, with what to do about it.
    pub(crate) const NO_BRANCHES: &str = "runs no low-rank branch that is part of a model; trimtab convert --adapter writes \
                                          branches as an adapter for PEFT and vLLM, --to safetensors merges them";

    /// Whether the members of a fused group need one scheme.
    pub fn fuses(self) -> bool {
        self == Self::Vllm
    }

    /// Whether integers are to have no zero points where a plan may choose.
    pub fn wants_symmetric(self) -> bool {
        self == Self::Transformers
    }

    /// Whether the engine runs a scheme at a site.
    ///
    /// # Errors
    /// What it expects instead.
    pub fn allows(self, scheme: &Scheme, site: &SiteMeta) -> std::result::Result<(), String> {
        match (self, scheme) {
            (Self::Vllm, Scheme::Affine(scheme)) => vllm_integers(*scheme, site),
            (Self::Vllm, Scheme::Float(scheme)) => vllm_floats(*scheme),
            (Self::Vllm | Self::Transformers, Scheme::Blocks(_)) => Err("runs no GGUF blocks".into()),
            (_, Scheme::Real(_)) => Err("reads integer zero points only, and these are real numbers".into()),
            (_, Scheme::NormalFloat(_)) => {
                Err("reads no NormalFloat codes as they are stored here; --format safetensors writes what they stand for".into())
            }
            (Self::LlamaCpp, Scheme::Float(_)) => Err("runs none of these floats".into()),
            _ => Ok(()),
        }
    }
}

fn vllm_integers(scheme: AffineScheme, site: &SiteMeta) -> std::result::Result<(), String> {
    let AffineScheme { bits, group_size, symmetric } = scheme;
    if symmetric && !(2..=8).contains(&bits) {
        return Err(format!("runs symmetric codes of 2 to 8 bits, not {bits}"));
    }
    if !symmetric && !matches!(bits, 4 | 8) {
        return Err(format!("runs zero points at 4 and 8 bits only, not {bits}; --symmetric takes 2 to 8"));
    }
    match group_size {
        None => Ok(()),
        Some(size @ (32 | 64 | 128)) if site.cols.is_multiple_of(size) => Ok(()),
        Some(size @ (32 | 64 | 128)) => {
            Err(format!("needs rows of whole groups; groups of {size} leave a short one in {}", site.cols))
        }
        Some(size) => Err(format!("runs groups of 32, 64, 128 or whole rows, not {size}")),
    }
}

fn vllm_floats(scheme: FloatScheme) -> std::result::Result<(), String> {
    let whole = matches!(scheme.grid, ScaleGrid::Channel | ScaleGrid::Tensor);
    match scheme.element {
        _ if scheme == FloatScheme::NVFP4 || scheme == FloatScheme::MXFP4 => Ok(()),
        FloatElement::E4M3 if whole && scheme.scale != ScaleFormat::E8M0 => Ok(()),
        _ => Err(format!("runs fp8 by row or tensor, nvfp4 and mxfp4, not {scheme}")),
    }
}

const ZERO_POINTS: &str =
    "has zero points, refused by compressed-tensors 0.18 to 0.20: plan --for transformers";

/// Reads a written model again and holds it against the rules of an engine; nothing broken is an empty list.
pub fn verify(model: &Model, engine: Engine) -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    let mut breach = |at: &str, message: String| breaches.push(Breach { at: at.into(), message });
    let is_gguf = model.checkpoint().files().iter().any(|file| file.name.ends_with(".gguf"));
    match (engine, is_gguf) {
        (Engine::LlamaCpp, false) => check_converter(model.quantization(), &mut breach),
        (Engine::LlamaCpp, true) => {}
        (_, true) => {
            breach("format", format!("{engine} is given a GGUF file; convert it to safetensors first"))
        }
        (_, false) => {}
    }
    if let Some(Quantization::Trimtab(config)) = model.quantization()
        && config.has_activations()
    {
        let message = format!("{engine} has no word for how its activations are quantized");
        breach("quantization_config", message);
    }
    let of_compressed_tensors = matches!(model.quantization(), Some(Quantization::CompressedTensors(_)));
    let mut fused: BTreeMap<&str, (String, &str)> = BTreeMap::new();
    for info in model.stages() {
        for site in &info.sites {
            let coded = source::coded(model, site)?;
            let label = match &coded {
                None => "dense".to_string(),
                Some(coded) => {
                    let scheme = Scheme::of(coded);
                    if let Some(Err(message)) = scheme.as_ref().map(|scheme| engine.allows(scheme, site)) {
                        breach(&site.name, message);
                    }
                    let zero_points = matches!(&scheme, Some(Scheme::Affine(codes)) if !codes.symmetric);
                    if zero_points && of_compressed_tensors && engine.wants_symmetric() {
                        breach(&site.name, ZERO_POINTS.into());
                    }
                    scheme.map_or("a table of numbers".into(), |scheme| scheme.to_string())
                }
            };
            if source::branch(model, site)?.is_some() {
                breach(&site.name, Engine::NO_BRANCHES.into());
            }
            let Some(group) = site.fused.as_deref().filter(|_| engine.fuses()) else { continue };
            let (first, at) = fused.entry(group).or_insert_with(|| (label.clone(), &site.name));
            if *first != label {
                let message = format!(
                    "is one layer with {}, which is {first}; found {label}",
                    at.rsplit('.').next().unwrap_or(at)
                );
                breach(&site.name, message);
            }
        }
        model.checkpoint().release();
    }
    Ok(breaches)
}

fn check_converter(quantization: Option<&Quantization>, breach: &mut impl FnMut(&str, String)) {
    if let Some(Quantization::CompressedTensors(config)) = quantization {
        let groups = config.groups();
        if groups.len() > 1 {
            let message =
                format!("the converter of llama.cpp reads one group of settings, found {}", groups.len());
            breach("quantization_config", message);
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn vllm_takes_what_its_kernels_have() {
        let site = |cols: usize| SiteMeta::linear("up", 8, cols);
        let allows = |bits, group_size, symmetric, cols| {
            let scheme = Scheme::Affine(AffineScheme { bits, group_size, symmetric });
            Engine::Vllm.allows(&scheme, &site(cols)).is_ok()
        };
        assert!(
            allows(4, Some(128), false, 256) && allows(3, Some(64), true, 256) && allows(8, None, true, 100)
        );
        assert!(!allows(3, Some(64), false, 256), "zero points at 3 bits");
        assert!(!allows(4, Some(16), true, 256), "groups of 16");
        assert!(!allows(4, Some(128), true, 192), "a short group");
        let odd: Scheme = "int3 g16".parse().unwrap();
        assert!(Engine::Transformers.allows(&odd, &site(192)).is_ok());
        let real: Scheme = "int4 g128 real".parse().unwrap();
        for engine in [Engine::Vllm, Engine::LlamaCpp, Engine::Transformers] {
            assert!(engine.allows(&real, &site(256)).unwrap_err().contains("real numbers"), "{engine}");
        }
        for (label, runs) in [("nvfp4", true), ("fp8", true), ("mxfp8", false), ("q4_k", false)] {
            let scheme: Scheme = label.parse().unwrap();
            assert_eq!(Engine::Vllm.allows(&scheme, &site(256)).is_ok(), runs, "{label}");
        }
    }
}
