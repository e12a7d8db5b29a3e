//! What a checkpoint holds of a site: numbers, or codes that stand for numbers.

use std::collections::BTreeMap;

use trimtab_io::{ActivationScheme, BranchFactors, Coded, Dtype, RawTensor, transpose};
use trimtab_models::Model;
use trimtab_nn::SiteMeta;

use crate::error::Result;

/// The weight of a site in the code of its file; `None` where it is dense.
pub(crate) fn coded(model: &Model, site: &SiteMeta) -> Result<Option<Coded>> {
    match model.quantization() {
        Some(quantization) => Ok(quantization.read(model.checkpoint(), &site.name)?),
        None => Ok(None),
    }
}

/// The branch beside the weight of a site.
pub(crate) fn branch(model: &Model, site: &SiteMeta) -> Result<Option<BranchFactors>> {
    Ok(BranchFactors::read(model.checkpoint(), &site.name)?)
}

/// How the input of a site is quantized while running, in words.
pub(crate) fn quantized_input(model: &Model, site: &SiteMeta) -> Result<Option<ActivationScheme>> {
    match model.quantization() {
        Some(quantization) => Ok(quantization.input(&site.name, is_coded(model, site))?),
        None => Ok(None),
    }
}

/// The site that a weight belongs to.
pub(crate) fn site_of<'a>(sites: &'a [SiteMeta], tensor: &str) -> Option<&'a SiteMeta> {
    sites.iter().find(|site| site.weight_name() == tensor)
}

/// Whether the checkpoint holds codes of a site, from its header alone.
pub(crate) fn is_coded(model: &Model, site: &SiteMeta) -> bool {
    let stored = model.checkpoint().info(&site.weight_name());
    model.quantization().is_some() && !stored.is_some_and(|info| info.dtype.is_float())
}

/// Bytes of the codes of every module and all that belongs to them, by the name of the module.
pub(crate) fn code_bytes(model: &Model) -> BTreeMap<&str, u64> {
    let checkpoint = model.checkpoint();
    let mut bytes = BTreeMap::new();
    for (name, info) in checkpoint.names().filter_map(|name| Some((name, checkpoint.info(name)?))) {
        if let Some((module, part)) = name.rsplit_once('.')
            && part != "bias"
        {
            // The factors of a branch belong to the module that they stand beside.
            let module = module.strip_suffix(".lora_A").or(module.strip_suffix(".lora_B")).unwrap_or(module);
            *bytes.entry(module).or_default() += info.bytes;
        }
    }
    bytes
}

/// The type of a site's numbers: as stored, or for codes the type in which `config.json` says the model computes.
///
/// # Errors
/// As [`trimtab_io::Checkpoint::require`].
pub(crate) fn dense_dtype(model: &Model, site: &SiteMeta) -> Result<Dtype> {
    if !is_coded(model, site) {
        return Ok(model.checkpoint().require(&site.weight_name())?.dtype);
    }
    let config = model.checkpoint().config();
    let named = config.and_then(|config| config.get("dtype").or(config.get("torch_dtype"))?.as_str());
    Ok(match named {
        Some("float32") => Dtype::F32,
        Some("float16") => Dtype::F16,
        _ => Dtype::BF16,
    })
}

/// A tensor of a stage as numbers, in the shape of the checkpoint: codes are decoded, branches are merged.
pub(crate) fn tensor(model: &Model, sites: &[SiteMeta], name: &str) -> Result<RawTensor> {
    if let Some(site) = site_of(sites, name) {
        let (coded, branch) = (coded(model, site)?, branch(model, site)?);
        if coded.is_some() || branch.is_some() {
            let values = numbers(model, site, coded, branch.as_ref())?;
            return dense_tensor(site, &values, dense_dtype(model, site)?);
        }
    }
    Ok(model.checkpoint().tensor(name)?)
}

/// The numbers of a site, `[out, in]`, from its codes or dense, with a branch in them.
pub(crate) fn numbers(
    model: &Model,
    site: &SiteMeta,
    coded: Option<Coded>,
    branch: Option<&BranchFactors>,
) -> Result<Vec<f32>> {
    let mut values = match coded {
        Some(coded) => coded.dequantize(),
        None => stored_numbers(site, &model.checkpoint().tensor(&site.weight_name())?)?,
    };
    if let Some(branch) = branch {
        branch.merge_into(&mut values)?;
    }
    Ok(values)
}

/// The inverse of [`dense_tensor`].
pub(crate) fn stored_numbers(site: &SiteMeta, tensor: &RawTensor) -> Result<Vec<f32>> {
    let values = tensor.to_f32()?;
    Ok(if site.transposed { transpose(&values, site.cols, site.rows) } else { values })
}

/// Dense numbers `[out, in]` in the shape of the checkpoint.
pub(crate) fn dense_tensor(meta: &SiteMeta, values: &[f32], dtype: Dtype) -> Result<RawTensor> {
    let stored = meta.stored_shape();
    Ok(match meta.transposed {
        true => RawTensor::from_f32(stored, &transpose(values, meta.rows, meta.cols), dtype)?,
        false => RawTensor::from_f32(stored, values, dtype)?,
    })
}
