//! The loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use trimtab_math::random::Stream;
use trimtab_nn::Capture;

use crate::ahead::{Course, Forecast, Maker, Order, Place};
use crate::average;
use crate::batch::BatchSize;
use crate::buffers::{self, NormStatistics};
use crate::data::{BatchTransform, Dataset};
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::objective::{Objective, Pass, StepInfo};
use crate::observer::{Measured, Observer, StepRecord};
use crate::optimizer::Optimizer;
use crate::parameters;
use crate::per_sample::SampleStatistics;
use crate::position::Position;
use crate::sampler::Item;
use crate::settings::{Phase, Settings};
use crate::state::State;
use crate::statistics::Gatherer;
use crate::workers::{Alone, ExchangeState, Workers};

/// Everything of a run but the module.
pub struct Trainer<'a, D: Dataset, O> {
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
    /// A change of every batch before the objective sees it; not of held-out ones.
    pub transform: Option<&'a dyn BatchTransform<D::Batch>>,
}

/// What a run ends with.
#[derive(Clone, Debug)]
pub struct Outcome<M> {
    /// The trained module.
    pub module: M,
    /// The moving average of its parameters, if one was asked for: what was measured.
    pub average: Option<M>,
    /// Steps done, over all phases.
    pub step: usize,
    /// Items seen, over all phases.
    pub samples: u64,
    /// Whether everything was done; otherwise the run was interrupted and its state saved.
    pub finished: bool,
    /// The last step, if this run did one.
    pub last: Option<StepRecord>,
}

impl<M> Outcome<M> {
    /// The average of the parameters where there is one, otherwise the module.
    pub fn result(&self) -> &M {
        self.average.as_ref().unwrap_or(&self.module)
    }
}

/// The batch of these items, changed by the transform.
pub(crate) fn made<D: Dataset>(
    data: &D,
    items: &[Item],
    transform: Option<&dyn BatchTransform<D::Batch>>,
    place: Place,
    device: &Device,
) -> Result<D::Batch> {
    let batch = data.batch(items, device)?;
    let Some(transform) = transform else { return Ok(batch) };
    let mut stream = Stream::new(place.seed, "train/transform", place.step as u64, place.pass as u64);
    transform.apply(batch, &mut stream, place.progress)
}

/// What the passes of one step give.
struct Passes {
    gradients: Gradients,
    /// Mean over all terms.
    loss: f64,
    /// Norm of the gradients before clipping.
    norm: f64,
    terms: f64,
    /// What single samples said, if they were asked.
    statistics: Option<SampleStatistics>,
}

/// Where the batches of a run come from.
struct Source<'m, B> {
    course: Course<'m>,
    forecast: Forecast<'m>,
    maker: Maker<'m, B>,
}

/// What changes from step to step.
struct Run<M> {
    module: M,
    average: Option<M>,
    optimizer: Optimizer,
    position: Position,
}

impl<'a, D: Dataset, O> Trainer<'a, D, O> {
    /// A run without held-out data, saved state and transform.
    pub fn new(data: &'a D, objective: &'a O, settings: &'a Settings, device: Device) -> Self {
        Self { data, heldout: None, objective, settings, device, state: None, transform: None }
    }

    /// Trains `module`, whose parameters lie on `device` with gradients.
    ///
    /// If [`Trainer::state`] is a file, the run goes on from there, with the same result as without the interruption.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Diverged`], [`Error::NothingToTrain`], a state of another run or an unusable one
    /// ([`Error::OtherRun`], [`Error::State`]), and what the objective meets.
    pub fn run<M: Module>(&self, module: M, observer: &mut dyn Observer<M>) -> Result<Outcome<M>>
    where
        O: Objective<M, D::Batch>,
    {
        self.run_with(module, observer, &mut Alone)
    }

    /// [`Trainer::run`] as one of several processes.
    ///
    /// # Errors
    /// Those of [`Trainer::run`], and a process that is gone.
    pub fn run_with<M: Module>(
        &self,
        module: M,
        observer: &mut dyn Observer<M>,
        workers: &mut dyn Workers,
    ) -> Result<Outcome<M>>
    where
        O: Objective<M, D::Batch>,
    {
        self.check(&*workers)?;
        let device = self.device.clone().autodiff();
        // With parameters of its own: graphs that share one are one graph, for which runs on several threads wait without end.
        let run = self.resume(module.fork(&device), workers)?;
        observer.begins(run.position.step)?;
        let course = Course::new(self.settings, self.data.len(), [workers.rank(), workers.size()]);
        let (data, transform) = (self.data, self.transform);
        let make = |order: &Order| made(data, &order.items, transform, order.place, &device);
        // A pool of one thread stands for a core of its own: there is nobody to make anything meanwhile.
        let ahead = if rayon::current_num_threads() > 1 { self.settings.prefetch } else { 0 };
        std::thread::scope(|scope| {
            let maker = Maker::new(scope, ahead, &make);
            let forecast = Forecast::new(course.clone());
            self.go(run, Source { course, forecast, maker }, observer, workers)
        })
    }

