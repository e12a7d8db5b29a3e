//! Converting: the same model in another file format.
//!
//! Formats with affine codes (compressed-tensors, GPTQ, AWQ, GGUF's Q4_0) pass codes on, never decoded numbers; what a
//! format cannot hold is refused before anything is written, and whatever loses precision is named matrix by matrix.

mod adapter;
pub(crate) mod gguf;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Value, json};
use trimtab_io::gguf::GgufType;
use trimtab_io::{
    AffineFormat, AffineTensor, AwqConfig, BranchFactors, Bytes, Coded, CompressedFormat, Dtype, Fidelity,
    GptqConfig, GptqFormat, OutDir, QuantizationConfig, RawTensor, awq_tensors, convert as convert_codes,
    gptq_tensors, int_tensors, round_floats, to_tensors,
};
use trimtab_models::Model;
use trimtab_nn::{SiteKind, SiteMeta, StageSource};

use crate::apply::{OutputSettings, SHARD_BYTES, pretty};
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::leftover;
use crate::monitor::Monitor;
use crate::scheme::scale_dtype;
use crate::source::{branch, coded, dense_dtype, dense_tensor, numbers, quantized_input, site_of};
use adapter::Branches;
pub use adapter::WrittenAdapter;

/// Side files that describe the former weights, and are written anew or not at all.
pub(crate) const REPLACED: [&str; 5] =
    ["config.json", "quantize_config.json", "quant_config.json", "trimtab.json", "plan.toml"];

const MIXED_GPTQ: &str = "several widths or group sizes: GPTQModel reads them (\"dynamic\"), transformers refuses the model; \
                          --to compressed-tensors is what transformers loads";

/// A file format to convert to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Affine codes in a Hugging Face directory.
    Affine(AffineFormat),
    /// Dense numbers in a Hugging Face directory; what was coded in this type, else in that of its scales.
    Safetensors(Option<Dtype>),
    /// One GGUF file, every matrix in blocks of this type.
    Gguf(GgufType),
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "compressed-tensors" | "pack-quantized" => Self::Affine(AffineFormat::PackQuantized),
            "int-quantized" => Self::Affine(AffineFormat::IntQuantized),
            "gptq" => Self::Affine(AffineFormat::Gptq(GptqFormat::V1)),
            "gptq_v2" | "gptq-v2" => Self::Affine(AffineFormat::Gptq(GptqFormat::V2)),
            "awq" => Self::Affine(AffineFormat::Awq),
            "safetensors" => Self::Safetensors(None),
            "safetensors:f32" => Self::Safetensors(Some(Dtype::F32)),
            "safetensors:f16" => Self::Safetensors(Some(Dtype::F16)),
            "safetensors:bf16" => Self::Safetensors(Some(Dtype::BF16)),
            other => {
                let ty =
                    other.strip_prefix("gguf:").and_then(|name| GgufType::from_name(&name.to_uppercase()));
                Self::Gguf(ty.ok_or_else(|| Error::Setting {
                    what: "--to",
                    message: format!("\"{text}\" is no format; expected {}", Self::known()),
                })?)
            }
        })
    }
}

impl Target {
    /// The formats by name.
    pub fn known() -> String {
        let types: Vec<String> =
            GgufType::ALL.iter().map(|ty| format!("gguf:{}", ty.to_string().to_lowercase())).collect();
        format!(
            "compressed-tensors, int-quantized, gptq, gptq_v2, awq, safetensors, safetensors:f32, {}",
            types.join(", ")
        )
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine(format) => format.fmt(f),
            Self::Safetensors(None) => f.pad("safetensors"),
            Self::Safetensors(Some(dtype)) => {
                f.pad(&format!("safetensors:{}", dtype.to_string().to_lowercase()))
            }
            Self::Gguf(ty) => f.pad(&format!("gguf:{}", ty.to_string().to_lowercase())),
        }
    }
}

/// A matrix whose numbers changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// The site.
    pub site: String,
    /// What was lost.
    pub what: String,
}

/// What a conversion did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Converted {
    /// Where the result is.
    pub output: PathBuf,
    /// The format.
    pub format: String,
    /// Bytes of the weights.
    pub bytes: u64,
    /// Matrices.
    pub matrices: usize,
    /// Matrices whose numbers are not the same to the last bit.
    pub lossy: Vec<Loss>,
    /// What programs that read the format may make of it.
    pub notes: Vec<String>,
    /// The branches, where they were written as an adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<WrittenAdapter>,
}

