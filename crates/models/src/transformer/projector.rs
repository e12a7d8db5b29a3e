//! From the features of a vision tower to rows of a decoder's embedding (Liu et al., arXiv:2310.03744, section 3.2).

use burn::module::Module;
use burn::tensor::Tensor;
use trimtab_nn::{Axis, Ctx, Flow, Layer, LayerMut, Result, Stage};

use super::mlp::Mlp;
use super::plan::{has_module, linear};
use super::stage_plan::MlpPlan;
use super::{Parts, ProjectorOptions, SitePlan, Start};
use crate::load::Loader;

/// A projector before it is loaded.
pub(crate) struct ProjectorPlan {
    pub name: String,
    mlp: MlpPlan,
    drop_first: bool,
}

impl ProjectorPlan {
    /// A projector between the axes of a tower and of a decoder's embedding.
    pub fn new(options: &ProjectorOptions, from: Axis, to: Axis, has: &impl Fn(&str) -> bool) -> Self {
        let present = |root: &&String| has_module(has, &format!("{root}{}", options.up));
        let root = options.roots.iter().find(present).or(options.roots.first());
        let root = root.map_or("", String::as_str);
        let hidden = Axis::new("projector.hidden", to.size());
        let site = |name: &str, reads: &str, axes: [&Axis; 2]| SitePlan {
            meta: linear(format!("{root}{name}"), &format!("projector.{reads}"), axes[0], axes[1]),
            bias: options.bias,
            start: Start::Normal,
        };
        Self {
            name: root.trim_end_matches('.').into(),
            mlp: MlpPlan {
                up: vec![site(&options.up, "input", [&from, &hidden])],
                down: site(&options.down, "hidden", [&hidden, &to]),
                gated: false,
                activation: options.activation,
            },
            drop_first: options.drop_first,
        }
    }

    /// The map that reads features and the map that gives rows of the decoder.
    pub fn ends(&self) -> [&SitePlan; 2] {
        [&self.mlp.up[0], &self.mlp.down]
    }

    /// What the stage is made of.
    pub fn parts(&self) -> Parts {
        Parts { sites: self.mlp.sites().cloned().collect(), ..Parts::default() }
    }
}

/// Two linear maps and an activation, over all features or all but the first.
#[derive(Module, Debug)]
pub struct Projector {
    mlp: Mlp,
    /// Whether the first row, the class token, is left out.
    #[module(skip)]
    drop_first: bool,
    #[module(skip)]
    name: String,
}

impl Projector {
    pub(crate) fn load(plan: &ProjectorPlan, loader: &Loader<'_>) -> crate::Result<Self> {
        let mlp = Mlp::load(&plan.mlp, loader)?;
        Ok(Self { mlp, drop_first: plan.drop_first, name: plan.name.clone() })
    }

    /// `[images, rows, tower's width] -> [images, features, decoder's width]`.
    pub fn forward(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let first = usize::from(self.drop_first);
        let rows = x.dims()[1] - first;
        self.mlp.forward(x.narrow(1, first, rows), ctx)
    }
}

impl Stage for Projector {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let x = flow.hidden(&self.name)?;
        Ok(Flow::Hidden(Self::forward(self, x, ctx)))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        self.mlp.sites().map(Layer::Site).collect()
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        self.mlp.sites_mut().map(LayerMut::Site).collect()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}
