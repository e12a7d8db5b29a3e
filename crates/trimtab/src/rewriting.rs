//! Rewriting: a model of the same function with other weights, on disk, whole or not at all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use trimtab_calibrate::{Inputs, Stream, StreamSettings};
use trimtab_io::{Dtype, OutDir, RawTensor};
use trimtab_models::Model;
use trimtab_nn::{Ctx, Role, StageSource};
use trimtab_rewrite::{Applied, Change, Draft, Pass, PassSettings, Ranges, apply_passes, compare};

use crate::apply::{OutputSettings, SHARD_BYTES, content, pretty};
use crate::calibration::{Calibration, CalibrationSettings};
use crate::convert::REPLACED;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::leftover;
use crate::monitor::Monitor;

/// What to rewrite and where to.
#[derive(Clone, Debug)]
pub struct RewriteSettings {
    /// Passes, in order.
    pub passes: Vec<Pass>,
    /// Their settings.
    pub settings: PassSettings,
    /// The type of changed tensors; `None` keeps that of each.
    pub dtype: Option<Dtype>,
    /// What the ranges of `scale-channels` are taken from.
    pub calibration: CalibrationSettings,
    /// The directory.
    pub output: PathBuf,
    /// Whether an existing output is replaced.
    pub force: bool,
    /// The specification that the model was opened with, for the result to be opened with.
    pub spec: Option<PathBuf>,
}

/// A model that was rewritten.
#[derive(Serialize)]
pub struct Rewritten {
    /// The directory.
    pub output: PathBuf,
    /// Bytes of all weight files.
    pub bytes: u64,
    /// Seed of what was drawn.
    pub seed: u64,
    /// What was done, in order.
    pub passes: Vec<Applied>,
    /// Tensors that differ from those of the input.
    pub changed_tensors: usize,
    /// Largest difference of an output of the written model on a random input, where one can be made.
    pub change: Option<Change>,
}

/// Applies passes to a model and writes the result.
///
/// # Errors
/// A pass that does not fit, before anything is written; files.
pub fn rewrite(model: &Model, job: &RewriteSettings, monitor: &mut dyn Monitor) -> Result<Rewritten> {
    if job.passes.is_empty() {
        let names = Pass::ALL.map(Pass::name).join(", ");
        let message = format!("no pass is asked for; expected at least one of {names}");
        return Err(Error::Setting { what: "--pass", message });
    }
    if model.quantization().is_some() {
        let message = "the model is quantized, and its codes cannot be rewritten\nhint: rewrite the model that it was \
                       made of, then quantize that";
        return Err(Error::Setting { what: "rewrite", message: message.into() });
    }
    OutputSettings { output: job.output.clone(), form: Form::Dense, force: job.force }
        .check(model.checkpoint().total_bytes() * if job.dtype == Some(Dtype::F32) { 2 } else { 1 })?;
    let mut settings = job.settings.clone();
    if job.passes.contains(&Pass::ScaleChannels) && settings.ranges.is_none() {
        settings.ranges = Some(Arc::new(ranges(model, &job.calibration, monitor)?));
    }
    let mut draft = Draft::new(model.checkpoint(), model.wiring());
    draft.dtype = job.dtype;
    monitor.begin("rewriting", job.passes.len());
    let passes = apply_passes(&mut draft, &job.passes, &settings)?;
    for applied in &passes {
        let by = applied.needed_by.map(|pass| format!(" (needed by {pass})")).unwrap_or_default();
        applied.notes.iter().for_each(|note| monitor.note(&format!("{}{by}: {note}", applied.pass)));
    }
    let (dir, bytes) = write(model, &draft, job, &settings, monitor)?;
    let output = dir.path().to_path_buf();
    let changed_tensors = draft.changed().len();
    let written = Model::open(&output.display().to_string(), job.spec.as_deref())?;
    let change = match model.probe(settings.seed) {
        Some(input) => {
            monitor.begin("checking", 1);
            let change = compare(model, &written, &input, Ctx::default)?;
            monitor.advance(1, &format!("largest change of an output {:.1e}", change.largest));
            if !change.largest.is_finite() || change.largest > 1e-3 * change.magnitude.max(1.0) {
                monitor.warn(&format!(
                    "an output changes by {:.1e} (the largest is {:.1e}): the weights are rounded to {}; --dtype f32 \
                     keeps them",
                    change.largest,
                    change.magnitude,
                    stored_as(model, &draft)
                ));
            }
            Some(change)
        }
        None => None,
    };
    // Until here the same command goes on with the check.
    dir.clear(&[])?;
    Ok(Rewritten { output, bytes, seed: settings.seed, passes, changed_tensors, change })
}

