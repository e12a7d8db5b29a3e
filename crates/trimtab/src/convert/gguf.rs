//! A model as one GGUF file.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use trimtab_io::gguf::{GgufModelWriter, GgufTensor, GgufType, TokenizerFiles};
use trimtab_io::{AffineTensor, BranchFactors, Bytes, Coded, RawTensor, transpose};
use trimtab_models::Model;
use trimtab_nn::{SiteMeta, StageSource};

use super::{Converted, Loss, Target, parts};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::source::{numbers, site_of, tensor};

/// Writes `model` as one file, every matrix in blocks of `ty`.
///
/// Branches are merged before, unless they go `apart`.
pub(super) fn write(
    model: &Model,
    ty: GgufType,
    out: &Path,
    apart: bool,
    monitor: &mut dyn Monitor,
) -> Result<Converted> {
    let checkpoint = model.checkpoint();
    let sites: Vec<SiteMeta> = model.stages().iter().flat_map(|info| info.sites.iter().cloned()).collect();
    let misfits: Vec<&str> =
        sites.iter().filter(|site| !ty.fits(site.cols)).map(|site| site.name.as_str()).collect();
    if let Some(first) = misfits.first() {
        let message = format!(
            "rows are no multiple of the {} numbers of a {ty} block, here and in {} other sites\nhint: {}",
            ty.block_len(),
            misfits.len() - 1,
            match ty.block_len() > GgufType::Q8_0.block_len() {
                true => "a type with smaller blocks, for example --to gguf:q8_0, or with none, gguf:f16",
                false => "a type without blocks, --to gguf:f16",
            }
        );
        return Err(Error::Site { site: (*first).into(), message });
    }
    let mut writer = begin(model, out, out)?;
    let mut report = Converted::begun(out, Target::Gguf(ty));
    let mut taken = BTreeSet::new();
    monitor.begin("converting", model.stages().len());
    for (i, info) in model.stages().iter().enumerate() {
        if monitor.interrupted() {
            return Err(Error::Stopped);
        }
        for name in info.tensors.iter().filter(|name| taken.insert((*name).clone())) {
            let site = match site_of(&info.sites, name) {
                Some(site) if !single(model, name) => site,
                _ => {
                    append(&mut writer, model, &info.sites, name)?;
                    continue;
                }
            };
            let whole = parts(model, site, apart)?;
            report.matrices += 1;
            let (blocks, exact) = blocks(model, site, name, whole, ty)?;
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

/// Begins the file of a model, which is named after `named`.
pub(crate) fn begin(model: &Model, path: &Path, named: &Path) -> Result<GgufModelWriter> {
    let (config, files) = description(model)?;
    let name = named.file_stem().map(|name| name.to_string_lossy().into_owned());
    Ok(GgufModelWriter::create(path, &config, &files, name.as_deref())?)
}

/// Bytes of the file beside its tensors.
///
/// # Errors
/// Where the model cannot be written as such a file.
pub(crate) fn overhead(model: &Model) -> Result<u64> {
    let (config, files) = description(model)?;
    Ok(GgufModelWriter::overhead(&config, &files)?)
}

/// Adds a tensor as plain numbers.
pub(crate) fn append(
    writer: &mut GgufModelWriter,
    model: &Model,
    sites: &[SiteMeta],
    name: &str,
) -> Result<()> {
    Ok(writer.append(name, &finite(model, sites, name)?)?)
}

fn single(model: &Model, name: &str) -> bool {
    model.checkpoint().config().is_some_and(|config| GgufModelWriter::wants_single(config, name))
}

/// What the file says of a model beside its tensors.
fn description(model: &Model) -> Result<(Value, TokenizerFiles)> {
    let checkpoint = model.checkpoint();
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
    Ok((config, files))
}

/// A tensor of numbers: blocks would turn one NaN into a whole block of nothing, without a word.
fn finite(model: &Model, sites: &[SiteMeta], name: &str) -> Result<RawTensor> {
    let tensor = tensor(model, sites, name)?;
    match tensor.first_non_finite() {
        None => Ok(tensor),
        Some((index, value)) => Err(trimtab_models::Error::NotFinite {
            model: model.checkpoint().path().display().to_string(),
            tensor: name.into(),
            value,
            index,
        }
        .into()),
    }
}

/// A matrix in blocks of `ty`, and whether its numbers are the same to the last bit.
fn blocks(
    model: &Model,
    site: &SiteMeta,
    name: &str,
    (coded, branch): (Option<Coded>, Option<BranchFactors>),
    ty: GgufType,
) -> Result<(GgufTensor, bool)> {
    if branch.is_some() {
        let values = numbers(model, site, coded, branch.as_ref())?;
        return Ok((GgufTensor::encode(&values, site.rows, site.cols, ty, None)?, false));
    }
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
            let values = finite(model, std::slice::from_ref(site), name)?.to_f32()?;
            if site.transposed { transpose(&values, site.cols, site.rows) } else { values }
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
    use trimtab_io::{AffineScheme, Dtype};

    use super::*;

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
