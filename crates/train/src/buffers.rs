//! Buffers that training moves without a gradient: the running statistics of batch norms.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use trimtab_nn::BatchStatistics;

use crate::error::Result;
use crate::parameters::Path;
use crate::workers::Workers;

/// Share of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// What the norms saw in the passes of a step.
#[derive(Default)]
pub(crate) struct NormStatistics {
    passes: Vec<Vec<BatchStatistics>>,
}

impl NormStatistics {
    pub fn add(&mut self, seen: Vec<BatchStatistics>) {
        self.passes.push(seen);
    }

    /// What the buffers are moved by, in order: every pass on its own, as if there were no steps; of several processes the mean
    /// over all that all have seen, so that their buffers stay the same.
    pub fn finish(self, workers: &mut dyn Workers) -> Result<Vec<Vec<BatchStatistics>>> {
        if workers.size() == 1 {
            return Ok(self.passes);
        }
        let Some(first) = self.passes.first() else { return Ok(Vec::new()) };
        let mut mean = first.clone();
        for (i, statistics) in mean.iter_mut().enumerate() {
            let n = self.passes.len() as f64;
            for part in [0, 1] {
                let of = |seen: &BatchStatistics| {
                    if part == 0 { seen.mean.clone() } else { seen.variance.clone() }
                };
                let mut sum = vec![0.0f64; of(statistics).len()];
                for pass in &self.passes {
                    sum.iter_mut().zip(of(&pass[i])).for_each(|(sum, x)| *sum += f64::from(x) / n);
                }
                workers.sum(&mut sum)?;
                let all = sum.iter().map(|sum| (sum / workers.size() as f64) as f32).collect();
                *if part == 0 { &mut statistics.mean } else { &mut statistics.variance } = all;
            }
        }
        Ok(vec![mean])
    }
}

/// Moves running means and variances towards those of a batch.
pub(crate) fn update<M: Module>(module: &mut M, seen: &[BatchStatistics]) {
    if !seen.is_empty() {
        *module = module.clone().map(&mut Move { path: Path::default(), seen });
    }
}

struct Move<'a> {
    path: Path,
    seen: &'a [BatchStatistics],
}

impl Move<'_> {
    /// What the batch says of the buffer at `path`.
    fn target(&self, path: &str) -> Option<&[f32]> {
        let (norm, buffer) = path.rsplit_once('.')?;
        let seen = self.seen.iter().find(|seen| seen.norm == norm)?;
        match buffer {
            // In a checkpoint, and as fields of a norm.
            "running_mean" | "mean" => Some(&seen.mean),
            "running_var" | "variance" => Some(&seen.variance),
            _ => None,
        }
    }
}

impl ModuleMapper for Move<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join();
        let Some(target) = self.target(&path) else { return param };
        param.map(|old| {
            let (device, trained) = (old.device(), old.is_require_grad());
            let target = TensorData::new(target.to_vec(), old.dims());
            let old = old.without_autodiff();
            let target = Tensor::<D>::from_data(target, &old.device());
            let new = old * (1.0 - MOMENTUM) + target * MOMENTUM;
            Tensor::from_data(new.into_data(), &device).set_require_grad(trained)
        })
    }
}