impl Converted {
    fn begun(out: &Path, target: Target) -> Self {
        let (output, format) = (out.into(), target.to_string());
        Self { output, format, bytes: 0, matrices: 0, lossy: Vec::new(), notes: Vec::new(), adapter: None }
    }
}

/// Where a conversion goes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// A directory, for GGUF a file.
    pub output: &'a Path,
    /// A directory for low-rank branches, as an adapter that PEFT loads. Without it, they are merged where numbers are dense,
    /// and kept in the house's own form (compressed-tensors) beside the codes.
    pub adapter: Option<&'a Path>,
    /// Whether existing outputs are replaced.
    pub force: bool,
}

/// Converts a model.
pub fn convert(
    model: &Model,
    target: Target,
    place: Place<'_>,
    monitor: &mut dyn Monitor,
) -> Result<Converted> {
    let Place { output, adapter, force } = place;
    // Decoded, an integer model grows; the disk is asked for what the codes take, and the writer says when it is full.
    OutputSettings { output: output.into(), form: Form::Packed, force }
        .check(model.checkpoint().total_bytes())?;
    let branches = match adapter {
        Some(path) => {
            adapter::check_place(path, output, force)?;
            Some(Branches::of(model)?)
        }
        None => None,
    };
    let apart = branches.is_some();
    if let (true, Target::Gguf(_)) = (apart, target) {
        check_apart(model)?;
    }
    let mut report = match target {
        Target::Gguf(ty) => gguf::write(model, ty, output, apart, monitor),
        _ => to_directory(model, target, (output, force, apart), monitor),
    }?;
    let sites = model.stages().iter().flat_map(|info| &info.sites);
    let inputs: Vec<_> = sites.map(|site| quantized_input(model, site)).collect::<Result<_>>()?;
    if let Some(scheme) = inputs.into_iter().flatten().next() {
        report.notes.push(format!(
            "the inputs of maps were quantized while running ({scheme}): the result takes them as they are"
        ));
    }
    if let (Some(path), Some(branches)) = (adapter, branches) {
        report.adapter = Some(branches.write(model, output, path, force)?);
    }
    Ok(report)
}

/// Numbers that are dense go into a GGUF file as they are; a branch beside them would be in both files.
fn check_apart(model: &Model) -> Result<()> {
    for site in model.stages().iter().flat_map(|info| &info.sites) {
        if branch(model, site)?.is_some() && coded(model, site)?.is_none() {
            let message = "is dense and has a branch\nhint: convert without --adapter merges the two".into();
            return Err(Error::Site { site: site.name.clone(), message });
        }
    }
    Ok(())
}

/// The code and the branch of a site as they are converted: a branch that goes apart is left out.
fn parts(model: &Model, site: &SiteMeta, apart: bool) -> Result<(Option<Coded>, Option<BranchFactors>)> {
    Ok((coded(model, site)?, if apart { None } else { branch(model, site)? }))
}

