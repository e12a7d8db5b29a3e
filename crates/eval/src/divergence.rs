//! How far a network's output moved from that of its original, whatever the network does.
//!
//! Language models and classifiers: mean `KL(original || treated)` over tokens or images, in nats. Encoders: mean
//! `1 - cos` between the pooled embeddings of the two.

use rayon::prelude::*;
use trimtab_nn::{Ctx, Flow, Task, host};

use crate::error::{Error, Result};
use crate::{fidelity, pairs, rows};

/// What is measured of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// The divergence that fits the task.
    #[default]
    Divergence,
    /// The power of the noise in it, over its own: [`fidelity::noise_power`] row by row.
    NoisePower,
}

/// Outputs of the original network on some batches.
pub struct Reference {
    task: Task,
    measure: Measure,
    batches: Vec<Output>,
}

/// Rows of logits, or one embedding an item.
struct Output {
    values: Vec<f32>,
    width: usize,
}

/// Mean divergence and the two halves of the data beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// Mean over all rows.
    pub mean: f64,
    /// Mean of each batch.
    pub batches: Vec<f64>,
}

impl Reference {
    /// Starts an empty reference.
    pub fn new(task: Task) -> Self {
        Self::with(task, Measure::default())
    }

    /// Starts an empty reference that another measure is taken to.
    pub fn with(task: Task, measure: Measure) -> Self {
        Self { task, measure, batches: Vec::new() }
    }

    /// Adds the original's output on one batch.
    pub fn push(&mut self, output: Flow, ctx: &Ctx<'_>) -> Result<()> {
        self.batches.push(Output::of(self.task, output, ctx)?);
        Ok(())
    }

    /// Mean divergence of another output on batch `index`, and its rows.
    pub fn measure(&self, index: usize, output: Flow, ctx: &Ctx<'_>) -> Result<(f64, usize)> {
        let original = &self.batches[index];
        let treated = Output::of(self.task, output, ctx)?;
        if treated.width != original.width || treated.values.len() != original.values.len() {
            return Err(Error::Widths { left: treated.width, right: original.width });
        }
        let n = original.values.len() / original.width;
        let row =
            |output: &Output, i: usize| output.values[i * output.width..(i + 1) * output.width].to_vec();
        let values = rows::map_rows(n, |i| match self.task {
            _ if self.measure == Measure::NoisePower => {
                let power = fidelity::noise_power(original.row(i), treated.row(i));
                power.is_finite().then_some(power)
            }
            Task::Language | Task::Images | Task::Pairs => rows::kl(original.row(i), treated.row(i)),
            Task::Encoder => {
                let cos = pairs::cosine(&row(original, i), &row(&treated, i));
                cos.is_finite().then_some((1.0 - cos).max(0.0))
            }
        })?;
        Ok((values.iter().sum::<f64>() / n as f64, n))
    }

    /// Mean over all batches, on all threads; `output` measures the treated network's output on one batch.
    pub fn mean<E: From<Error> + Send>(
        &self,
        output: impl Fn(usize) -> std::result::Result<(f64, usize), E> + Sync + Send,
    ) -> std::result::Result<Divergence, E> {
        let parts = (0..self.batches.len())
            .into_par_iter()
            .map(output)
            .collect::<std::result::Result<Vec<_>, E>>()?;
        let rows: usize = parts.iter().map(|(_, n)| n).sum();
        if rows == 0 {
            return Err(Error::Empty("the calibration data").into());
        }
        let mean = parts.iter().map(|(mean, n)| mean * *n as f64).sum::<f64>() / rows as f64;
        Ok(Divergence { mean, batches: parts.into_iter().map(|(mean, _)| mean).collect() })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(|b| 4 * b.values.len()).sum()
    }
}

impl Output {
    fn of(task: Task, flow: Flow, ctx: &Ctx<'_>) -> Result<Self> {
        match (task, flow) {
            (Task::Language, Flow::Hidden(x)) => {
                let [_, _, width] = x.dims();
                Ok(Self { values: host(x), width })
            }
            (Task::Images, Flow::Vector(x)) => {
                let [_, width] = x.dims();
                Ok(Self { values: host(x), width })
            }
            (Task::Encoder, Flow::Hidden(x)) => {
                let [_, _, width] = x.dims();
                Ok(Self { values: host(pairs::pool(x, ctx.mask.clone())), width })
            }
            (Task::Pairs, Flow::Pair(both)) if matches!(both.1, Flow::Hidden(_)) => {
                Self::of(Task::Language, both.1, ctx)
            }
            (_, other) => Err(Error::Output { expected: "the output of its task", found: other.kind() }),
        }
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }
}
