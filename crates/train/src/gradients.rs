//! Gradients of one step: collected, averaged over passes, measured, clipped.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::parameters::Path;
use crate::settings::Trainable;

/// Gradients of the trained parameters of a module.
#[derive(Debug, Default)]
pub struct Gradients {
    by_id: GradientsParams,
    terms: f64,
}

impl Gradients {
    /// Takes the gradients of the trained parameters out of a backward pass over a loss with `terms` terms.
    pub fn collect<M: Module>(
        module: &M,
        mut backward: burn::tensor::Gradients,
        trainable: &Trainable,
        terms: usize,
    ) -> Self {
        let mut visitor = Collect {
            path: Path::default(),
            backward: &mut backward,
            trainable,
            into: GradientsParams::new(),
        };
        module.visit(&mut visitor);
        Self { by_id: visitor.into, terms: terms as f64 }
    }

    /// Number of parameters with a gradient.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no parameter has a gradient.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The gradient of the mean loss over the terms of both.
    pub fn merge<M: Module>(mut self, other: Self, module: &M) -> Self {
        if self.is_empty() {
            return other;
        }
        let terms = self.terms + other.terms;
        let mut visitor = Merge {
            into: &mut self.by_id,
            from: other.by_id,
            share: [self.terms / terms, other.terms / terms],
        };
        module.visit(&mut visitor);
        self.terms = terms;
        self
    }

    /// Norm over all parameters. Rows are summed where the gradient lies, their sums on the host in f64, in order.
    pub fn norm<M: Module>(&self, module: &M) -> f64 {
        let mut visitor = SquaredNorm { of: &self.by_id, sum: 0.0 };
        module.visit(&mut visitor);
        visitor.sum.sqrt()
    }

    /// Scales all gradients so that their norm, which is `norm`, is at most `limit`.
    ///
    /// Source: Pascanu et al., arXiv:1211.5063, over all parameters at once.
    pub fn clip<M: Module>(&mut self, module: &M, norm: f64, limit: f64) {
        if norm > limit {
            let mut visitor = Scale { of: &mut self.by_id, factor: limit / norm };
            module.visit(&mut visitor);
        }
    }

    /// The gradient of one parameter, taken out.
    pub(crate) fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        self.by_id.remove(param.id)
    }
}

struct Collect<'a> {
    path: Path,
    backward: &'a mut burn::tensor::Gradients,
    trainable: &'a Trainable,
    into: GradientsParams,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A tensor without a gradient may not be asked for one.
        if !param.is_require_grad() || !self.trainable.has(&self.path.join()) {
            return;
        }
        if let Some(gradient) = param.base().grad_remove(self.backward) {
            self.into.register(param.id, gradient);
        }
    }
}

struct Merge<'a> {
    into: &'a mut GradientsParams,
    from: GradientsParams,
    share: [f64; 2],
}

impl ModuleVisitor for Merge<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let [mine, theirs] = self.share;
        let a = self.into.remove::<D>(param.id).map(|g| g * mine);
        let b = self.from.remove::<D>(param.id).map(|g| g * theirs);
        let sum = match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (one, other) => one.or(other),
        };
        if let Some(sum) = sum {
            self.into.register(param.id, sum);
        }
    }
}

struct SquaredNorm<'a> {
    of: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.of.get::<D>(param.id) {
            let rows = gradient.square().sum_dim(D - 1).into_data();
            self.sum += rows.iter::<f64>().sum::<f64>();
        }
    }
}

struct Scale<'a> {
    of: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.of.remove::<D>(param.id) {
            self.of.register(param.id, gradient * self.factor);
        }
    }
}