fn to_directory(
    model: &Model,
    target: Target,
    (out, force, apart): (&Path, bool, bool),
    monitor: &mut dyn Monitor,
) -> Result<Converted> {
    let how = if apart { "without branches " } else { "" };
    let job = format!("convert {target} {how}{}", model.checkpoint().fingerprint());
    let job = trimtab_io::sha256(job.as_bytes());
    let mut schemes = Schemes::default();
    let mut report = Converted::begun(out, target);
    // Everything is looked at first: a refusal leaves nothing behind.
    for info in model.stages() {
        for site in &info.sites {
            report.matrices += 1;
            let (coded, branch) = parts(model, site, apart)?;
            if branch.is_some() {
                check_branch(site, target)?;
            }
            if coded.is_none() && site.kind != SiteKind::Embedding {
                schemes.dense.push(site.name.clone());
            }
            report.lossy.extend(match (coded, target) {
                (Some(coded), Target::Affine(format)) => schemes.take(site, coded, format)?,
                (None, _) if branch.is_none() => None,
                (None, Target::Affine(_)) => None,
                (coded, _) => {
                    let dtype = decoded_dtype(model, site, coded.as_ref(), target)?;
                    rounding(site, &numbers(model, site, coded, branch.as_ref())?, dtype)?
                }
            });
        }
    }
    if model.tied() {
        // No site of its own, but a linear map to the libraries of the formats.
        schemes.dense.push("lm_head".into());
    }
    if schemes.matrices.is_empty() && matches!(target, Target::Affine(_)) {
        return Err(Error::Setting {
            what: "convert",
            message: format!(
                "{} has no quantized matrix, and converting does not quantize\nhint: trimtab apply or fit",
                model.checkpoint().path().display()
            ),
        });
    }
    let quantization = schemes.config(target, &mut report.notes)?;
    let mut dir = OutDir::create(out, &job, force)?;
    monitor.begin("converting", model.stages().len());
    for (i, info) in model.stages().iter().enumerate() {
        if monitor.interrupted() {
            return Err(Error::Interrupted { kept: dir.partial().display().to_string() });
        }
        let key = format!("stage-{i:05}");
        if !dir.unit_done(&key) {
            let mut tensors = Vec::new();
            for name in &info.tensors {
                match site_of(&info.sites, name) {
                    Some(site) => tensors.extend(written(model, site, name, (target, apart))?),
                    None => tensors.push((name.clone(), model.checkpoint().tensor(name)?)),
                }
            }
            dir.commit_unit(&key, &tensors)?;
            model.checkpoint().release();
        }
        monitor.advance(i + 1, &info.name);
    }
    let rest: Vec<(String, RawTensor)> = leftover(model)
        .into_iter()
        .map(|name| Ok((name.to_string(), model.checkpoint().tensor(name)?)))
        .collect::<Result<_>>()?;
    if !rest.is_empty() && !dir.unit_done("rest") {
        dir.commit_unit("rest", &rest)?;
    }
    for (name, bytes) in model.checkpoint().side_files()? {
        if !REPLACED.contains(&&*name) {
            dir.put_file(&name, &bytes)?;
        }
    }
    let mut config = model.checkpoint().config().cloned().unwrap_or_else(|| json!({}));
    if let Some(object) = config.as_object_mut() {
        object.remove("quantization_config");
        object.extend(quantization.map(|value| ("quantization_config".to_string(), value)));
    }
    dir.put_file("config.json", pretty(&config).as_bytes())?;
    let files = dir.finish_shards(SHARD_BYTES, &[("format".to_string(), "pt".to_string())].into())?;
    report.bytes = files.iter().filter(|f| f.name.ends_with(".safetensors")).map(|f| f.bytes).sum();
    report.output = dir.finish()?;
    Ok(report)
}

/// How the matrices of the output are coded.
#[derive(Default)]
struct Schemes {
    /// Without codes: what the configurations need to know.
    matrices: Vec<(String, AffineTensor)>,
    dense: Vec<String>,
}

impl Schemes {
    /// Checks that `format` can hold a matrix, keeps its outline, and says what is lost.
    fn take(&mut self, site: &SiteMeta, coded: Coded, format: AffineFormat) -> Result<Option<Loss>> {
        let refuse = |message: String| Err(Error::Site { site: site.name.clone(), message });
        let matrix = match coded {
            Coded::Affine(matrix) => matrix,
            Coded::Real(_) => {
                return refuse(format!(
                    "its zero points are real numbers; {format} stores integer ones\nhint: --to safetensors or gguf:TYPE \
                     writes what the codes stand for"
                ));
            }
            _ => {
                return refuse(format!(
                    "its code is not affine, {format} cannot hold it without quantizing it anew"
                ));
            }
        };
        let (matrix, fidelity) = convert_codes(&matrix, format).map_err(|e| refused(site, &e))?;
        let outline = AffineTensor { codes: Bytes::from(Vec::new()), ..matrix };
        self.matrices.push((site.name.clone(), outline));
        Ok(match fidelity {
            Fidelity::Exact => None,
            lossy => Some(Loss { site: site.name.clone(), what: lossy.to_string() }),
        })
    }

    /// The object `quantization_config`, and what to know of it.
    fn config(&self, target: Target, notes: &mut Vec<String>) -> Result<Option<Value>> {
        let matrices = || self.matrices.iter().map(|(name, matrix)| (name.as_str(), matrix));
        let compressed = || {
            let schemes = matrices().map(|(name, matrix)| (name, matrix.scheme, matrix.g_idx.is_some()));
            QuantizationConfig::of_schemes(schemes, &self.dense)
        };
        Ok(match target {
            Target::Affine(AffineFormat::PackQuantized) => Some(compressed().to_json()),
            Target::Affine(AffineFormat::IntQuantized) => {
                Some(compressed().in_format(CompressedFormat::IntQuantized, None).to_json())
            }
            Target::Affine(AffineFormat::Gptq(version)) => {
                let config = GptqConfig::of(version, matrices(), &self.dense)?;
                if !config.is_uniform() {
                    notes.push(MIXED_GPTQ.into());
                }
                Some(config.to_json())
            }
            Target::Affine(AffineFormat::Awq) => Some(AwqConfig::of(matrices(), &self.dense)?.to_json()),
            Target::Safetensors(_) | Target::Gguf(_) => None,
        })
    }
}