/// The types in which changed tensors are stored.
fn stored_as(model: &Model, draft: &Draft<'_>) -> String {
    let info = |name: &&str| model.checkpoint().info(name).map(|info| info.dtype.to_string());
    let mut types: Vec<String> = match draft.dtype {
        Some(dtype) => vec![dtype.to_string()],
        None => draft.changed().iter().filter_map(info).collect(),
    };
    types.sort();
    types.dedup();
    types.join(", ")
}

/// Writes stage by stage; every stage is a unit of the journal.
fn write(
    model: &Model,
    draft: &Draft<'_>,
    job: &RewriteSettings,
    settings: &PassSettings,
    monitor: &mut dyn Monitor,
) -> Result<(OutDir, u64)> {
    let checkpoint = model.checkpoint();
    let what = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": checkpoint.fingerprint(),
        "passes": job.passes,
        "settings": settings,
        "ranges": settings.ranges.as_deref(),
        "dtype": job.dtype.map(|dtype| dtype.to_string()),
        "calibration": job.calibration,
        "calibration_bytes": content(job.calibration.source.as_deref())?,
    });
    let hash = trimtab_io::sha256(format!("rewrite {what}").as_bytes());
    let mut dir = OutDir::create(&job.output, &hash, job.force)?;
    let stages = model.stages();
    monitor.begin("writing", stages.len());
    for (i, info) in stages.iter().enumerate() {
        if monitor.interrupted() {
            return Err(Error::Interrupted { kept: dir.partial().display().to_string() });
        }
        let key = format!("stage-{i:05}");
        if !dir.unit_done(&key) {
            let tensors: Vec<(String, RawTensor)> = info
                .tensors
                .iter()
                .map(|name| Ok((name.clone(), draft.tensor(name)?)))
                .collect::<Result<_>>()?;
            dir.commit_unit(&key, &tensors)?;
            checkpoint.release();
        }
        monitor.advance(i + 1, &info.name);
    }
    let added: Vec<&str> = draft.added().collect();
    let rest: Vec<(String, RawTensor)> = (leftover(model).into_iter().filter(|name| !added.contains(name)))
        .chain(added.iter().copied())
        .map(|name| Ok((name.to_string(), draft.tensor(name)?)))
        .collect::<Result<_>>()?;
    if !rest.is_empty() && !dir.unit_done("rest") {
        dir.commit_unit("rest", &rest)?;
    }
    for (name, bytes) in checkpoint.side_files()? {
        if !REPLACED.contains(&&*name) {
            dir.put_file(&name, &bytes)?;
        }
    }
    if let Some(config) = draft.config() {
        dir.put_file("config.json", pretty(&config).as_bytes())?;
    }
    let files = dir.finish_shards(SHARD_BYTES, checkpoint.metadata())?;
    let bytes = files.iter().filter(|f| f.name.ends_with(".safetensors")).map(|f| f.bytes).sum();
    dir.publish()?;
    Ok((dir, bytes))
}

/// Largest magnitude of what each norm gives on calibration data, channel by channel, for the norms that a site of a block sees.
///
/// # Errors
/// Calibration data that do not fit the model.
pub fn ranges(model: &Model, settings: &CalibrationSettings, monitor: &mut dyn Monitor) -> Result<Ranges> {
    let calibration = Calibration::load_with(model, settings, monitor)?;
    let wiring = model.wiring();
    let seen: Vec<(String, String)> =
        (wiring.free_norms()).filter_map(|norm| Some((norm.seen_by.clone()?, norm.name.clone()))).collect();
    let mut found: Ranges = BTreeMap::new();
    let blocks = model.stages().iter().filter(|stage| stage.role == Role::Block).count();
    monitor.begin("observing", blocks);
    let mut done = 0;
    let stream = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
    Stream::new(model, &calibration.batches, model.device().clone(), stream).run(|block| -> Result<()> {
        if monitor.interrupted() {
            return Err(Error::Stopped);
        }
        let here: Vec<&(String, String)> = seen
            .iter()
            .filter(|(site, _)| block.info().sites.iter().any(|meta| meta.name == *site))
            .collect();
        let sites: Vec<&str> = here.iter().map(|(site, _)| site.as_str()).collect();
        block.each_input(&sites, |site, rows, weights| {
            let Some((_, norm)) = here.iter().find(|(name, _)| name == site) else { return };
            let width = rows.len() / weights.map_or(0, <[f64]>::len).max(1);
            let width =
                model.sites(Role::Block).find(|meta| meta.name == site).map_or(width, |meta| meta.cols);
            let range = found.entry(norm.clone()).or_insert_with(|| vec![0.0; width]);
            for (i, row) in rows.chunks_exact(width).enumerate() {
                if weights.is_none_or(|weights| weights[i] > 0.0) {
                    range.iter_mut().zip(row).for_each(|(m, x)| *m = m.max(f64::from(x.abs())));
                }
            }
        })?;
        done += 1;
        monitor.advance(done, &block.info().name);
        Ok(())
    })?;
    Ok(found)
}
