//! A network that is loaded as a whole.

use std::fmt;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

use crate::binary_attention::BinaryAttention;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::layer::{Held, HeldMut, Layer, LayerMut, NamedTensor};
use crate::site::Site;
use crate::stage::{Flow, Role, Stage, StageSource};

/// A network that is loaded as a whole: what is evaluated, and, on a device with gradients, what is trained.
///
/// It is a module of the framework whose parameters go by the names of their tensors in the checkpoint.
pub struct Network {
    stages: Vec<Box<dyn Stage>>,
    owner: Option<usize>,
    features: usize,
    attention: Option<BinaryAttention>,
}

impl Network {
    /// Loads every stage of `source`.
    pub fn load(source: &dyn StageSource) -> Result<Self> {
        Self::load_with(source, |index| source.load(index))
    }

    /// Loads every stage of `source` in another way than its own.
    pub fn load_with(
        source: &dyn StageSource,
        load: impl FnMut(usize) -> Result<Box<dyn Stage>>,
    ) -> Result<Self> {
        let infos = source.stages();
        let stages = (0..infos.len()).map(load).collect::<Result<_>>()?;
        // The first of two parts may have a head of its own; what counts is what follows the last block.
        let heads = infos.iter().rev().take_while(|info| info.role == Role::Head).count();
        Ok(Self::new(stages, source.owner(), heads))
    }

    /// A network of stages; `owner` is the one whose weight a later stage borrows, the last `heads` read out.
    pub fn new(stages: Vec<Box<dyn Stage>>, owner: Option<usize>, heads: usize) -> Self {
        let features = stages.len().saturating_sub(heads);
        Self { stages, owner, features, attention: None }
    }

    /// Attention of one bit in all blocks, or none.
    pub fn set_attention(&mut self, attention: Option<BinaryAttention>) {
        self.attention = attention;
    }

    /// Runs all stages.
    pub fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        self.forward_from(0, flow, ctx)
    }

    /// Number of stages before the head.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Runs the stages from `first` on; `flow` is what stage `first` takes.
    pub fn forward_from(&self, first: usize, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        self.forward_range(first, self.stages.len(), flow, ctx)
    }

    /// Runs the stages `first .. last`.
    pub fn forward_range(&self, first: usize, last: usize, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        ctx.binary_attention = self.attention;
        ctx.tied = self.owner.and_then(|owner| self.stages[owner].owner().cloned());
        self.stages[first..last].iter().try_fold(flow, |flow, stage| stage.forward(flow, ctx))
    }

    /// The stages.
    pub fn stages(&self) -> &[Box<dyn Stage>] {
        &self.stages
    }

    /// One stage, to be changed.
    pub fn stage_mut(&mut self, index: usize) -> &mut dyn Stage {
        self.stages[index].as_mut()
    }

    /// All sites, in the order in which data reaches them.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.stages.iter().flat_map(|stage| stage.sites())
    }

    /// The site called `name` and the index of its stage.
    pub fn site_mut(&mut self, name: &str) -> Option<(usize, &mut Site)> {
        let stages = self.stages.iter_mut().enumerate();
        stages
            .flat_map(|(i, stage)| stage.sites_mut().into_iter().map(move |site| (i, site)))
            .find(|(_, site)| site.name() == name)
    }
}

impl Network {
    /// All layers.
    pub fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        self.stages.iter().flat_map(|stage| stage.layers())
    }

    /// All numbers by their names in a dense checkpoint.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        self.layers().flat_map(Layer::tensors).collect()
    }

    /// Passes every tensor of the framework through `change`, by its name.
    fn change(mut self, mut change: impl FnMut(&str, HeldMut<'_>)) -> Self {
        let layers = self.stages.iter_mut().flat_map(|stage| stage.layers_mut());
        layers.flat_map(LayerMut::held).for_each(|(name, held)| change(&name, held));
        self
    }

    /// Passes every tensor of the framework through a function of modules.
    fn each(self, change: impl ModuleChange) -> Self {
        self.change(|_, held| match held {
            HeldMut::Vector(param) => *param = change.apply(param.clone()),
            HeldMut::Matrix(param) => *param = change.apply(param.clone()),
        })
    }
}

/// A function from modules to modules of the same type.
trait ModuleChange {
    fn apply<M: Module>(&self, module: M) -> M;
}

struct Fork<'a>(&'a Device);
struct Move<'a>(&'a Device);
struct Train;
struct Validate;
struct Materialize;

impl ModuleChange for Fork<'_> {
    fn apply<M: Module>(&self, module: M) -> M {
        module.fork(self.0)
    }
}

impl ModuleChange for Move<'_> {
    fn apply<M: Module>(&self, module: M) -> M {
        module.to_device(self.0)
    }
}

impl ModuleChange for Train {
    fn apply<M: Module>(&self, module: M) -> M {
        module.train()
    }
}

impl ModuleChange for Validate {
    fn apply<M: Module>(&self, module: M) -> M {
        module.valid()
    }
}

impl ModuleChange for Materialize {
    fn apply<M: Module>(&self, module: M) -> M {
        module.materialize()
    }
}

/// What the framework's visitors are told of the kind of a container.
const CONTAINER: &str = "Network";

/// By hand, because stages are trait objects, which cannot be modules themselves.
impl Module for Network {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.layers().flat_map(Layer::held).fold(devices, |devices, (_, held)| match held {
            Held::Vector(param) => param.collect_devices(devices),
            Held::Matrix(param) => param.collect_devices(devices),
        })
    }

    fn fork(self, device: &Device) -> Self {
        self.each(Fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(Move(device))
    }

    fn train(self) -> Self {
        self.each(Train)
    }

    fn valid(&self) -> Self {
        self.clone().each(Validate)
    }

    fn materialize(self) -> Self {
        self.each(Materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (name, held) in self.layers().flat_map(Layer::held) {
            visitor.enter_module(&name, CONTAINER);
            match held {
                Held::Vector(param) => param.visit(visitor),
                Held::Matrix(param) => param.visit(visitor),
            }
            visitor.exit_module(&name, CONTAINER);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.change(|name, held| {
            mapper.enter_module(name, CONTAINER);
            match held {
                HeldMut::Vector(param) => *param = Module::map(param.clone(), mapper),
                HeldMut::Matrix(param) => *param = Module::map(param.clone(), mapper),
            }
            mapper.exit_module(name, CONTAINER);
        })
    }
}

/// So that a network can be a part of a module.
impl ModuleDisplayDefault for Network {
    fn content(&self, content: Content) -> Option<Content> {
        Some(content.set_top_level_type(CONTAINER))
    }
}

impl ModuleDisplay for Network {}

impl Clone for Network {
    fn clone(&self) -> Self {
        let stages = self.stages.iter().map(|stage| stage.boxed_clone()).collect();
        Self { stages, owner: self.owner, features: self.features, attention: self.attention }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sites().map(Site::name)).finish()
    }
}
