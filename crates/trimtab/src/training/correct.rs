//! Training the branches beside the codes of a quantized model until it answers as the original does (INT2.1: Chai, Gkountouras, Ko,
//! Brooks and Wei, arXiv 2306.08162).
//!
//! The codes stay as they are, packed, in both ways through the network; gradients reach the factors of branches alone. What is
//! followed are the original's likeliest tokens, which are asked for once, so that the two models are never in memory
//! together. Branches that are there go on from where they are (those of EoRA or LQ-LoRA); other sites begin with `B = 0`.
//!
//! What the published description leaves open is as follows: AdamW without decay, half a cosine after a warm-up of 3 %, branches beside all
//! linear maps of the blocks, the loss averaged over tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use trimtab_io::{BranchFactors, Dtype, OutDir, RawTensor, read_text};
use trimtab_math::random::Stream;
use trimtab_models::{Model, pico};
use trimtab_nn::{Branch, HeldMut, LayerMut, Network, SiteMeta, StageSource, Task, host};
use trimtab_plan::Selection;
use trimtab_train::objectives::{FollowTeacher, TaughtWindows};
use trimtab_train::{OptimizerConfig, Paths, Phase, Schedule, Settings, TokenWindows, Trainer};

use super::language::logits;
use super::metrics::metrics_of;
use super::{STATE, Show};
use crate::apply::{SHARD_BYTES, content};
use crate::calibration::window_of;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::{Inventory, TreatedSite};
use crate::monitor::Monitor;
use crate::scheme::scale_dtype;
use crate::system;

/// Share of the windows, at the end of the text, that nothing is trained on.
const HELD_OUT: f64 = 0.1;
/// Bytes of a unit of the journal, as far as tensors allow.
const UNIT_BYTES: u64 = 500_000_000;

/// What the network is to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CorrectionLoss {
    /// The answers of the original.
    #[default]
    Kl,
    /// The answers of the original, and half as much the text.
    KlCe,
    /// The text alone: no teacher.
    Ce,
}

impl CorrectionLoss {
    fn weights(self) -> (f64, f64) {
        match self {
            Self::Kl => (1.0, 0.0),
            Self::KlCe => (1.0, 0.5),
            Self::Ce => (0.0, 1.0),
        }
    }
}

/// Settings of [`correct`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorrectionSettings {
    /// A text to train on; without one, stories of the built-in grammar.
    pub text: Option<PathBuf>,
    /// Tokens of a window; `None`: 256, or what the model can take.
    pub window: Option<usize>,
    /// Windows at most, from the front; `None`: all.
    pub windows: Option<usize>,
    /// Sites that get branches (globs on their names); empty: all linear maps of the blocks.
    pub include: Vec<String>,
    /// Sites that get none.
    pub exclude: Vec<String>,
    /// Rank of the branch of a site that has none yet; 0: such sites stay without.
    pub rank: usize,
    /// Steps.
    pub steps: usize,
    /// Windows of a step.
    pub batch: usize,
    /// Peak of the rate.
    pub rate: f64,
    /// What is followed.
    pub loss: CorrectionLoss,
    /// Tokens of the original's answers that are kept.
    pub top_k: usize,
    /// Seed of the order of the windows, and of new branches.
    pub seed: u64,
}

impl Default for CorrectionSettings {
    fn default() -> Self {
        Self {
            text: None,
            window: None,
            windows: None,
            include: Vec::new(),
            exclude: Vec::new(),
            rank: 8,
            steps: 300,
            batch: 4,
            rate: 1e-3,
            loss: CorrectionLoss::Kl,
            top_k: 64,
            seed: 0,
        }
    }
}

/// What came out of [`train_branches`].
pub struct Corrected {
    /// The factors by site, rounded to the type in which they are stored.
    pub branches: BTreeMap<String, BranchFactors>,
    /// Mean loss on held-out windows before and after.
    pub heldout: [f64; 2],
    /// Steps done.
    pub steps: usize,
}

