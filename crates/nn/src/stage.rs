//! Stages: a network cut into pieces that run one after another and can be loaded one at a time.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor};

use crate::attention::AttentionQuantizer;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::layer::{Layer, LayerMut};
use crate::site::{Site, SiteMeta};

/// What flows from stage to stage.
#[derive(Clone, Debug)]
pub enum Flow {
    /// Token ids, `[B, T]`.
    Tokens(Tensor<2, Int>),
    /// Hidden states or logits, `[B, T, C]`.
    Hidden(Tensor<3>),
    /// Images or feature maps, `[B, C, H, W]`.
    Image(Tensor<4>),
    /// One vector an item, `[B, C]`.
    Vector(Tensor<2>),
    /// What two parts of a network take or give: an encoder's and a decoder's, two towers', a text and the images beside it.
    Pair(Box<(Flow, Flow)>),
}

impl Flow {
    /// What this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "tokens",
            Self::Hidden(_) => "hidden states",
            Self::Image(_) => "images",
            Self::Vector(_) => "vectors",
            Self::Pair(_) => "a pair",
        }
    }

    /// Two flows as one.
    pub fn both(first: Flow, second: Flow) -> Self {
        Self::Pair(Box::new((first, second)))
    }

    /// The same where gradients are kept, on a device that keeps them: what comes of it has gradients by the weights that it meets.
    pub fn tracked(self, device: &Device) -> Self {
        match self {
            Self::Tokens(x) => Self::Tokens(Tensor::<2, Int>::from_data(x.into_data(), device)),
            Self::Hidden(x) => Self::Hidden(x.autodiff()),
            Self::Image(x) => Self::Image(x.autodiff()),
            Self::Vector(x) => Self::Vector(x.autodiff()),
            Self::Pair(both) => Self::both(both.0.tracked(device), both.1.tracked(device)),
        }
    }

    /// Two flows, or an error that names the stage that wanted them.
    pub fn pair(self, stage: &str) -> Result<(Flow, Flow)> {
        match self {
            Self::Pair(both) => Ok(*both),
            other => Err(wrong(stage, "a pair", &other)),
        }
    }

    /// Token ids, or an error that names the stage that wanted them.
    pub fn tokens(self, stage: &str) -> Result<Tensor<2, Int>> {
        match self {
            Self::Tokens(ids) => Ok(ids),
            other => Err(wrong(stage, "tokens", &other)),
        }
    }

    /// Hidden states, or an error that names the stage that wanted them.
    pub fn hidden(self, stage: &str) -> Result<Tensor<3>> {
        match self {
            Self::Hidden(x) => Ok(x),
            other => Err(wrong(stage, "hidden states", &other)),
        }
    }

    /// Feature maps, or an error that names the stage that wanted them.
    pub fn image(self, stage: &str) -> Result<Tensor<4>> {
        match self {
            Self::Image(x) => Ok(x),
            other => Err(wrong(stage, "images", &other)),
        }
    }

    /// Vectors, or an error that names the stage that wanted them.
    pub fn vector(self, stage: &str) -> Result<Tensor<2>> {
        match self {
            Self::Vector(x) => Ok(x),
            other => Err(wrong(stage, "vectors", &other)),
        }
    }
}

fn wrong(stage: &str, expected: &'static str, found: &Flow) -> Error {
    Error::Flow { stage: stage.into(), expected, found: found.kind() }
}

/// A piece of a network.
pub trait Stage: Send + Sync {
    /// Runs the stage.
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow>;

    /// Its layers; sites in the order in which data reaches them.
    fn layers(&self) -> Vec<Layer<'_>>;

    /// Its layers, to be changed, in the order of [`Stage::layers`].
    fn layers_mut(&mut self) -> Vec<LayerMut<'_>>;

    /// The same stage with the same tensors, which are shared until one of both is changed.
    fn boxed_clone(&self) -> Box<dyn Stage>;

    /// Its sites, in the order in which data reaches them.
    fn sites(&self) -> Vec<&Site> {
        self.layers().into_iter().filter_map(Layer::site).collect()
    }

    /// Its sites, to be changed.
    fn sites_mut(&mut self) -> Vec<&mut Site> {
        self.layers_mut().into_iter().filter_map(LayerMut::site).collect()
    }

