//! Parameters of a module by their path, which (unlike the framework's random ids) is the same in every process.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Tensor, TensorData};

/// A float parameter of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Names of the fields that lead to it, joined by dots.
    pub path: String,
    /// Identity within this process.
    pub id: ParamId,
    /// Lengths of its dimensions.
    pub shape: Vec<usize>,
}

/// The float parameters of a module, in the order in which it declares them.
pub fn parameters<M: Module>(module: &M) -> Vec<ParameterInfo> {
    let mut list = List::default();
    module.visit(&mut list);
    list.found
}

/// The numbers of all float parameters, by path.
pub(crate) fn values<M: Module>(module: &M) -> Vec<(String, TensorData)> {
    let data = |(path, shape, flat): (String, Vec<usize>, Tensor<1>)| {
        let numbers: Vec<f32> = flat.into_data().iter::<f32>().collect();
        (path, TensorData::new(numbers, shape))
    };
    flat(module).into_iter().map(data).collect()
}

/// All float parameters without their gradients: path, shape, and the numbers as one row.
pub(crate) fn flat<M: Module>(module: &M) -> Vec<(String, Vec<usize>, Tensor<1>)> {
    let mut collect = Flat::default();
    module.visit(&mut collect);
    collect.found
}

/// Replaces the numbers of every float parameter by what `source` gives for its path and shape.
pub(crate) fn replace<M: Module, E>(
    module: M,
    source: impl FnMut(&str, &[usize]) -> Result<TensorData, E>,
) -> Result<M, E> {
    let mut replace = Replace { path: Path::default(), source, error: None };
    let module = module.map(&mut replace);
    replace.error.map_or(Ok(module), Err)
}

/// Where a walk through a module stands.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_string());
    }

    pub fn exit(&mut self) {
        self.0.pop();
    }

    pub fn join(&self) -> String {
        self.0.join(".")
    }
}

#[derive(Default)]
struct List {
    path: Path,
    found: Vec<ParameterInfo>,
}

impl ModuleVisitor for List {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(ParameterInfo {
            path: self.path.join(),
            id: param.id,
            shape: param.lazy_shape().to_vec(),
        });
    }
}

#[derive(Default)]
struct Flat {
    path: Path,
    found: Vec<(String, Vec<usize>, Tensor<1>)>,
}

impl ModuleVisitor for Flat {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.base().without_autodiff();
        self.found.push((self.path.join(), value.dims().to_vec(), value.flatten(0, D - 1)));
    }
}

struct Replace<F, E> {
    path: Path,
    source: F,
    error: Option<E>,
}

impl<F: FnMut(&str, &[usize]) -> Result<TensorData, E>, E> ModuleMapper for Replace<F, E> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match (self.source)(&self.path.join(), &param.base().dims()) {
            Ok(data) => param.map(|tensor| relocate(tensor, data)),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// `data` as a leaf in the place of `tensor`: same device, same need of a gradient.
fn relocate<const D: usize>(tensor: Tensor<D>, data: TensorData) -> Tensor<D> {
    let trained = tensor.is_require_grad();
    Tensor::from_data(data, &tensor.device()).set_require_grad(trained)
}
