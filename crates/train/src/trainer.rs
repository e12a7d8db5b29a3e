//! The loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, TensorData};

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::objective::Objective;
use crate::observer::{Observer, StepRecord};
use crate::optimizer::Optimizer;
use crate::parameters;
use crate::sampler::Sampler;
use crate::settings::{Phase, Settings};
use crate::state::{Position, State};

/// Everything of a run but the module.
pub struct Trainer<'a, D, O> {
    /// What is trained on.
    pub data: &'a D,
    /// What the held-out loss is measured on.
    pub heldout: Option<&'a D>,
    /// What is minimized.
    pub objective: &'a O,
    /// Settings.
    pub settings: &'a Settings,
    /// Where the module lies, without gradients.
    pub device: Device,
    /// Where the state is saved, and resumed from if the file is there.
    pub state: Option<PathBuf>,
}

/// What a run ends with.
#[derive(Clone, Debug)]
pub struct Outcome<M> {
    /// The trained module.
    pub module: M,
    /// Steps done, over all phases.
    pub step: usize,
    /// Whether all steps were done; otherwise the run was interrupted and its state saved.
    pub finished: bool,
    /// The last step, if this run did one.
    pub last: Option<StepRecord>,
}

/// Where a run stands within its phases.
struct Place<'s> {
    phase: &'s Phase,
    /// Steps of the phase that are done.
    done: usize,
}

/// What the passes of one step give.
struct Passes {
    gradients: Gradients,
    /// Mean over all terms.
    loss: f64,
    /// Norm of the gradients before clipping.
    norm: f64,
    terms: usize,
}

