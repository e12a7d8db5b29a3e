//! Batches that are made while steps compute.
//!
//! Which passes come is foreseen as far as it is certain, and their batches are made on a thread of their own. One that was
//! made for another pass than the one that comes is dropped: what a run computes does not depend on what was foreseen.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use crate::error::Result;
use crate::position::Position;
use crate::sampler::{Item, Sampler};
use crate::settings::{Phase, Settings};
use crate::workers::share;

/// Where a batch stands in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub seed: u64,
    pub step: usize,
    /// Number of the pass in its step, different in every process.
    pub pass: usize,
    pub progress: f64,
}

/// All that the batch of a pass depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    pub place: Place,
    pub items: Vec<Item>,
}

/// The passes of a run, as far as they follow from its settings and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Course<'a> {
    settings: &'a Settings,
    items: usize,
    sampler: Sampler,
    /// Rank and number of the processes.
    process: [usize; 2],
}

impl<'a> Course<'a> {
    pub fn new(settings: &'a Settings, items: usize, process: [usize; 2]) -> Self {
        Self { settings, items, sampler: Sampler::new(items, settings.seed), process }
    }

    /// Items of a phase.
    pub fn length(&self, phase: &Phase) -> u64 {
        phase.length(self.items, self.settings.batch.first())
    }

    /// Items of the step at this position, of a phase that is not over.
    pub fn size(&self, phase: &Phase, position: &Position) -> usize {
        (position.batch as u64).min(self.length(phase) - position.phase_samples) as usize
    }

    /// Share of the run before this position.
    pub fn progress(&self, position: &Position) -> f64 {
        position.samples as f64 / self.settings.samples(self.items).max(1) as f64
    }

    /// The passes of this process in the step of `size` items at this position.
    pub fn passes(&mut self, position: &Position, size: usize) -> Vec<Order> {
        let (progress, [rank, processes]) = (self.progress(position), self.process);
        let items = self.sampler.take(position.samples, size);
        let order = |(number, items): (usize, &[Item])| {
            let pass = (rank << 32) + number;
            let place = Place { seed: self.settings.seed, step: position.step, pass, progress };
            Order { place, items: items.to_vec() }
        };
        let own = &items[share(size, rank, processes)];
        own.chunks(self.settings.pass_size(size)).enumerate().map(order).collect()
    }
}

/// What is certain to come, pass by pass.
pub(crate) struct Forecast<'a> {
    course: Course<'a>,
    /// Number of the first step that is not foreseen.
    end: usize,
    /// Where it stands, if that is certain.
    position: Option<Position>,
    /// Passes that are foreseen and were not given out.
    passes: VecDeque<Order>,
}

impl<'a> Forecast<'a> {
    pub fn new(course: Course<'a>) -> Self {
        Self { course, end: 0, position: None, passes: VecDeque::new() }
    }

    /// The step at `position` begins: if it was not foreseen, the forecast begins with it.
    pub fn meet(&mut self, position: &Position) {
        if self.end <= position.step {
            (self.end, self.position) = (position.step, Some(position.clone()));
            self.passes.clear();
        }
    }

    /// The run takes another course than was foreseen.
    pub fn forget(&mut self) {
        (self.end, self.position) = (0, None);
        self.passes.clear();
    }
}

impl Iterator for Forecast<'_> {
    type Item = Order;

    fn next(&mut self) -> Option<Order> {
        while self.passes.is_empty() {
            let position = self.position.as_mut()?;
            let batch = &self.course.settings.batch;
            let phase = self.course.settings.phase(position.phase)?;
            if position.phase_samples >= self.course.length(phase) {
                position.next_phase();
                continue;
            }
            let size = self.course.size(phase, position);
            self.passes.extend(self.course.passes(position, size));
            self.end = position.step + 1;
            match batch.certain(position.step, size, position.batch) {
                Some(next) => position.advance(size, next),
                // Known when the step is done.
                None => self.position = None,
            }
        }
        self.passes.pop_front()
    }
}

/// Makes the batches of orders, those that were foreseen on a thread.
pub(crate) struct Maker<'m, B> {
    make: &'m (dyn Fn(&Order) -> Result<B> + Sync),
    ahead: usize,
    orders: Sender<Order>,
    batches: Receiver<Result<B>>,
    /// What the thread has been given and has not given back.
    pending: VecDeque<Order>,
}

impl<'m, B: Send + 'm> Maker<'m, B> {
    /// A maker whose thread is at most `ahead` batches ahead; there is no thread for 0. It ends with the maker.
    pub fn new<'s>(
        scope: &'s Scope<'s, 'm>,
        ahead: usize,
        make: &'m (dyn Fn(&Order) -> Result<B> + Sync),
    ) -> Self {
        let (orders, ordered) = channel::<Order>();
        let (sender, batches) = channel();
        if ahead > 0 {
            scope.spawn(move || {
                for order in ordered {
                    if sender.send(make(&order)).is_err() {
                        return;
                    }
                }
            });
        }
        Self { make, ahead, orders, batches, pending: VecDeque::new() }
    }

    /// Orders as much of what is foreseen as may be made ahead.
    pub fn order(&mut self, forecast: &mut Forecast<'_>) {
        while self.pending.len() < self.ahead
            && let Some(order) = forecast.next()
            && self.orders.send(order.clone()).is_ok()
        {
            self.pending.push_back(order);
        }
    }

    /// The batch of a pass: the one that was made ahead for it, or else a new one.
    pub fn take(&mut self, wanted: &Order) -> Result<B> {
        while let Some(order) = self.pending.pop_front() {
            // A thread that is gone has panicked: making the batch here tells why.
            if let Ok(batch) = self.batches.recv()
                && order == *wanted
            {
                return batch;
            }
        }
        (self.make)(wanted)
    }
}