    /// Refuses, before the first step, what one of the steps would stumble over.
    fn check(&self, workers: &dyn Workers) -> Result<()> {
        self.settings.check()?;
        if self.data.is_empty() {
            return Err(Error::setting("data", "has no item"));
        }
        let (items, batch) = (self.data.len(), self.settings.batch.first());
        for phase in &self.settings.phases {
            let length = phase.length(items, batch);
            if length == 0 {
                let message = format!("is no item of the {items} that there are");
                return Err(Error::setting(format!("{}.epochs", phase.name), message));
            }
            // What is left for the last of steps that grow is not known yet.
            let smallest = match (&self.settings.batch, length % batch as u64) {
                (BatchSize::Fixed(_), rest) if rest > 0 => rest,
                _ => length.min(batch as u64),
            };
            enough(phase, smallest as usize, workers)?;
        }
        if matches!(self.settings.batch, BatchSize::Adaptive(_)) && workers.compresses() {
            let message = "tests of single samples need the gradient as it is, and it is compressed\nhint: leave the exchange dense, or give a batch that does not adapt";
            return Err(Error::setting("batch", message));
        }
        Ok(())
    }

    fn go<M: Module>(
        &self,
        mut run: Run<M>,
        mut source: Source<'_, D::Batch>,
        observer: &mut dyn Observer<M>,
        workers: &mut dyn Workers,
    ) -> Result<Outcome<M>>
    where
        O: Objective<M, D::Batch>,
    {
        let (first, start) = (run.position.samples, Instant::now());
        let total = self.settings.samples(self.data.len());
        let mut last = None;
        while let Some(phase) = self.settings.phase(run.position.phase) {
            let length = source.course.length(phase);
            if run.position.phase_samples >= length {
                self.next_phase(&mut run);
                continue;
            }
            let clock = Instant::now();
            let size = source.course.size(phase, &run.position);
            let rates = phase.rates(run.position.phase_samples + size as u64, length);
            let mut passes = self.passes(&mut run, phase, size, &rates, &mut source, workers)?;
            let Position { step, phase: number, .. } = run.position;
            let info = StepInfo { step, phase: number, seed: self.settings.seed, loss: passes.loss };
            run.module = self.objective.before_update(run.module, &mut passes.gradients, &info)?;
            run.module = self.objective.project(run.optimizer.step(run.module, passes.gradients, &rates));
            if let Some(share) = self.settings.average {
                run.average = run.average.map(|average| average::follow(average, &run.module, share));
            }
            let Position { step, batch, .. } = run.position;
            run.position.advance(size, self.settings.batch.next(step, batch, passes.statistics.as_ref()));
            let seconds = clock.elapsed().as_secs_f64();
            let heldout = self.measure(&run, length, total)?;
            let seen = run.position.samples - first;
            let pace = start.elapsed().as_secs_f64() / seen as f64;
            let record = StepRecord {
                phase: phase.name.clone(),
                step: run.position.step,
                steps: self.settings.steps(self.data.len()),
                samples: run.position.samples,
                total,
                batch: size,
                loss: passes.loss,
                gradient_norm: passes.norm,
                rate: rates.last().copied().unwrap_or(0.0),
                terms_per_s: passes.terms / seconds,
                noise_scale: passes.statistics.map(|seen| seen.noise_scale()),
                heldout,
                seconds_left: pace * total.saturating_sub(run.position.samples) as f64,
            };
            if let Some(patience) = self.settings.patience
                && let Some(heldout) = heldout
                && run.position.waits(heldout.loss, patience)
            {
                run.position.phase_samples = length;
                source.forecast.forget();
            }
            observer.step(&record, run.average.as_ref().unwrap_or(&run.module));
            let over = run.position.samples >= total || self.is_over(&run.position);
            let stop = !over && any(observer.interrupted(), workers)?;
            last = Some(record);
            if self.state.is_some() && (stop || is_due(self.settings.save_every, run.position.step)) {
                observer.saves()?;
                let exchange = workers.save()?;
                if workers.rank() == 0 {
                    self.save(&run, exchange)?;
                }
            }
            if stop {
                return Ok(run.end(false, last));
            }
        }
        Ok(run.end(true, last))
    }

