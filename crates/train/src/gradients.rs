//! Gradients of one step: collected by name, averaged over passes, measured, clipped, handed out.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::parameters::Path;

/// The gradient of one parameter.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// Lengths of the dimensions of the parameter.
    pub shape: Vec<usize>,
    /// The numbers, row-major, `[n]`.
    pub values: Tensor<1>,
}

impl Gradient {
    /// Sum of squares. Rows are summed where the gradient lies, their sums on the host in f64, in order.
    pub fn squared_norm(&self) -> f64 {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let rows: Tensor<2> = self.values.clone().square().reshape([-1, width as isize]);
        rows.sum_dim(1).into_data().iter::<f64>().sum()
    }
}

/// Gradients of the trained parameters of a module, by their paths.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    of: BTreeMap<String, Gradient>,
    terms: f64,
}

impl Gradients {
    /// Takes the gradients of the parameters that are `trained` out of a backward pass over a loss with `terms` terms.
    pub fn collect<M: Module>(
        module: &M,
        mut backward: burn::tensor::Gradients,
        trained: impl Fn(&str) -> bool,
        terms: usize,
    ) -> Self {
        let mut visitor =
            Collect { path: Path::default(), backward: &mut backward, trained, into: BTreeMap::new() };
        module.visit(&mut visitor);
        Self { of: visitor.into, terms: terms as f64 }
    }

    /// Number of parameters with a gradient.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether no parameter has a gradient.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Terms of the loss whose mean this is the gradient of.
    pub fn terms(&self) -> f64 {
        self.terms
    }

    /// All gradients by the path of their parameter, in the order of the paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Gradient)> {
        self.of.iter().map(|(path, gradient)| (path.as_str(), gradient))
    }

    /// All gradients, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Gradient)> {
        self.of.iter_mut().map(|(path, gradient)| (path.as_str(), gradient))
    }

    /// The gradient of the mean loss over the terms of both.
    pub fn merge(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        let terms = self.terms + other.terms;
        let [mine, theirs] = [self.terms / terms, other.terms / terms];
        self.scale(mine);
        for (path, mut gradient) in other.of {
            gradient.values = gradient.values * theirs;
            match self.of.get_mut(&path) {
                Some(sum) => sum.values = sum.values.clone() + gradient.values,
                None => drop(self.of.insert(path, gradient)),
            }
        }
        self.terms = terms;
        self
    }

    /// The gradient of the sum of two losses over the same terms.
    pub fn plus(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        for (path, gradient) in other.of {
            match self.of.get_mut(&path) {
                Some(sum) => sum.values = sum.values.clone() + gradient.values,
                None => drop(self.of.insert(path, gradient)),
            }
        }
        self
    }

    /// Norm over all parameters.
    pub fn norm(&self) -> f64 {
        self.of.values().map(Gradient::squared_norm).sum::<f64>().sqrt()
    }

    /// Multiplies all gradients by `factor`.
    pub fn scale(&mut self, factor: f64) {
        for gradient in self.of.values_mut() {
            gradient.values = gradient.values.clone() * factor;
        }
    }

    /// Scales all gradients so that their norm, which is `norm`, is at most `limit`.
    ///
    /// Source: Pascanu et al., arXiv:1211.5063, over all parameters at once.
    pub fn clip(&mut self, norm: f64, limit: f64) {
        if norm > limit {
            self.scale(limit / norm);
        }
    }

    /// The gradient of one parameter in its shape, taken out.
    pub(crate) fn take<const D: usize>(&mut self, path: &str) -> Option<Tensor<D>> {
        let Gradient { shape, values } = self.of.remove(path)?;
        let shape: [usize; D] = shape.try_into().ok()?;
        Some(values.reshape(shape))
    }
}

/// Gradients of a mean over one term.
impl FromIterator<(String, Gradient)> for Gradients {
    fn from_iter<I: IntoIterator<Item = (String, Gradient)>>(gradients: I) -> Self {
        Self { of: gradients.into_iter().collect(), terms: 1.0 }
    }
}

struct Collect<'a, F> {
    path: Path,
    backward: &'a mut burn::tensor::Gradients,
    trained: F,
    into: BTreeMap<String, Gradient>,
}

impl<F: Fn(&str) -> bool> ModuleVisitor for Collect<'_, F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join();
        // A tensor without a gradient may not be asked for one.
        if !param.is_require_grad() || !(self.trained)(&path) {
            return;
        }
        if let Some(gradient) = param.base().grad_remove(self.backward) {
            let shape = gradient.dims().to_vec();
            self.into.insert(path, Gradient { shape, values: gradient.flatten(0, D - 1) });
        }
    }
}
