//! Applying: a treated model on disk, whole or not at all.
//!
//! Every stage is a unit of the journal: treated, written, synced, and found again by the same command after a kill.
//! What a resumed run sees of a finished block is what it wrote, so that the bytes do not depend on where it was
//! killed.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trimtab_calibrate::Treated;
use trimtab_io::gguf::GgufTensor;
use trimtab_io::{
    BranchFactors, Bytes, Checkpoint, Coded, CompressedFormat, Dtype, OutDir, PackedConfig, RawTensor,
    ensure_space, float_tensors, int_tensors, to_safetensors, to_tensors,
};
use trimtab_nn::StageSource;
use trimtab_plan::Plan;

use self::rules::{check_format, check_tuning, is_norm_buffer, quantization};
use crate::activations::QuantizedInputs;
use crate::calibration::{Calibration, CalibrationSettings};
use crate::convert::{self, REPLACED};
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::{TreatedSite, leftover};
use crate::monitor::Monitor;
use crate::quantizer::Quantizer;
use crate::scheme::Scheme;
use crate::source;
use crate::treating::{Collected, Job, SiteReport, StageSink, TreatedStage, treat};
use crate::tune_bias::{BiasTuning, tune_biases};

/// Largest shard, in bytes.
pub(crate) const SHARD_BYTES: u64 = 5_000_000_000;
const MANIFEST: &str = "trimtab.json";
/// The weights in an output of that form.
const GGUF: &str = "model.gguf";

/// What is written beside the weights: enough to tell what was done, and to do it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this program.
    pub trimtab: String,
    /// Fingerprint of the input.
    pub model: String,
    /// How codes were chosen.
    pub quantizer: Quantizer,
    /// Form of the weights.
    pub form: Form,
    /// What was calibrated on.
    pub calibration: Option<String>,
    /// The sites in order, each with what happened to it.
    pub sites: Vec<SiteReport>,
    /// Blocks whose attention is quantized.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<String>,
}

/// A model that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Applied {
    /// The directory.
    pub output: PathBuf,
    /// Bytes of all weight files.
    pub bytes: u64,
    /// Bits per weight of the treated sites.
    pub bits_per_weight: f64,
    /// What happened to each site.
    pub sites: Vec<SiteReport>,
}

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// The directory.
    pub output: PathBuf,
    /// Form of the weights.
    pub form: Form,
    /// Whether an existing output, or an unfinished run with other settings, is replaced.
    pub force: bool,
}

impl OutputSettings {
    /// Checks place and space before any long work.
    pub fn check(&self, needed: u64) -> Result<()> {
        let taken =
            self.output.exists() && !is_empty_dir(&self.output) && !OutDir::is_published(&self.output)?;
        if taken && !self.force {
            return Err(trimtab_io::Error::OutputExists { path: self.output.clone() }.into());
        }
        let parent = self.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        trimtab_io::ensure_writable(parent)?;
        // Units and shards stand side by side while the shards are assembled.
        Ok(ensure_space(parent, 2 * needed + (1 << 20))?)
    }
}

fn is_empty_dir(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// The hash of a file of data, if there is one.
pub(crate) fn content(file: Option<&Path>) -> Result<Option<String>> {
    let read = |path: &Path| trimtab_io::fs::read(path).map(|bytes| trimtab_io::sha256(&bytes));
    let failed = |path: &Path, source| trimtab_io::Error::Io { action: "read", path: path.into(), source };
    Ok(file.map(|path| read(path).map_err(|e| failed(path, e))).transpose()?)
}

/// Identifies a job: everything that determines its bytes.
pub fn job_hash(job: &Job<'_>, calibration: Option<&CalibrationSettings>) -> Result<String> {
    let source = calibration.and_then(|settings| settings.source.as_ref());
    let text = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": job.model.checkpoint().fingerprint(),
        "assignment": job.assignment.iter().map(|(site, choice)| (site.clone(), json!(choice.to_string()))).collect::<serde_json::Map<_, _>>(),
        "quantizer": job.quantizer,
        "form": job.form,
        "calibration": calibration,
        "calibration_bytes": content(source.map(PathBuf::as_path))?,
    });
    Ok(trimtab_io::sha256(text.to_string().as_bytes()))
}

/// What stands for an output that is there, until its maker has nothing more to do (a proof, a report): if it is stopped
/// before [`Self::clear`], the same call goes on where that was.
#[derive(Debug)]
#[must_use = "clear it when all is done"]
pub struct Finished {
    dir: OutDir,
    pending: Vec<PathBuf>,
}

