//! A moving average of the parameters.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::parameters::{Path, flat};

/// `average <- share * average + (1 - share) * module`, parameter by parameter; buffers are averaged, too. `average` lies on a
/// device without gradients.
pub(crate) fn follow<M: Module>(average: M, module: &M, share: f64) -> M {
    let values = flat(module).into_iter().map(|(path, _, value)| (path, value)).collect();
    average.map(&mut Blend { path: Path::default(), values, share })
}

struct Blend {
    path: Path,
    values: BTreeMap<String, Tensor<1>>,
    share: f64,
}

impl ModuleMapper for Blend {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(value) = self.values.remove(&self.path.join()) else { return param };
        param.map(|old| {
            let value = value.reshape(old.dims());
            old * self.share + value * (1.0 - self.share)
        })
    }
}