    /// Whether nothing comes after this position.
    fn is_over(&self, position: &Position) -> bool {
        let length = |phase: &Phase| phase.length(self.data.len(), self.settings.batch.first());
        let done = |phase: &Phase| position.phase_samples >= length(phase);
        self.settings.phase(position.phase).is_none_or(done)
            && self.settings.phase(position.phase + 1).is_none()
    }

    fn next_phase<M>(&self, run: &mut Run<M>) {
        run.position.next_phase();
        let Some(phase) = self.settings.phase(run.position.phase) else { return };
        let old = std::mem::replace(&mut run.optimizer, Optimizer::new(phase));
        if phase.keep_state {
            run.optimizer = old.succeed(phase);
        }
    }

    /// Loss and share of right answers on all held-out items.
    ///
    /// # Errors
    /// What the objective meets.
    pub fn heldout_loss<M: Module>(&self, module: &M, data: &D) -> Result<Measured>
    where
        O: Objective<M, D::Batch>,
    {
        let module = module.valid();
        let items: Vec<Item> = (0..data.len()).map(|index| Item { index, epoch: 0 }).collect();
        let (mut sum, mut terms, mut correct) = (0.0, 0.0, Some(0));
        for part in items.chunks(self.settings.pass_size(self.settings.batch.first())) {
            let mut pass = Pass { seed: self.settings.seed, ..Pass::default() };
            let loss = self.objective.loss(&module, &data.batch(part, &self.device)?, &mut pass)?;
            sum += f64::from(loss.mean.into_scalar::<f32>()) * loss.terms as f64;
            terms += loss.terms as f64;
            correct = correct.zip(loss.correct).map(|(a, b)| a + b);
        }
        Ok(Measured { loss: sum / terms, accuracy: correct.map(|n| n as f64 / terms) })
    }

    /// Forward and backward passes of one step of `size` items. The gradients are exchanged, clipped, and noisy.
    fn passes<M: Module>(
        &self,
        run: &mut Run<M>,
        phase: &Phase,
        size: usize,
        rates: &[f64],
        source: &mut Source<'_, D::Batch>,
        workers: &mut dyn Workers,
    ) -> Result<Passes>
    where
        O: Objective<M, D::Batch>,
    {
        enough(phase, size, &*workers)?;
        let (settings, step) = (self.settings, run.position.step);
        let progress = source.course.progress(&run.position);
        let asks = settings.batch.asks(step, size);
        let mut sums = [0.0, 0.0];
        let mut of_parts: Vec<Gradients> = Vec::new();
        of_parts.resize_with(self.objective.parts().max(1), Gradients::default);
        if asks && of_parts.len() > 1 {
            let message = "tests of single samples need steps of one part, and this objective has several";
            return Err(Error::setting("batch", message));
        }
        let (mut gatherer, mut norms) = (Gatherer::default(), NormStatistics::default());
        source.forecast.meet(&run.position);
        for order in source.course.passes(&run.position, size) {
            source.maker.order(&mut source.forecast);
            let batch = source.maker.take(&order)?;
            // While this pass computes.
            source.maker.order(&mut source.forecast);
            let mut seen = Vec::new();
            for (part, sum) in of_parts.iter_mut().enumerate() {
                let capture = asks.then(Capture::default);
                let (seed, number) = (settings.seed, run.position.phase);
                let mut pass = Pass {
                    training: true,
                    part,
                    step,
                    phase: number,
                    progress,
                    seed,
                    capture,
                    ..Pass::default()
                };
                let loss = self.objective.loss(&run.module, &batch, &mut pass)?;
                let backward = loss.mean.backward();
                sums[0] += f64::from(loss.mean.into_scalar::<f32>()) * loss.terms as f64;
                sums[1] += loss.terms as f64;
                if let Some(capture) = pass.capture.take() {
                    gatherer.add(capture.resolve(&backward), order.items.len(), &pass.statistics)?;
                }
                let trains = |path: &str| phase.trains(path);
                *sum =
                    std::mem::take(sum).merge(Gradients::collect(&run.module, backward, trains, loss.terms));
                seen.append(&mut pass.statistics);
            }
            norms.add(seen);
        }
        let rate = |path: &str| rates[phase.group_of(path)];
        let mut gradients = Gradients::default();
        for (part, mut of_part) in of_parts.into_iter().enumerate() {
            self.objective.weigh(part, &mut of_part, &rate);
            gradients = gradients.plus(of_part);
        }
        norms.finish(workers)?.iter().for_each(|seen| buffers::update(&mut run.module, seen));
        workers.exchange(&mut gradients)?;
        workers.sum(&mut sums)?;
        let loss = finite(sums[0] / sums[1], "loss", step)?;
        if gradients.is_empty() {
            return Err(nothing_to_train(&run.module, phase));
        }
        let statistics = match asks {
            true => Some(gatherer.finish(&gradients, workers)?),
            false => None,
        };
        let norm = finite(gradients.norm(), "gradient norm", step)?;
        let limits = [settings.clip_norm, phase.optimizer.clips()].into_iter().flatten();
        if let Some(limit) = limits.reduce(f64::min) {
            gradients.clip(norm, limit);
        }
        if let Some(noise) = settings.noise {
            noise.apply(&mut gradients, settings.seed, step);
        }
        Ok(Passes { gradients, loss, norm, terms: sums[1], statistics })
    }