fn refused(site: &SiteMeta, error: &trimtab_io::Error) -> Error {
    Error::Site { site: site.name.clone(), message: error.to_string() }
}

/// Only the house's own form has a place for branches.
fn check_branch(site: &SiteMeta, target: Target) -> Result<()> {
    match target {
        Target::Affine(AffineFormat::PackQuantized) | Target::Safetensors(_) | Target::Gguf(_) => Ok(()),
        Target::Affine(format) => Err(Error::Site {
            site: site.name.clone(),
            message: format!(
                "has a low-rank branch, and {format} has no place for one\nhint: --adapter DIR writes branches apart, \
                 --to safetensors merges them"
            ),
        }),
    }
}

/// The type that decoded or merged numbers are stored in.
fn decoded_dtype(model: &Model, site: &SiteMeta, coded: Option<&Coded>, target: Target) -> Result<Dtype> {
    Ok(match (target, coded) {
        (Target::Safetensors(Some(dtype)), _) => dtype,
        (_, Some(Coded::Affine(matrix))) => scale_dtype(matrix.scale_dtype),
        (_, Some(Coded::Real(matrix))) => scale_dtype(matrix.codes().scale_dtype),
        (_, Some(_)) => Dtype::BF16,
        (_, None) => dense_dtype(model, site)?,
    })
}

/// What numbers lose in a type.
fn rounding(site: &SiteMeta, values: &[f32], dtype: Dtype) -> Result<Option<Loss>> {
    let mut rounded = values.to_vec();
    round_floats(&mut rounded, dtype)?;
    let change = values.iter().zip(&rounded).filter(|(a, b)| a != b).map(|(a, b)| ((a - b) / a).abs());
    let largest = change.fold(0.0f32, f32::max);
    let what = format!("decoded to {dtype}, largest relative change {largest:.1e}");
    Ok((largest > 0.0).then(|| Loss { site: site.name.clone(), what }))
}

/// The tensors of a site in a directory of `target`.
fn written(
    model: &Model,
    site: &SiteMeta,
    name: &str,
    (target, apart): (Target, bool),
) -> Result<Vec<(String, RawTensor)>> {
    let (coded, branch) = parts(model, site, apart)?;
    let beside = |branch: Option<BranchFactors>| branch.map_or(Vec::new(), |b| b.tensors(&site.name));
    let (Target::Affine(format), Some(Coded::Affine(matrix))) = (target, &coded) else {
        return Ok(match (&coded, target, branch) {
            (None, _, None) => vec![(name.to_string(), model.checkpoint().tensor(name)?)],
            (None, Target::Affine(_), branch) => {
                let own = (name.to_string(), model.checkpoint().tensor(name)?);
                std::iter::once(own).chain(beside(branch)).collect()
            }
            (_, _, branch) => {
                let dtype = decoded_dtype(model, site, coded.as_ref(), target)?;
                let values = numbers(model, site, coded, branch.as_ref())?;
                vec![(name.to_string(), dense_tensor(site, &values, dtype)?)]
            }
        });
    };
    let (matrix, _) = convert_codes(matrix, format).map_err(|e| refused(site, &e))?;
    let mut tensors = match format {
        AffineFormat::PackQuantized => to_tensors(&site.name, &matrix)?,
        AffineFormat::IntQuantized => int_tensors(&site.name, &matrix)?,
        AffineFormat::Gptq(version) => gptq_tensors(&site.name, &matrix, version)?,
        AffineFormat::Awq => awq_tensors(&site.name, &matrix)?,
    };
    tensors.extend(beside(branch));
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_the_names_that_they_print() {
        for text in [
            "pack-quantized",
            "int-quantized",
            "gptq",
            "gptq_v2",
            "awq",
            "safetensors",
            "safetensors:f32",
            "gguf:q4_k",
            "gguf:f16",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let message = "gguf:q9".parse::<Target>().unwrap_err().to_string();
        assert!(message.contains("gguf:q8_0") && message.contains("awq"), "{message}");
    }
}