/// What [`correct`] wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correction {
    /// Where the model is.
    pub output: PathBuf,
    /// What every step said.
    pub metrics: PathBuf,
    /// Sites with a branch.
    pub sites: usize,
    /// Largest rank.
    pub rank: usize,
    /// Bytes of the branches.
    pub branch_bytes: u64,
    /// Bytes of all weights.
    pub bytes: u64,
    /// Bits that the branches add to each weight beside which they stand.
    pub branch_bits: f64,
    /// Steps.
    pub steps: usize,
    /// Windows that were trained on.
    pub windows: usize,
    /// Mean loss on held-out windows before, nats a token.
    pub heldout_before: f64,
    /// The same after.
    pub heldout_after: f64,
    /// Largest memory without files behind it while branches were trained, bytes.
    pub peak_anonymous_bytes: Option<u64>,
}

/// Trains branches beside the codes of `quantized` towards `original` and writes the model with them to `output`, every other tensor
/// as it is. An interrupted or killed run is continued by the same call.
///
/// # Errors
/// Models of other kinds than language models, or that do not belong together; a GGUF file, which has no place for branches;
/// [`Error::Interrupted`] after the monitor asked to stop; what data, loop and files meet.
pub fn correct(
    quantized: &Model,
    original: &Model,
    settings: &CorrectionSettings,
    (output, force): (&Path, bool),
    monitor: &mut dyn Monitor,
) -> Result<Correction> {
    let sites = sites_of(quantized, original, settings)?;
    settings.check(quantized)?;
    let job = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "quantized": quantized.checkpoint().fingerprint(),
        "original": original.checkpoint().fingerprint(),
        "settings": settings,
        "text": content(settings.text.as_deref())?,
    });
    let windows = windows_of(quantized, settings)?;
    let mut out = OutDir::create(output, &trimtab_io::sha256(job.to_string().as_bytes()), force)?;
    let teacher = original.network()?;
    let mut ask = |windows| taught_by(&teacher, windows, settings.top_k, monitor);
    let [trained, heldout] = windows;
    let [trained, heldout] = [ask(trained)?, ask(heldout)?];
    drop(teacher);
    let windows = trimtab_train::Dataset::len(&trained);
    let network = with_branches(quantized.network()?, &sites, settings)?;
    system::forget_recent_peak();
    let place = Some((out.partial().join(STATE), metrics_of(output), force));
    let found = train_branches(network, &sites, [&trained, &heldout], settings, place, monitor)?;
    let peak_anonymous_bytes = system::recent_peak_anonymous_bytes();
    if let [before, after] = found.heldout
        && after > before
    {
        let message =
            format!("held-out windows are worse off than before: {before:.4} to {after:.4} nats a token");
        monitor.warn(&format!("{message}\nhint: lower --rate, or train on more text for more --steps"));
    }
    let branch_bytes = found.branches.values().map(bytes_of).sum();
    let beside: u64 = sites.iter().map(|site| site.meta.numel() as u64).sum();
    write(quantized, &found.branches, &mut out)?;
    let bytes =
        out.files().unwrap_or_default().iter().filter(|f| !f.name.ends_with(".json")).map(|f| f.bytes).sum();
    out.publish()?;
    out.clear(&[STATE])?;
    Ok(Correction {
        output: output.into(),
        metrics: metrics_of(output),
        sites: found.branches.len(),
        rank: found.branches.values().map(BranchFactors::rank).max().unwrap_or(0),
        branch_bytes,
        bytes,
        branch_bits: 8.0 * branch_bytes as f64 / beside.max(1) as f64,
        steps: found.steps,
        windows,
        heldout_before: found.heldout[0],
        heldout_after: found.heldout[1],
        peak_anonymous_bytes,
    })
}

fn bytes_of(branch: &BranchFactors) -> u64 {
    (branch.a().bytes.len() + branch.b().bytes.len()) as u64
}