    fn measure<M: Module>(&self, run: &Run<M>, length: u64, total: u64) -> Result<Option<Measured>>
    where
        O: Objective<M, D::Batch>,
    {
        let Position { step, samples, phase_samples, .. } = run.position;
        let ends = samples >= total || (phase_samples >= length && self.is_over(&run.position));
        let due = ends || is_due(self.settings.heldout_every, step);
        match self.heldout.filter(|data| due && !data.is_empty()) {
            Some(data) => self.heldout_loss(run.average.as_ref().unwrap_or(&run.module), data).map(Some),
            None => Ok(None),
        }
    }

    fn save<M: Module>(&self, run: &Run<M>, exchange: Vec<ExchangeState>) -> Result<()> {
        let Some(path) = &self.state else { return Ok(()) };
        let unsaved = |name| Error::State { path: path.clone(), message: format!("cannot hold \"{name}\"") };
        let state = State {
            position: run.position.clone(),
            parameters: parameters::values(&run.module),
            average: run.average.as_ref().map(parameters::values).unwrap_or_default(),
            optimizer: run.optimizer.save().map_err(unsaved)?,
            exchange,
        };
        state.write(path, self.data.len(), self.settings)
    }

    /// The run to begin with: as saved, or fresh.
    fn resume<M: Module>(&self, module: M, workers: &mut dyn Workers) -> Result<Run<M>> {
        let saved = match &self.state {
            Some(path) => State::read(path, self.data.len(), self.settings)?.map(|state| (path, state)),
            None => None,
        };
        let Some((path, State { position, parameters: values, average, optimizer: saved, exchange })) = saved
        else {
            let average = self.settings.average.map(|_| module.valid());
            let optimizer = Optimizer::new(&self.settings.phases[0]);
            let position = Position::new(self.settings.batch.first());
            return Ok(Run { module, average, optimizer, position });
        };
        workers.load(&exchange)?;
        let put = |module: M, values: Vec<(String, TensorData)>| {
            let mut values = values.into_iter().collect();
            let module = parameters::replace(module, |name, shape| restore(path, &mut values, name, shape))?;
            match values.into_keys().next() {
                Some(name) => {
                    let message = format!("holds a parameter \"{name}\" that the module has not");
                    Err(Error::OtherRun { path: path.clone(), message })
                }
                None => Ok(module),
            }
        };
        let module = put(module, values)?;
        let average = match self.settings.average {
            Some(_) => Some(put(module.valid(), average)?),
            None => None,
        };
        // After the last phase the rules are those of the last.
        let phase = self.settings.phase(position.phase).unwrap_or(&self.settings.phases[0]);
        let mut optimizer = Optimizer::new(phase);
        optimizer.load(saved, &parameters::parameters(&module), &self.device).map_err(|name| {
            let message = format!("the optimizer state of \"{name}\" is incomplete");
            Error::State { path: path.clone(), message }
        })?;
        Ok(Run { module, average, optimizer, position })
    }
}

impl<M> Run<M> {
    fn end(self, finished: bool, last: Option<StepRecord>) -> Outcome<M> {
        let Position { step, samples, .. } = self.position;
        Outcome { module: self.module, average: self.average, step, samples, finished, last }
    }
}

/// Whether one of the processes says so: all have to end at the same step.
fn any(here: bool, workers: &mut dyn Workers) -> Result<bool> {
    let mut votes = [f64::from(u8::from(here))];
    workers.sum(&mut votes)?;
    Ok(votes[0] > 0.0)
}

/// Refuses a step that has nothing for one of the processes.
fn enough(phase: &Phase, size: usize, workers: &dyn Workers) -> Result<()> {
    let processes = workers.size();
    if size >= processes {
        return Ok(());
    }
    let message = format!(
        "phase \"{}\" has a step of {size}, but there are {processes} processes\nhint: change its length or the batch so that its last step has {processes} items or more, or start fewer processes",
        phase.name
    );
    Err(Error::setting("batch", message))
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
        patterns: phase.trainable.0.clone(),
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
