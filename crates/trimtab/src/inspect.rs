//! Inspecting: what a model is made of.

use rayon::prelude::*;
use serde::Serialize;
use trimtab_math::linalg::thin_svd;
use trimtab_models::Model;
use trimtab_nn::{Branch, Role, Site, StageSource};

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::scheme::Scheme;

/// What is found of a site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteFacts {
    /// Name.
    pub site: String,
    /// `embed`, `block` or `head`.
    pub role: &'static str,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Axis of the inputs.
    pub input: String,
    /// Axis of the outputs.
    pub output: String,
    /// Type in the file, or the scheme of a packed weight.
    pub dtype: String,
    /// Weights.
    pub params: usize,
    /// Root mean square of the weights.
    pub rms: f64,
    /// Largest magnitude in units of the root mean square: how far outliers stand out.
    pub outlier: f64,
    /// `exp` of the entropy of the normalized singular values: how many directions the map really uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_rank: Option<f64>,
}

/// What is found of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// Path.
    pub model: String,
    /// Kind of model.
    pub task: String,
    /// Bytes of the weight files.
    pub bytes: u64,
    /// Numbers in the checkpoint's stages.
    pub params: usize,
    /// Whether the head borrows the embedding.
    pub tied: bool,
    /// Fingerprint.
    pub fingerprint: String,
    /// Tensors that no stage reads, such as blocks of a vision tower behind its features; they are copied as they are.
    pub unread: Vec<String>,
    /// The sites in order.
    pub sites: Vec<SiteFacts>,
}

/// Reads every site once.
pub fn inspect(model: &Model, rank: bool, monitor: &mut dyn Monitor) -> Result<ModelFacts> {
    let stages = model.stages();
    monitor.begin("inspecting", stages.len());
    let mut sites = Vec::new();
    for (i, info) in stages.iter().enumerate() {
        let stage = model.load(i)?;
        let role = match info.role {
            Role::Embed => "embed",
            Role::Block => "block",
            Role::Head => "head",
        };
        let found: Vec<SiteFacts> = stage
            .sites()
            .into_par_iter()
            .map(|site| {
                let meta = site.meta();
                let weights = site.to_f32();
                let power: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
                let rms = (power / weights.len().max(1) as f64).sqrt();
                let largest = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                let dtype = type_of(model, site)?;
                Ok(SiteFacts {
                    site: meta.name.clone(),
                    role,
                    shape: [meta.rows, meta.cols],
                    input: meta.input.name().into(),
                    output: meta.output.name().into(),
                    dtype,
                    params: meta.numel(),
                    rms,
                    outlier: if rms > 0.0 { f64::from(largest) / rms } else { 0.0 },
                    effective_rank: if rank {
                        Some(effective_rank(&weights, meta.rows, meta.cols)?)
                    } else {
                        None
                    },
                })
            })
            .collect::<Result<_>>()?;
        sites.extend(found);
        model.checkpoint().release();
        monitor.advance(i + 1, "");
    }
    let checkpoint = model.checkpoint();
    Ok(ModelFacts {
        model: checkpoint.path().display().to_string(),
        task: format!("{:?}", model.task()).to_lowercase(),
        bytes: checkpoint.total_bytes(),
        params: stages.iter().map(|stage| stage.numel).sum(),
        tied: model.tied(),
        fingerprint: checkpoint.fingerprint().to_string(),
        unread: model.unclaimed().into_iter().map(str::to_string).collect(),
        sites,
    })
}

/// Type of a weight in the file, or the scheme of its codes, and the ranks of the branches beside it.
fn type_of(model: &Model, site: &Site) -> Result<String> {
    let weight = weight_type(model, site)?;
    let whole = site.branches.iter().fold(weight, |text, Branch::LowRank(branch)| {
        let [rank, _] = branch.a.dims();
        format!("{text} + rank {rank}")
    });
    Ok(match site.activation() {
        Some(quantizer) => format!("{whole}, input {}", quantizer.scheme()),
        None => whole,
    })
}

fn weight_type(model: &Model, site: &Site) -> Result<String> {
    if let Some(packed) = site.weight.as_packed() {
        return Ok(packed.scheme.to_string());
    }
    if let Some(coded) = site.weight.as_coded() {
        return Ok(Scheme::of(coded).map_or("table".into(), |scheme| scheme.to_string()));
    }
    let info = model.checkpoint().require(&site.meta().weight_name())?;
    Ok(info.block_type().map_or_else(|| info.dtype.to_string(), |ty| ty.to_string().to_lowercase()))
}

/// Roy and Vetterli, "The effective rank", EUSIPCO 2007.
fn effective_rank(weights: &[f32], rows: usize, cols: usize) -> Result<f64> {
    let wide: Vec<f64> = weights.iter().map(|&w| w.into()).collect();
    let svd = thin_svd(&wide, rows, cols)
        .map_err(|e| Error::Data { what: "singular values".into(), message: e.to_string() })?;
    let total: f64 = svd.s.iter().sum();
    let entropy: f64 = svd.s.iter().map(|s| s / total).filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
    Ok(if total > 0.0 { entropy.exp() } else { 0.0 })
}