    /// The site whose weight a later stage borrows, if any.
    fn owner(&self) -> Option<&Site> {
        None
    }

    /// Rounds the operands of its attention between its tokens from now on; `None` leaves them. Whether it has such an attention.
    fn set_attention(&mut self, _quantizer: Option<Arc<AttentionQuantizer>>) -> bool {
        false
    }

    /// What rounds the operands of its attention.
    fn attention(&self) -> Option<&Arc<AttentionQuantizer>> {
        None
    }
}

impl Stage for Box<dyn Stage> {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        (**self).forward(flow, ctx)
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        (**self).layers()
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        (**self).layers_mut()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        (**self).boxed_clone()
    }

    fn owner(&self) -> Option<&Site> {
        (**self).owner()
    }

    fn set_attention(&mut self, quantizer: Option<Arc<AttentionQuantizer>>) -> bool {
        (**self).set_attention(quantizer)
    }

    fn attention(&self) -> Option<&Arc<AttentionQuantizer>> {
        (**self).attention()
    }
}

/// One of two parts of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An encoder, or the tower of images.
    First,
    /// A decoder, or the tower of text.
    Second,
    /// The tower of a second input that may be absent: images beside a text. Without it the first input passes by.
    Beside,
}

/// A stage of one of two parts; what is the other's passes by.
pub struct OnPart<S>(pub Part, pub S);

impl<S: Stage> Stage for OnPart<S> {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        if self.0 == Part::Beside && !matches!(flow, Flow::Pair(_)) {
            return Ok(flow);
        }
        let name = self.sites().first().map_or_else(String::new, |site| site.name().to_string());
        let (first, second) = flow.pair(&name)?;
        if self.0 == Part::First {
            return Ok(Flow::both(self.1.forward(first, ctx)?, second));
        }
        // What stands beside a text is seen at once, at whatever position of the text: the cache is that of the text.
        let cache = if self.0 == Part::Beside { ctx.cache.take() } else { None };
        ctx.swap_inputs();
        let second = self.1.forward(second, ctx);
        ctx.swap_inputs();
        ctx.cache = cache.or(ctx.cache.take());
        Ok(Flow::both(first, second?))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        self.1.layers()
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        self.1.layers_mut()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(OnPart(self.0, self.1.boxed_clone()))
    }

    fn owner(&self) -> Option<&Site> {
        self.1.owner()
    }

    fn set_attention(&mut self, quantizer: Option<Arc<AttentionQuantizer>>) -> bool {
        self.1.set_attention(quantizer)
    }

    fn attention(&self) -> Option<&Arc<AttentionQuantizer>> {
        self.1.attention()
    }
}

/// What a stage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Turns the input into features: embeddings, the first convolution.
    Embed,
    /// One of the blocks that treatments work on by default.
    Block,
    /// Reads out: the language head, the classifier, the pooler.
    Head,
}

/// What a network does, which decides how its output is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Predicts the next token: a distribution for each token.
    Language,
    /// Embeds text: the mean of the last hidden states.
    Encoder,
    /// Classifies images: a distribution for each image.
    Images,
    /// Takes two inputs: an encoder's and a decoder's, or those of two towers.
    Pairs,
}

/// What is known of a stage before it is loaded.
#[derive(Clone, Debug)]
pub struct StageInfo {
    /// What it is for.
    pub role: Role,
    /// Name: the common prefix of its tensors.
    pub name: String,
    /// Its sites, in the order in which data reaches them.
    pub sites: Vec<SiteMeta>,
    /// Names of all its tensors in the checkpoint; a borrowed (tied) tensor belongs to its owner only.
    pub tensors: Vec<String>,
    /// Numbers in those tensors, dense.
    pub numel: usize,
    /// Whether it runs only where a second input is given ([`Part::Beside`]).
    pub optional: bool,
}

/// A network that can be loaded stage by stage.
pub trait StageSource: Sync {
    /// The stages, in order: first what embeds, last what reads out.
    fn stages(&self) -> &[StageInfo];

    /// Loads one stage.
    fn load(&self, index: usize) -> Result<Box<dyn Stage>>;

    /// The stage that owns a weight which a later stage borrows.
    fn owner(&self) -> Option<usize>;
}