impl Finished {
    /// With further files that are cleared away.
    pub(crate) fn with(mut self, pending: impl IntoIterator<Item = PathBuf>) -> Self {
        self.pending.extend(pending);
        self
    }

    /// Clears it away.
    ///
    /// # Errors
    /// [`trimtab_io::Error::Io`], after which the same call has only to clear.
    pub fn clear(self) -> Result<()> {
        self.pending.into_iter().try_for_each(trimtab_io::remove)?;
        Ok(self.dir.clear(&[])?)
    }
}

/// Treats the model and writes it.
pub fn apply(
    job: Job<'_>,
    calibration: Option<(&Calibration, &CalibrationSettings)>,
    plan: Option<&Plan>,
    out: &OutputSettings,
    monitor: &mut dyn Monitor,
) -> Result<(Applied, Finished)> {
    check_format(&job)?;
    check_tuning(&job)?;
    if let Some(activations) = &job.quantizer.activations {
        activations.check_model(job.model, job.form, &job.inventory.sites)?;
    }
    let hash = job_hash(&job, calibration.map(|(_, settings)| settings))?;
    let dir = OutDir::create(&out.output, &hash, out.force)?;
    if dir.units().next().is_some() {
        monitor.note(&format!(
            "going on with {}: {} stages are finished",
            dir.partial().display(),
            dir.units().count()
        ));
    }
    let kept = dir.partial().display().to_string();
    let mut sink = Writer::new(job, calibration.map(|(data, _)| data.description.clone()), dir)?;
    // Once the weights are assembled there is nothing left to treat.
    if sink.dir.files().is_none() {
        treat(job, calibration.map(|(data, _)| data), &mut sink, monitor)
            .map_err(|error| error.interrupted(Some(kept)))?;
        if let (Some(how), Some((data, _))) = (&job.quantizer.tune_biases, calibration) {
            monitor.begin("biases", 1);
            let [before, after] = sink.tune_biases(data, how)?;
            monitor.note(&format!(
                "biases tuned: KL on held-out calibration images {before:.5} before, {after:.5} after"
            ));
        }
    }
    sink.finish(plan)
}

/// Writes stages into an output directory.
struct Writer<'a> {
    job: Job<'a>,
    dir: OutDir,
    manifest: Manifest,
    config: PackedConfig,
}

