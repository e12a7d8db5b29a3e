//! Buffers that training moves without a gradient: the running statistics of batch norms.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use trimtab_nn::BatchStatistics;

use crate::parameters::Path;

/// Share of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f32 = 0.1;

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
            "running_mean" => Some(&seen.mean),
            "running_var" => Some(&seen.variance),
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
