//! Converting: the same model in another file format.
//!
//! Formats with affine codes (compressed-tensors, GPTQ, AWQ, GGUF's Q4_0) pass codes on, never decoded numbers; what a
//! format cannot hold is refused before anything is written, and whatever loses precision is named matrix by matrix.

pub(crate) mod gguf;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Value, json};
use trimtab_io::gguf::GgufType;
use trimtab_io::{
    AffineFormat, AffineTensor, AwqConfig, Bytes, Coded, CompressedFormat, Dtype, Fidelity, GptqConfig,
    GptqFormat, OutDir, QuantizationConfig, RawTensor, awq_tensors, convert as convert_codes, gptq_tensors,
    int_tensors, round_floats, to_tensors,
};
use trimtab_models::Model;
use trimtab_nn::{SiteKind, SiteMeta, StageSource};

use crate::apply::{OutputSettings, SHARD_BYTES, pretty};
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::leftover;
use crate::monitor::Monitor;
use crate::scheme::scale_dtype;
use crate::source::{coded, dense_tensor, site_of};

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
    /// Dense numbers in a Hugging Face directory.
    Safetensors,
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
            "safetensors" => Self::Safetensors,
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
        format!("compressed-tensors, int-quantized, gptq, gptq_v2, awq, safetensors, {}", types.join(", "))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine(format) => format.fmt(f),
            Self::Safetensors => f.pad("safetensors"),
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
}

impl Converted {
    fn begun(out: &Path, target: Target) -> Self {
        let (output, format) = (out.into(), target.to_string());
        Self { output, format, bytes: 0, matrices: 0, lossy: Vec::new(), notes: Vec::new() }
    }
}

/// Converts a model; `out` is a directory, for GGUF a file.
pub fn convert(
    model: &Model,
    target: Target,
    out: &Path,
    force: bool,
    monitor: &mut dyn Monitor,
) -> Result<Converted> {
    // Decoded, an integer model grows; the disk is asked for what the codes take, and the writer says when it is full.
    OutputSettings { output: out.into(), form: Form::Packed, force }
        .check(model.checkpoint().total_bytes())?;
    match target {
        Target::Gguf(ty) => gguf::write(model, ty, out, monitor),
        _ => to_directory(model, target, out, force, monitor),
    }
}

fn to_directory(
    model: &Model,
    target: Target,
    out: &Path,
    force: bool,
    monitor: &mut dyn Monitor,
) -> Result<Converted> {
    let job = trimtab_io::sha256(format!("convert {target} {}", model.checkpoint().fingerprint()).as_bytes());
    let mut schemes = Schemes::default();
    let mut report = Converted::begun(out, target);
    // Everything is looked at first: a refusal leaves nothing behind.
    for info in model.stages() {
        for site in &info.sites {
            report.matrices += 1;
            let Some(coded) = coded(model, site)? else {
                if site.kind != SiteKind::Embedding {
                    schemes.dense.push(site.name.clone());
                }
                continue;
            };
            report.lossy.extend(schemes.take(site, coded, target)?);
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
                match site_of(&info.sites, name)
                    .map(|site| Ok::<_, Error>((site, coded(model, site)?)))
                    .transpose()?
                {
                    Some((site, Some(coded))) => tensors.extend(written(site, name, coded, target)?),
                    _ => tensors.push((name.clone(), model.checkpoint().tensor(name)?)),
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
    /// Checks that `target` can hold a matrix, keeps its outline, and says what is lost.
    fn take(&mut self, site: &SiteMeta, coded: Coded, target: Target) -> Result<Option<Loss>> {
        let loss = |what: String| Some(Loss { site: site.name.clone(), what });
        match (target, coded) {
            (Target::Affine(format), Coded::Affine(matrix)) => {
                let (matrix, fidelity) = convert_codes(&matrix, format).map_err(|e| refused(site, &e))?;
                let outline = AffineTensor { codes: Bytes::from(Vec::new()), ..matrix };
                self.matrices.push((site.name.clone(), outline));
                Ok(match fidelity {
                    Fidelity::Exact => None,
                    lossy => loss(lossy.to_string()),
                })
            }
            (Target::Affine(format), Coded::Real(_)) => {
                let message = format!(
                    "its zero points are real numbers; {format} stores integer ones\nhint: --to safetensors or gguf:TYPE writes what the codes stand for"
                );
                Err(Error::Site { site: site.name.clone(), message })
            }
            (Target::Affine(format), _) => {
                let message =
                    format!("its code is not affine, {format} cannot hold it without quantizing it anew");
                Err(Error::Site { site: site.name.clone(), message })
            }
            (_, coded) => {
                let dtype = dense_dtype(&coded);
                let values = coded.dequantize();
                let mut rounded = values.clone();
                round_floats(&mut rounded, dtype)?;
                let change =
                    values.iter().zip(&rounded).filter(|(a, b)| a != b).map(|(a, b)| ((a - b) / a).abs());
                let largest = change.fold(0.0f32, f32::max);
                Ok(if largest > 0.0 {
                    loss(format!("decoded to {dtype}, largest relative change {largest:.1e}"))
                } else {
                    None
                })
            }
        }
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
            Target::Safetensors | Target::Gguf(_) => None,
        })
    }
}

fn refused(site: &SiteMeta, error: &trimtab_io::Error) -> Error {
    Error::Site { site: site.name.clone(), message: error.to_string() }
}

/// The type that decoded numbers are stored in.
fn dense_dtype(coded: &Coded) -> Dtype {
    match coded {
        Coded::Affine(matrix) => scale_dtype(matrix.scale_dtype),
        Coded::Real(matrix) => scale_dtype(matrix.codes().scale_dtype),
        _ => Dtype::BF16,
    }
}

/// The tensors of a quantized site in a directory of `target`.
fn written(site: &SiteMeta, name: &str, coded: Coded, target: Target) -> Result<Vec<(String, RawTensor)>> {
    let (Target::Affine(format), Coded::Affine(matrix)) = (target, &coded) else {
        let dtype = dense_dtype(&coded);
        return Ok(vec![(name.to_string(), dense_tensor(site, &coded.dequantize(), dtype)?)]);
    };
    let (matrix, _) = convert_codes(matrix, format).map_err(|e| refused(site, &e))?;
    Ok(match format {
        AffineFormat::PackQuantized => to_tensors(&site.name, &matrix)?,
        AffineFormat::IntQuantized => int_tensors(&site.name, &matrix)?,
        AffineFormat::Gptq(version) => gptq_tensors(&site.name, &matrix, version)?,
        AffineFormat::Awq => awq_tensors(&site.name, &matrix)?,
    })
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
            "gguf:q4_k",
            "gguf:f16",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let message = "gguf:q9".parse::<Target>().unwrap_err().to_string();
        assert!(message.contains("gguf:q8_0") && message.contains("awq"), "{message}");
    }
}