impl CorrectionSettings {
    /// Settings of the loop: AdamW for the branches alone.
    fn of_loop(&self) -> Settings {
        let schedule = Schedule::Cosine { warmup: 0.03, floor: 0.0 };
        let optimizer =
            OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let phase = Phase {
            name: "branches".into(),
            schedule,
            trainable: Paths(vec![".branches.".into()]),
            ..Phase::new(self.steps, self.rate, optimizer)
        };
        Settings { seed: self.seed, clip_norm: Some(1.0), ..Settings::new(self.batch, vec![phase]) }
    }

    /// What can be told before the output is begun.
    fn check(&self, quantized: &Model) -> Result<()> {
        let wrong = |what: &'static str, message: &str| Err(Error::Setting { what, message: message.into() });
        if self.rank == 0 && !quantized.checkpoint().names().any(|name| name.contains(".lora_")) {
            return wrong("--rank", "no site has a branch, and none is to get one\nhint: give a rank");
        }
        if self.top_k == 0 {
            return wrong("--top-k", "expected at least one of the original's logits");
        }
        if self.steps == 0 {
            return wrong("--steps", "expected at least one step");
        }
        self.of_loop().check()?;
        if self.windows.is_some_and(|windows| windows < 2) {
            return wrong("--windows", "expected at least 2: some are trained on, others are held out");
        }
        Ok(())
    }
}

/// The sites that get a branch or have one, with the type in which factors are stored.
fn sites_of(quantized: &Model, original: &Model, settings: &CorrectionSettings) -> Result<Vec<TreatedSite>> {
    let wrong = |what: &'static str, message: String| Err(Error::Setting { what, message });
    for (what, model) in [("model", quantized), ("--like", original)] {
        if model.task() != Task::Language {
            return wrong(
                what,
                "expected a language model: branches are trained by what it says of a text".into(),
            );
        }
    }
    if quantized.checkpoint().files().iter().any(|file| file.name.ends_with(".gguf")) {
        return wrong(
            "model",
            "a GGUF file has no place for branches\nhint: convert it to safetensors first".into(),
        );
    }
    let (include, exclude) = (settings.include.clone(), settings.exclude.clone());
    let selection = Selection { include, exclude, pins: Vec::new() };
    let inventory = Inventory::take(quantized, &selection, Form::Packed)?;
    let others: BTreeMap<&str, &SiteMeta> = original
        .stages()
        .iter()
        .flat_map(|stage| &stage.sites)
        .map(|site| (site.name.as_str(), site))
        .collect();
    for site in &inventory.sites {
        let SiteMeta { name, rows, cols, .. } = &site.meta;
        match others.get(name.as_str()) {
            Some(other) if [other.rows, other.cols] == [*rows, *cols] => {}
            Some(other) => {
                let (r, c) = (other.rows, other.cols);
                return wrong(
                    "--like",
                    format!("\"{name}\" is {r} x {c} there and {rows} x {cols} in the model"),
                );
            }
            None => {
                return wrong("--like", format!("has no site \"{name}\": is it the original of this model?"));
            }
        }
    }
    if quantized.vocab() != original.vocab() {
        return wrong("--like", "has another vocabulary than the model".into());
    }
    Ok(inventory.sites)
}

/// Windows to train on and held-out ones.
fn windows_of(quantized: &Model, settings: &CorrectionSettings) -> Result<[TokenWindows; 2]> {
    let text = match &settings.text {
        Some(path) => read_text(path)?,
        None => pico::calibration_text(settings.seed),
    };
    let (window, vocab) = (window_of(quantized, settings.window), quantized.vocab().unwrap_or(0));
    let mut tokens = quantized.tokenizer()?.encode(&text, false)?;
    if let Some(most) = settings.windows {
        tokens.truncate(most.saturating_mul(window).saturating_add(1));
    }
    // A window of each kind at least.
    let count = (tokens.len().saturating_sub(1)) / window.max(1);
    let held = ((HELD_OUT * count as f64).ceil() as usize).max(1).min(count.saturating_sub(1).max(1));
    let cut = (count - held.min(count)) * window;
    let rest = tokens.split_off(cut.min(tokens.len()));
    tokens.extend(rest.first());
    let cut = |tokens, what| TokenWindows::new(tokens, window, vocab, what);
    Ok([cut(tokens, "the training text")?, cut(rest, "the held-out text")?])
}