impl<D, O> Trainer<'_, D, O>
where
    D: Dataset,
{
    /// Trains `module`, whose parameters lie on `device` with gradients.
    ///
    /// If [`Trainer::state`] is a file, the run goes on from there, with the same result as without the interruption.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Diverged`], [`Error::NothingToTrain`], a state of another run or an unusable one
    /// ([`Error::OtherRun`], [`Error::State`]), and what the objective meets.
    pub fn run<M: Module>(&self, module: M, observer: &mut dyn Observer) -> Result<Outcome<M>>
    where
        O: Objective<M, D::Batch>,
    {
        self.settings.check()?;
        if self.data.is_empty() {
            return Err(Error::setting("data", "has no item"));
        }
        let (mut module, mut step, mut optimizer) = self.resume(module)?;
        let mut sampler = Sampler::new(self.data.len(), self.settings.seed);
        let (first, start) = (step, Instant::now());
        let mut last = None;
        while let Some(place) = self.place(step) {
            if place.done == 0 {
                optimizer = Optimizer::new(&place.phase.optimizer);
            }
            let clock = Instant::now();
            let passes = self.passes(&module, place.phase, step, &mut sampler)?;
            let mut record = self.record(&place, step, &passes);
            module = optimizer.step(module, passes.gradients, record.rate);
            step += 1;
            record.terms_per_s = passes.terms as f64 / clock.elapsed().as_secs_f64();
            record.heldout = self.measure(&module, step)?;
            let pace = start.elapsed().as_secs_f64() / (step - first) as f64;
            record.seconds_left = pace * (record.total - step) as f64;
            observer.step(&record);
            let stop = step < record.total && observer.interrupted();
            last = Some(record);
            if stop || is_due(self.settings.save_every, step) {
                self.save(&module, &optimizer, step)?;
            }
            if stop {
                return Ok(Outcome { module, step, finished: false, last });
            }
        }
        Ok(Outcome { module, step, finished: true, last })
    }

    /// The mean loss on all held-out items.
    ///
    /// # Errors
    /// What the objective meets.
    pub fn heldout_loss<M: Module>(&self, module: &M, data: &D) -> Result<f64>
    where
        O: Objective<M, D::Batch>,
    {
        let module = module.valid();
        let items: Vec<usize> = (0..data.len()).collect();
        let (mut sum, mut terms) = (0.0, 0.0);
        for part in items.chunks(self.settings.batch) {
            let loss = self.objective.loss(&module, &data.batch(part, &self.device))?;
            sum += f64::from(loss.mean.into_scalar::<f32>()) * loss.terms as f64;
            terms += loss.terms as f64;
        }
        Ok(sum / terms)
    }

    fn place(&self, step: usize) -> Option<Place<'_>> {
        let mut before = 0;
        self.settings.phases.iter().find_map(|phase| {
            let place = (step < before + phase.steps).then(|| Place { phase, done: step - before });
            before += phase.steps;
            place
        })
    }

    /// Forward and backward passes of one step. The gradients are clipped.
    fn passes<M: Module>(
        &self,
        module: &M,
        phase: &Phase,
        step: usize,
        sampler: &mut Sampler,
    ) -> Result<Passes>
    where
        O: Objective<M, D::Batch>,
    {
        let (settings, device) = (self.settings, self.device.clone().autodiff());
        let (mut gradients, mut sum, mut terms) = (Gradients::default(), 0.0, 0);
        for pass in 0..settings.accumulate {
            let position = self.samples(step) + (pass * settings.batch) as u64;
            let batch = self.data.batch(&sampler.take(position, settings.batch), &device);
            let loss = self.objective.loss(module, &batch)?;
            let backward = loss.mean.backward();
            sum += f64::from(loss.mean.into_scalar::<f32>()) * loss.terms as f64;
            terms += loss.terms;
            let of_pass = Gradients::collect(module, backward, &phase.trainable, loss.terms);
            gradients = gradients.merge(of_pass, module);
        }
        let loss = finite(sum / terms as f64, "loss", step)?;
        if gradients.is_empty() {
            return Err(nothing_to_train(module, phase));
        }
        let norm = finite(gradients.norm(module), "gradient norm", step)?;
        if let Some(limit) = settings.clip_norm {
            gradients.clip(module, norm, limit);
        }
        Ok(Passes { gradients, loss, norm, terms })
    }

    /// What is known of a step before its update.
    fn record(&self, place: &Place<'_>, step: usize, passes: &Passes) -> StepRecord {
        let phase = place.phase;
        let factor = phase.schedule.factor(self.samples(place.done + 1), self.samples(phase.steps));
        StepRecord {
            phase: phase.name.clone(),
            step: step + 1,
            total: self.settings.steps(),
            samples: self.samples(step + 1),
            loss: passes.loss,
            gradient_norm: passes.norm,
            rate: phase.rate * factor,
            terms_per_s: 0.0,
            heldout: None,
            seconds_left: 0.0,
        }
    }

    /// Items that so many steps see.
    fn samples(&self, steps: usize) -> u64 {
        steps as u64 * self.settings.samples_per_step()
    }

    fn measure<M: Module>(&self, module: &M, step: usize) -> Result<Option<f64>>
    where
        O: Objective<M, D::Batch>,
    {
        let due = step == self.settings.steps() || is_due(self.settings.heldout_every, step);
        match self.heldout.filter(|data| due && !data.is_empty()) {
            Some(data) => self.heldout_loss(module, data).map(Some),
            None => Ok(None),
        }
    }

    fn save<M: Module>(&self, module: &M, optimizer: &Optimizer, step: usize) -> Result<()> {
        let Some(path) = &self.state else { return Ok(()) };
        let unsaved = |name| Error::State { path: path.clone(), message: format!("cannot hold \"{name}\"") };
        let state = State {
            position: Position::new(step, self.data.len(), self.settings),
            parameters: parameters::values(module),
            optimizer: optimizer.save().map_err(unsaved)?,
        };
        state.write(path)
    }

    /// The rule that the state saved after `step` steps belongs to: that of the phase of the last of them.
    fn optimizer(&self, step: usize) -> Optimizer {
        let phase = self.place(step.saturating_sub(1)).map_or(&self.settings.phases[0], |place| place.phase);
        Optimizer::new(&phase.optimizer)
    }

    /// The module, the step and the optimizer to begin with: as saved, or fresh.
    fn resume<M: Module>(&self, module: M) -> Result<(M, usize, Optimizer)> {
        let Some(path) = &self.state else { return Ok((module, 0, self.optimizer(0))) };
        let Some(state) = State::read(path, self.data.len(), self.settings)? else {
            return Ok((module, 0, self.optimizer(0)));
        };
        let State { position, parameters: values, optimizer: saved } = state;
        let mut values = values.into_iter().collect();
        let module = parameters::replace(module, |name, shape| restore(path, &mut values, name, shape))?;
        if let Some(name) = values.into_keys().next() {
            let message = format!("holds a parameter \"{name}\" that the module has not");
            return Err(Error::OtherRun { path: path.clone(), message });
        }
        let mut optimizer = self.optimizer(position.step);
        optimizer.load(saved, &parameters::parameters(&module), &self.device).map_err(|name| {
            Error::State {
                path: path.clone(),
                message: format!("the optimizer state of \"{name}\" is incomplete"),
            }
        })?;
        Ok((module, position.step, optimizer))
    }
}

fn is_due(every: usize, step: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn finite(value: f64, what: &'static str, step: usize) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(Error::Diverged { step, what, value }) }
}

fn nothing_to_train<M: Module>(module: &M, phase: &Phase) -> Error {
    let example = parameters::parameters(module).into_iter().next().map(|info| info.path);
    Error::NothingToTrain {
        phase: phase.name.clone(),
        patterns: phase.trainable.paths.clone(),
        example: example.unwrap_or_default(),
    }
}

fn restore(
    path: &Path,
    values: &mut BTreeMap<String, TensorData>,
    name: &str,
    shape: &[usize],
) -> Result<TensorData> {
    let other = |message: String| Error::OtherRun { path: path.into(), message };
    let data = values.remove(name).ok_or_else(|| other(format!("has no parameter \"{name}\"")))?;
    if data.shape().to_vec() != shape {
        return Err(other(format!(
            "parameter \"{name}\" has shape {:?}, expected {shape:?}",
            data.shape().to_vec()
        )));
    }
    Ok(data)
}