impl<'a> Writer<'a> {
    fn new(job: Job<'a>, calibration: Option<String>, dir: OutDir) -> Result<Self> {
        let fresh = Manifest {
            trimtab: env!("CARGO_PKG_VERSION").into(),
            model: job.model.checkpoint().fingerprint().into(),
            quantizer: *job.quantizer,
            form: job.form,
            calibration,
            sites: Vec::new(),
            attention: Vec::new(),
        };
        let manifest = match dir.get_file(MANIFEST)? {
            // It is written whole or not at all: what cannot be read was changed by somebody else.
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::Data {
                what: dir.partial().display().to_string(),
                message: format!("{MANIFEST}: {e}\nhint: pass --force to begin anew"),
            })?,
            None => fresh,
        };
        let config = quantization(job)?;
        Ok(Self { job, dir, manifest, config })
    }

    fn key(stage: usize) -> String {
        format!("stage-{stage:05}")
    }

    fn sites(&self, stage: usize) -> impl Iterator<Item = &'a TreatedSite> + use<'a> {
        self.job.inventory.sites.iter().filter(move |site| site.stage == stage)
    }

    /// The tensors of a stage as they go into the file.
    fn tensors(&self, stage: usize, treated: &TreatedStage) -> Result<Vec<(String, RawTensor)>> {
        let sites: BTreeMap<String, &TreatedSite> =
            self.sites(stage).map(|site| (site.meta.weight_name(), site)).collect();
        let info = &self.job.model.stages()[stage];
        let mut tensors = Vec::new();
        for name in &info.tensors {
            let weight = sites.get(name).and_then(|site| Some((site, treated.weights.get(&site.meta.name)?)));
            if let Some((site, branch)) =
                weight.and_then(|(site, _)| Some((site, treated.branches.get(&site.meta.name)?)))
            {
                tensors.extend(branch.tensors(&site.meta.name));
            }
            match weight {
                Some((site, Treated::Coded(Coded::Affine(codes)))) => {
                    let group = self.config.codes().group_of(&site.meta.name)?;
                    tensors.extend(match group.map(|group| group.format) {
                        Some(CompressedFormat::IntQuantized) => int_tensors(&site.meta.name, codes)?,
                        _ => to_tensors(&site.meta.name, codes)?,
                    });
                }
                Some((site, Treated::Coded(Coded::Real(codes)))) => {
                    tensors.extend(codes.to_tensors(&site.meta.name)?);
                }
                Some((site, Treated::Coded(Coded::NormalFloat(codes)))) => {
                    tensors.extend(codes.to_tensors(&site.meta.name)?);
                }
                Some((site, Treated::Coded(Coded::Float(codes)))) => {
                    tensors.extend(float_tensors(&site.meta.name, codes)?);
                }
                Some((_, Treated::Coded(Coded::Blocks(blocks)))) => {
                    tensors.push((name.clone(), block_bytes(blocks)?));
                }
                Some((site, Treated::Coded(Coded::Codebook(_)))) => {
                    let message =
                        "a table of numbers is read only, no format that is written holds it".into();
                    return Err(Error::Site { site: site.meta.name.clone(), message });
                }
                Some((site, Treated::Dense(values))) => {
                    tensors.push((name.clone(), source::dense_tensor(&site.meta, values, site.dtype)?));
                }
                // A GGUF file takes them from the model when it is put together.
                None if self.job.form == Form::Gguf => {}
                None => {
                    let mut tensor = source::tensor(self.job.model, &info.sites, name)?;
                    if let Some(values) = treated.vectors.get(name) {
                        tensor = RawTensor::from_f32(tensor.shape.clone(), values, tensor.dtype)?;
                    }
                    tensors.push((name.clone(), tensor));
                }
            }
        }
        tensors.extend(treated.quantized.tensors(&info.name)?);
        Ok(tensors)
    }

    /// The treated weights of a stage from its finished unit.
    fn read(&self, stage: usize) -> Result<TreatedStage> {
        let tensors = self.dir.read_unit(&Self::key(stage))?;
        let file = Bytes::from(to_safetensors(&tensors, &BTreeMap::new())?);
        let unit = Checkpoint::from_bytes(vec![("model.safetensors".into(), file)])?;
        let mut treated = TreatedStage::default();
        for site in self.sites(stage) {
            let meta = &site.meta;
            let scheme = self.job.assignment.get(&meta.name).map(|choice| &choice.scheme);
            let branch = BranchFactors::read(&unit, &meta.name)?;
            treated.branches.extend(branch.map(|branch| (meta.name.clone(), branch)));
            let rewritten = self.job.quantizer.activations.is_some_and(|a| a.rewrites());
            let weight = match (self.job.form, scheme) {
                (_, Some(Scheme::Dense)) if rewritten && site.observed => {
                    let tensor = unit.tensor(&meta.weight_name())?;
                    Some(Treated::Dense(source::stored_numbers(meta, &tensor)?))
                }
                (_, None | Some(Scheme::Dense)) => continue,
                (Form::Packed, _) => self.config.read(&unit, &meta.name)?.map(Treated::Coded),
                (Form::Dense, _) => {
                    let tensor = unit.tensor(&meta.weight_name())?;
                    Some(Treated::Dense(source::stored_numbers(meta, &tensor)?))
                }
                (Form::Gguf, _) => {
                    let blocks = blocks_of(scheme, site, &unit.tensor(&meta.weight_name())?)?;
                    blocks.map(|blocks| Treated::Coded(Coded::Blocks(blocks)))
                }
            };
            treated.weights.extend(weight.map(|weight| (meta.name.clone(), weight)));
        }
        if let Some(activations) = &self.job.quantizer.activations {
            let info = &self.job.model.stages()[stage];
            let sites = self.sites(stage).filter(|site| site.observed).map(|site| &site.meta);
            let has_attention = self.manifest.attention.contains(&info.name);
            treated.quantized = QuantizedInputs::read(&unit, &info.name, sites, activations, has_attention)?;
            if activations.rewrites() {
                let vector = |tensor: &RawTensor| tensor.shape.len() == 1 && tensor.dtype.is_float();
                for (name, tensor) in tensors.iter().filter(|(_, tensor)| vector(tensor)) {
                    // Gains and biases that are not those of the model.
                    let old = info.tensors.contains(name).then(|| self.job.model.checkpoint().tensor(name));
                    if old.transpose()?.is_some_and(|old| old.bytes[..] != tensor.bytes[..]) {
                        treated.vectors.insert(name.clone(), tensor.to_f32()?);
                    }
                }
            }
        }
        if self.job.quantizer.tune_batch_norms {
            for (name, tensor) in tensors.iter().filter(|(name, _)| is_norm_buffer(name)) {
                treated.vectors.insert(name.clone(), tensor.to_f32()?);
            }
        }
        Ok(treated)
    }

    /// Trains the biases of what the finished units hold, and writes them into the units. What it starts from does not depend on
    /// whether an earlier run got here.
    fn tune_biases(&mut self, calibration: &Calibration, how: &BiasTuning) -> Result<[f64; 2]> {
        let model = self.job.model;
        let original = model.network()?;
        let mut network = original.clone();
        for stage in 0..model.stages().len() {
            if !self.dir.unit_done(&Self::key(stage)) {
                continue;
            }
            let mut one = Collected::default();
            one.keep(stage, self.read(stage)?)?;
            one.put(&mut network, self.job.inventory)?;
        }
        let found = tune_biases(&original, &network, &calibration.batches, how)?;
        for (stage, info) in model.stages().iter().enumerate() {
            let new = |name: &String| found.biases.get(name);
            if !info.tensors.iter().any(|name| new(name).is_some()) {
                continue;
            }
            let tensors = match self.dir.unit_done(&Self::key(stage)) {
                true => self.dir.read_unit(&Self::key(stage))?,
                false => {
                    let tensor =
                        |name: &String| Ok((name.clone(), source::tensor(model, &info.sites, name)?));
                    info.tensors.iter().map(tensor).collect::<Result<_>>()?
                }
            };
            let tuned = tensors.into_iter().map(|(name, tensor)| match new(&name) {
                Some(values) => {
                    let tensor = RawTensor::from_f32(tensor.shape.clone(), values, tensor.dtype)?;
                    Ok((name, tensor))
                }
                None => Ok((name, tensor)),
            });
            self.dir.commit_unit(&Self::key(stage), &tuned.collect::<Result<Vec<_>>>()?)?;
        }
        Ok([found.before, found.after])
    }

    /// Everything that is not a treated stage; then the whole appears.
    fn finish(mut self, plan: Option<&Plan>) -> Result<(Applied, Finished)> {
        match self.job.form {
            Form::Gguf => self.finish_gguf(plan)?,
            Form::Packed | Form::Dense => self.finish_directory(plan)?,
        }
        let weights = self.dir.files().unwrap_or_default().iter();
        let bytes = weights.filter(|file| !file.name.ends_with(".json")).map(|file| file.bytes).sum();
        let treated: u64 = self.manifest.sites.iter().map(|site| site.bytes).sum();
        let output = self.dir.publish()?;
        let bits_per_weight = self.job.inventory.totals.bits_per_weight(treated).unwrap_or(f64::NAN);
        let finished = Finished { dir: self.dir, pending: Vec::new() };
        Ok((Applied { output, bytes, bits_per_weight, sites: self.manifest.sites }, finished))
    }

    /// Shards of safetensors and all that lies beside them.
    fn finish_directory(&mut self, plan: Option<&Plan>) -> Result<()> {
        let model = self.job.model;
        for (stage, info) in model.stages().iter().enumerate() {
            if !self.dir.unit_done(&Self::key(stage)) {
                let tensors = info
                    .tensors
                    .iter()
                    .map(|name| Ok((name.clone(), source::tensor(model, &info.sites, name)?)));
                self.dir.commit_unit(&Self::key(stage), &tensors.collect::<Result<Vec<_>>>()?)?;
                model.checkpoint().release();
            }
        }
        let rest = leftover(model);
        if !rest.is_empty() && !self.dir.unit_done("rest") {
            let tensors =
                rest.into_iter().map(|name| Ok((name.to_string(), model.checkpoint().tensor(name)?)));
            self.dir.commit_unit("rest", &tensors.collect::<Result<Vec<_>>>()?)?;
        }
        self.put_side_files()?;
        self.put_plan(plan)?;
        self.put_manifest()?;
        let metadata = model
            .checkpoint()
            .metadata()
            .clone()
            .into_iter()
            .chain([("format".into(), "pt".into())])
            .collect();
        self.dir.finish_shards(SHARD_BYTES, &metadata)?;
        Ok(())
    }

    /// One file from the blocks of the treated stages and the numbers of the rest.
    fn finish_gguf(&mut self, plan: Option<&Plan>) -> Result<()> {
        if self.dir.files().is_some() {
            return Ok(());
        }
        self.put_plan(plan)?;
        self.put_manifest()?;
        let Job { model, assignment, .. } = self.job;
        let mut writer = convert::gguf::begin(model, &self.dir.place(GGUF), self.dir.path())?;
        let mut taken = BTreeSet::new();
        for (stage, info) in model.stages().iter().enumerate() {
            let key = Self::key(stage);
            let unit: BTreeMap<String, RawTensor> = match self.dir.unit_done(&key) {
                true => self.dir.read_unit(&key)?.into_iter().collect(),
                false => BTreeMap::new(),
            };
            let sites: BTreeMap<String, &TreatedSite> =
                self.sites(stage).map(|site| (site.meta.weight_name(), site)).collect();
            for name in info.tensors.iter().filter(|name| taken.insert(*name)) {
                let blocks = match (sites.get(name), unit.get(name)) {
                    (Some(site), Some(bytes)) => {
                        blocks_of(assignment.get(&site.meta.name).map(|choice| &choice.scheme), site, bytes)?
                    }
                    _ => None,
                };
                match blocks {
                    Some(blocks) => writer.append_blocks(name, &blocks)?,
                    None => convert::gguf::append(&mut writer, model, &info.sites, name)?,
                }
            }
            model.checkpoint().release();
        }
        Ok(self.dir.finish_file(writer.finish()?)?)
    }

    fn put_side_files(&self) -> Result<()> {
        let checkpoint = self.job.model.checkpoint();
        for (name, bytes) in checkpoint.side_files()? {
            if !REPLACED.contains(&&*name) {
                self.dir.put_file(&name, &bytes)?;
            }
        }
        // A checkpoint that is a bare file has no config; one that says how it is packed makes it readable again.
        let mut config = checkpoint.config().cloned();
        if let Some(object) = config.as_mut().and_then(Value::as_object_mut) {
            object.remove("quantization_config");
        }
        let mut quantized = self.config.clone();
        if let Some(activations) = &self.job.quantizer.activations {
            let blocks = self.manifest.attention.iter().cloned();
            quantized = quantized.with_attention(activations.attention_config(blocks));
        }
        if self.job.form == Form::Packed && !quantized.is_empty() {
            config.get_or_insert_with(|| json!({}))["quantization_config"] = quantized.to_json();
        }
        match config {
            Some(config) => Ok(self.dir.put_file("config.json", pretty(&config).as_bytes())?),
            None => Ok(()),
        }
    }

    fn put_plan(&self, plan: Option<&Plan>) -> Result<()> {
        match plan {
            Some(plan) => Ok(self.dir.put_file("plan.toml", plan.to_toml()?.as_bytes())?),
            None => Ok(()),
        }
    }

    fn put_manifest(&self) -> Result<()> {
        let value = serde_json::to_value(&self.manifest)
            .map_err(|e| Error::Data { what: MANIFEST.into(), message: e.to_string() })?;
        Ok(self.dir.put_file(MANIFEST, pretty(&value).as_bytes())?)
    }
}