/// What a network says of each window.
///
/// # Errors
/// What it refuses; [`trimtab_calibrate::Error::Interrupted`] after the monitor asked to stop.
pub fn taught_by(
    network: &Network,
    windows: TokenWindows,
    top_k: usize,
    monitor: &mut dyn Monitor,
) -> Result<TaughtWindows> {
    monitor.begin("asking the original", trimtab_train::Dataset::len(&windows));
    let mut says = |ids| logits(network, ids, &mut trimtab_nn::Ctx::default());
    let mut go_on = |done: usize, _: usize| {
        monitor.advance(done, "");
        !monitor.interrupted()
    };
    let found = TaughtWindows::of(windows, (top_k, 4), &Device::flex(), &mut says, &mut go_on)?;
    Ok(found.ok_or(trimtab_calibrate::Error::Interrupted)?)
}

/// The network with a branch at each of these sites: those that are there, and new ones of `A` from a normal distribution of variance
/// `1 / rank` and `B = 0`.
///
/// # Errors
/// A site that the network does not have.
pub fn with_branches(
    mut network: Network,
    sites: &[TreatedSite],
    settings: &CorrectionSettings,
) -> Result<Network> {
    for (i, site) in sites.iter().enumerate() {
        let name = &site.meta.name;
        let missing = || Error::Site { site: name.clone(), message: "the model has no such site".into() };
        let (_, found) = network.site_mut(name).ok_or_else(missing)?;
        let rank = settings.rank.min(site.meta.rows).min(site.meta.cols);
        if !found.branches.is_empty() || rank == 0 {
            continue;
        }
        let mut stream = Stream::new(settings.seed, "correct/branch", i as u64, 0);
        let scale = (rank as f64).sqrt().recip();
        let a: Vec<f32> = (0..rank * site.meta.cols).map(|_| (scale * stream.normal()) as f32).collect();
        let factors = BranchFactors::from_f32(&a, &vec![0.0; rank * site.meta.rows], rank, Dtype::F32)?;
        found.set_branches(vec![Branch::of(&factors, &Device::flex())])?;
    }
    Ok(network)
}

/// Trains the branches of `network` (without gradients, as it is loaded) on the first of two sets and measures on the second. `place` is
/// where the state is saved and where metrics go, and whether others there are replaced.
///
/// # Errors
/// No branch at any of the sites; settings out of their ranges; what the loop meets.
pub fn train_branches(
    network: Network,
    sites: &[TreatedSite],
    [trained, heldout]: [&TaughtWindows; 2],
    settings: &CorrectionSettings,
    place: Option<(PathBuf, PathBuf, bool)>,
    monitor: &mut dyn Monitor,
) -> Result<Corrected> {
    let names: Vec<&str> = sites.iter().map(|site| site.meta.name.as_str()).collect();
    let (network, count) = branches_alone(network, &names);
    if count == 0 {
        let message = "no site has a branch, and none is to get one\nhint: give a rank".into();
        return Err(Error::Setting { what: "--rank", message });
    }
    let loop_settings = settings.of_loop();
    let (teacher, text) = settings.loss.weights();
    let objective = FollowTeacher { logits, teacher, text };
    let mut trainer = Trainer::new(trained, &objective, &loop_settings, Device::flex());
    let before = trainer.heldout_loss(&network, heldout)?.loss;
    let partial = place.as_ref().map(|(state, ..)| state.parent().unwrap_or(state).display().to_string());
    trainer.state = place.as_ref().map(|(state, ..)| state.clone());
    monitor.begin("train", loop_settings.samples(trimtab_train::Dataset::len(trained)) as usize);
    let writes = place.map(|(_, metrics, force)| (metrics, force));
    let mut show = Show { monitor, unit: "tokens", writes, metrics: None };
    let outcome = trainer.run(network, &mut show)?;
    trimtab_train::Observer::<Network>::saves(&mut show)?;
    if !outcome.finished {
        return Err(match partial {
            Some(kept) => Error::Interrupted { kept },
            None => trimtab_calibrate::Error::Interrupted.into(),
        });
    }
    let mut module = outcome.module;
    let mut branches = BTreeMap::new();
    for site in sites {
        let Some((_, found)) = module.site_mut(&site.meta.name) else { continue };
        let Some(Branch::LowRank(branch)) = found.branches.first() else { continue };
        let [a, b] = [&branch.a, &branch.b].map(|factor| host(factor.val().without_autodiff()));
        // The scale is part of the factors as they are stored.
        let b: Vec<f32> = b.into_iter().map(|x| x * branch.scale as f32).collect();
        let rank = branch.a.dims()[0];
        let factors = BranchFactors::from_f32(&a, &b, rank, scale_dtype(site.dtype))?;
        found.set_branches(vec![Branch::of(&factors, &Device::flex())])?;
        branches.insert(site.meta.name.clone(), factors);
    }
    // With the factors as they are stored.
    let (module, _) = branches_alone(module, &names);
    let after = trainer.heldout_loss(&module, heldout)?.loss;
    Ok(Corrected { branches, heldout: [before, after], steps: outcome.step })
}

