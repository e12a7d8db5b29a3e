//! Converting: the same model in another file format.
//!
//! Formats with affine codes (compressed-tensors, GPTQ, AWQ, GGUF's Q4_0) pass codes on, never decoded numbers; what a
//! format cannot hold is refused before anything is written, and whatever loses precision is named matrix by matrix.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Value, json};
use trimtab_io::gguf::{GgufModelWriter, GgufTensor, GgufType, TokenizerFiles};
use trimtab_io::{
    AffineFormat, AffineTensor, AwqConfig, Bytes, Coded, CompressedFormat, Dtype, Fidelity, GptqConfig,
    GptqFormat, OutDir, QuantizationConfig, RawTensor, awq_tensors, convert as convert_codes, gptq_tensors,
    int_tensors, round_floats, to_tensors,
};
use trimtab_models::Model;
use trimtab_nn::{SiteKind, SiteMeta, StageSource};

use crate::apply::{SHARD_BYTES, dense_tensor_of, pretty};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::scheme::scale_dtype;

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
}

/// Converts a model; `out` is a directory, for GGUF a file.
pub fn convert(
    model: &Model,
    target: Target,
    out: &Path,
    force: bool,
    monitor: &mut dyn Monitor,
) -> Result<Converted> {
    match target {
        Target::Gguf(ty) => to_gguf(model, ty, out, force, monitor),
        _ => to_directory(model, target, out, force, monitor),
    }
}

/// The weight of a site in the code of its file; `None` where it is dense.
fn coded(model: &Model, site: &SiteMeta) -> Result<Option<Coded>> {
    match model.quantization() {
        Some(quantization) => Ok(quantization.read(model.checkpoint(), &site.name)?),
        None => Ok(None),
    }
}