impl StageSink for Writer<'_> {
    fn finished(&mut self, stage: usize) -> Result<Option<TreatedStage>> {
        match self.dir.unit_done(&Self::key(stage)) {
            true => self.read(stage).map(Some),
            false => Ok(None),
        }
    }

    fn keep(&mut self, stage: usize, treated: TreatedStage) -> Result<()> {
        if treated.reports.is_empty() && treated.vectors.is_empty() {
            return Ok(());
        }
        // The manifest first: a stage whose unit is there has its report there too.
        let again: Vec<&String> = treated.reports.iter().map(|report| &report.site).collect();
        self.manifest.sites.retain(|known| !again.contains(&&known.site));
        self.manifest.sites.extend(treated.reports.iter().cloned());
        let block = &self.job.model.stages()[stage].name;
        self.manifest.attention.retain(|known| known != block);
        self.manifest.attention.extend(treated.quantized.attention.as_ref().map(|_| block.clone()));
        self.put_manifest()?;
        let tensors = self.tensors(stage, &treated)?;
        Ok(self.dir.commit_unit(&Self::key(stage), &tensors)?)
    }
}

pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Blocks as a tensor of bytes, a row of blocks a row.
fn block_bytes(blocks: &GgufTensor) -> Result<RawTensor> {
    let width = blocks.data.len() / blocks.rows.max(1);
    Ok(RawTensor::new(Dtype::U8, vec![blocks.rows, width], blocks.data.clone())?)
}

/// The inverse of [`block_bytes`]; `None` where the site has no blocks.
fn blocks_of(scheme: Option<&Scheme>, site: &TreatedSite, bytes: &RawTensor) -> Result<Option<GgufTensor>> {
    let Some(Scheme::Blocks(ty)) = scheme else { return Ok(None) };
    Ok(Some(GgufTensor::new(*ty, site.meta.rows, site.meta.cols, bytes.bytes.clone())?))
}