/// The network where gradients are kept, for the branches of these sites alone; and how many there are.
fn branches_alone(network: Network, names: &[&str]) -> (Network, usize) {
    let device = Device::flex().autodiff();
    let mut network = network.fork(&device).no_grad();
    let mut count = 0;
    for index in 0..network.stages().len() {
        for layer in network.stage_mut(index).layers_mut() {
            let LayerMut::Site(site) = layer else { continue };
            if !names.contains(&site.name()) {
                continue;
            }
            for (path, held) in LayerMut::Site(site).held() {
                if let (true, HeldMut::Matrix(param)) = (path.contains(".branches."), held) {
                    // A parameter that was frozen stays so: another, with the same numbers, takes its place.
                    *param = Param::from_tensor(Tensor::from_data(param.val().into_data(), &device));
                    count += 1;
                }
            }
        }
    }
    (network, count / 2)
}

/// Every tensor of the model as it is, but the branches.
fn write(model: &Model, branches: &BTreeMap<String, BranchFactors>, out: &mut OutDir) -> Result<()> {
    let replaced: std::collections::BTreeSet<String> =
        branches.keys().flat_map(|site| BranchFactors::names(site)).collect();
    let checkpoint = model.checkpoint();
    let (mut unit, mut bytes, mut number): (Vec<(String, RawTensor)>, u64, usize) = (Vec::new(), 0, 0);
    let commit = |out: &mut OutDir, unit: &mut Vec<(String, RawTensor)>, number: &mut usize| -> Result<()> {
        let key = format!("tensors-{number:05}");
        if !unit.is_empty() && !out.unit_done(&key) {
            out.commit_unit(&key, unit)?;
        }
        unit.clear();
        *number += 1;
        checkpoint.release();
        Ok(())
    };
    for name in checkpoint.names().filter(|name| !replaced.contains(*name)) {
        let tensor = checkpoint.tensor(name)?;
        bytes += tensor.bytes.len() as u64;
        unit.push((name.to_string(), tensor));
        if bytes >= UNIT_BYTES {
            commit(out, &mut unit, &mut number)?;
            bytes = 0;
        }
    }
    commit(out, &mut unit, &mut number)?;
    if !out.unit_done("branches") {
        let factors: Vec<(String, RawTensor)> =
            branches.iter().flat_map(|(site, branch)| branch.tensors(site)).collect();
        out.commit_unit("branches", &factors)?;
    }
    for (name, bytes) in checkpoint.side_files()? {
        out.put_file(&name, &bytes)?;
    }
    if let Some(config) = checkpoint.config() {
        out.put_file("config.json", crate::apply::pretty(config).as_bytes())?;
    }
    let metadata =
        checkpoint.metadata().clone().into_iter().chain([("format".into(), "pt".into())]).collect();
    out.finish_shards(SHARD_BYTES, &metadata)?;
    Ok(())
}