/// The name of a weight and its site.
fn site_of<'a>(sites: &'a [SiteMeta], tensor: &str) -> Option<&'a SiteMeta> {
    sites.iter().find(|site| site.weight_name() == tensor)
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
    let mut report = Converted {
        output: out.into(),
        format: target.to_string(),
        bytes: 0,
        matrices: 0,
        lossy: Vec::new(),
    };
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
    let quantization = schemes.config(target)?;
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
    let rest: Vec<(String, RawTensor)> = model
        .unclaimed()
        .into_iter()
        .filter(|&name| !(model.tied() && name == "lm_head.weight"))
        .map(|name| Ok((name.to_string(), model.checkpoint().tensor(name)?)))
        .collect::<Result<_>>()?;
    if !rest.is_empty() && !dir.unit_done("rest") {
        dir.commit_unit("rest", &rest)?;
    }
    for (name, bytes) in model.checkpoint().side_files()? {
        // What described the former format.
        if !["config.json", "quantize_config.json", "quant_config.json", "trimtab.json", "plan.toml"]
            .contains(&&*name)
        {
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

    fn config(&self, target: Target) -> Result<Option<Value>> {
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
                Some(GptqConfig::of(version, matrices(), &self.dense)?.to_json())
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
        _ => Dtype::BF16,
    }
}

/// The tensors of a quantized site in a directory of `target`.
fn written(site: &SiteMeta, name: &str, coded: Coded, target: Target) -> Result<Vec<(String, RawTensor)>> {
    let (Target::Affine(format), Coded::Affine(matrix)) = (target, &coded) else {
        let dtype = dense_dtype(&coded);
        return Ok(vec![(name.to_string(), dense_tensor_of(site, &coded.dequantize(), dtype)?)]);
    };
    let (matrix, _) = convert_codes(matrix, format).map_err(|e| refused(site, &e))?;
    Ok(match format {
        AffineFormat::PackQuantized => to_tensors(&site.name, &matrix)?,
        AffineFormat::IntQuantized => int_tensors(&site.name, &matrix)?,
        AffineFormat::Gptq(version) => gptq_tensors(&site.name, &matrix, version)?,
        AffineFormat::Awq => awq_tensors(&site.name, &matrix)?,
    })
}

fn to_gguf(
    model: &Model,
    ty: GgufType,
    out: &Path,
    force: bool,
    monitor: &mut dyn Monitor,
) -> Result<Converted> {
    let checkpoint = model.checkpoint();
    if out.exists() && !force {
        return Err(trimtab_io::Error::OutputExists { path: out.into() }.into());
    }
    let sites: Vec<SiteMeta> = model.stages().iter().flat_map(|info| info.sites.iter().cloned()).collect();
    let misfits: Vec<&str> =
        sites.iter().filter(|site| !ty.fits(site.cols)).map(|site| site.name.as_str()).collect();
    if let Some(first) = misfits.first() {
        let message = format!(
            "rows are no multiple of the {} numbers of a {ty} block, here and in {} other sites\nhint: a type with \
             smaller blocks, for example --to gguf:q8_0, or with none, gguf:f16",
            ty.block_len(),
            misfits.len() - 1
        );
        return Err(Error::Site { site: (*first).into(), message });
    }
    let json = |name: &str| -> Result<Option<Value>> {
        let bytes = checkpoint.side_file(name)?;
        let parse = |bytes: Bytes| {
            serde_json::from_slice(&bytes)
                .map_err(|e| Error::Data { what: name.into(), message: e.to_string() })
        };
        bytes.map(parse).transpose()
    };
    let template = checkpoint.side_file("chat_template.jinja")?;
    let files = TokenizerFiles {
        tokenizer: json("tokenizer.json")?,
        config: json("tokenizer_config.json")?,
        chat_template: template.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        pooling: json("1_Pooling/config.json")?,
        pre: None,
    };
    let mut config = checkpoint.config().cloned().unwrap_or(Value::Null);
    if let Some(object) = config.as_object_mut() {
        object.remove("quantization_config");
    }
    let name = out.file_stem().map(|name| name.to_string_lossy().into_owned());
    let mut writer = GgufModelWriter::create(out, &config, &files, name.as_deref())?;
    let mut report = Converted {
        output: out.into(),
        format: Target::Gguf(ty).to_string(),
        bytes: 0,
        matrices: 0,
        lossy: Vec::new(),
    };
    let mut taken = BTreeSet::new();
    monitor.begin("converting", model.stages().len());
    for (i, info) in model.stages().iter().enumerate() {
        if monitor.interrupted() {
            return Err(Error::Interrupted { kept: "nothing".into() });
        }
        for name in info.tensors.iter().filter(|name| taken.insert((*name).clone())) {
            let Some(site) = site_of(&info.sites, name) else {
                writer.append(name, &checkpoint.tensor(name)?)?;
                continue;
            };
            let coded = coded(model, site)?;
            report.matrices += 1;
            let (blocks, exact) = blocks(model, site, name, coded, ty)?;
            writer.append_blocks(name, &blocks)?;
            if !exact {
                report.lossy.push(Loss { site: site.name.clone(), what: format!("rounded to {ty}") });
            }
        }
        checkpoint.release();
        monitor.advance(i + 1, &info.name);
    }
    report.bytes = writer.finish()?.bytes;
    Ok(report)
}

/// A matrix in blocks of `ty`, and whether its numbers are the same to the last bit.
fn blocks(
    model: &Model,
    site: &SiteMeta,
    name: &str,
    coded: Option<Coded>,
    ty: GgufType,
) -> Result<(GgufTensor, bool)> {
    if coded.is_none()
        && let Some(blocks) = model.checkpoint().blocks(name)?.filter(|blocks| blocks.ty == ty)
    {
        return Ok((blocks, true));
    }
    if let (GgufType::Q4_0, Some(Coded::Affine(matrix))) = (ty, &coded)
        && let Some(blocks) = q4_0(matrix)
    {
        return Ok((blocks, true));
    }
    let values = match &coded {
        Some(coded) => coded.dequantize(),
        None => {
            let values = model.checkpoint().tensor(name)?.to_f32()?;
            if site.transposed { crate::apply::transpose(&values, site.cols, site.rows) } else { values }
        }
    };
    let blocks = GgufTensor::encode(&values, site.rows, site.cols, ty, None)?;
    let exact = blocks.dequantize() == values;
    Ok((blocks, exact))
}

/// Symmetric codes of four bits whose scales are of half precision and whose groups hold whole blocks are `Q4_0` as they
/// are.
fn q4_0(matrix: &AffineTensor) -> Option<GgufTensor> {
    const BLOCK: usize = 32;
    let AffineTensor { rows, cols, scheme, .. } = *matrix;
    let group = scheme.group_size.unwrap_or(cols);
    let fits = scheme.bits == 4 && scheme.symmetric && matrix.g_idx.is_none();
    if !(fits && cols.is_multiple_of(BLOCK) && group.is_multiple_of(BLOCK)) {
        return None;
    }
    let halves: Vec<half::f16> = matrix.scales.iter().map(|&scale| half::f16::from_f32(scale)).collect();
    if halves.iter().zip(&matrix.scales).any(|(half, scale)| half.to_f32() != *scale) {
        return None;
    }
    let groups = scheme.n_groups(cols);
    let mut data = Vec::with_capacity(rows * cols / BLOCK * 18);
    let mut codes = vec![0u8; cols];
    for row in 0..rows {
        matrix.unpack_row(row, &mut codes);
        for (i, block) in codes.chunks_exact(BLOCK).enumerate() {
            data.extend(halves[row * groups + i * BLOCK / group].to_le_bytes());
            let (low, high) = block.split_at(BLOCK / 2);
            data.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
        }
    }
    GgufTensor::new(GgufType::Q4_0, rows, cols, Bytes::from(data)).ok()
}

#[cfg(test)]
mod tests {
    use trimtab_io::AffineScheme;

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

    #[test]
    fn symmetric_codes_of_four_bits_are_q4_0_as_they_are() {
        let scheme = AffineScheme { bits: 4, group_size: Some(64), symmetric: true };
        let codes: Vec<u8> = (0..2 * 128).map(|i| ((i * 7) % 16) as u8).collect();
        let matrix = |scale: f32| {
            let scales = vec![scale, 0.5, 0.25, 2.0];
            AffineTensor::from_codes(2, 128, scheme, &codes, scales, None, None, Dtype::F32).unwrap()
        };
        let blocks = q4_0(&matrix(0.125)).unwrap();
        assert_eq!(blocks.dequantize(), matrix(0.125).dequantize());
        assert!(q4_0(&matrix(0.1)).is_none(), "0.1 is no number of half precision");
    }
}
