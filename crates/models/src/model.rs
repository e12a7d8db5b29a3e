//! A checkpoint and its architecture: what every verb opens.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::Device;
use trimtab_io::{AttentionConfig, BranchFactors, Checkpoint, Quantization, Tokenizer};
use trimtab_math::random;
use trimtab_nn::{
    BinaryAttention, Flow, Network, Role, SiteMeta, Stage, StageInfo, StageSource, Task, Wiring,
};

use crate::conv::{ConvPlan, ConvSpec, Normalization};
use crate::error::{Error, Result};
use crate::load::Loader;
use crate::probe;
use crate::spec::ModelSpec;
use crate::transformer::{Blueprint, Head, NetworkPlan};

/// A model that is not yet loaded: its checkpoint, its architecture, its stages.
pub struct Model {
    checkpoint: Checkpoint,
    quantization: Option<Quantization>,
    family: String,
    architecture: Architecture,
    stages: Vec<StageInfo>,
    device: Device,
}

enum Architecture {
    Transformer(NetworkPlan),
    Conv(Box<ConvPlan>),
}

/// A family that is described by a file.
#[derive(Clone, Debug)]
pub enum Spec {
    /// A transformer, or a network of several parts.
    Transformer(Box<ModelSpec>),
    /// A convolutional network.
    Conv(Box<ConvSpec>),
}

impl Spec {
    /// Parses a specification of either kind; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Spec`]: what is wrong with the text and where.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        Ok(match ConvSpec::is_meant_by(text) {
            true => Self::Conv(Box::new(ConvSpec::parse(text, path)?)),
            false => Self::Transformer(Box::new(ModelSpec::parse(text, path)?)),
        })
    }
}

impl Model {
    /// Opens a directory, a file, or `@pico`. `spec` overrides the built-in specifications.
    pub fn open(path: &str, spec: Option<&Path>) -> Result<Self> {
        let checkpoint = match path {
            "@pico" => crate::pico::checkpoint()?,
            path => Checkpoint::open(Path::new(path))?,
        };
        let spec = spec.map(read_spec).transpose()?;
        Self::from_checkpoint(checkpoint, spec, Device::flex())
    }

    /// Recognizes the architecture of a checkpoint.
    pub fn from_checkpoint(checkpoint: Checkpoint, spec: Option<Spec>, device: Device) -> Result<Self> {
        let quantization = match checkpoint.config() {
            Some(config) => Quantization::of(config)?,
            None => None,
        };
        let (family, architecture) = recognize(&checkpoint, spec)?;
        let stages = match &architecture {
            Architecture::Transformer(plan) => plan.stages(),
            Architecture::Conv(plan) => plan.stages(),
        };
        Ok(Self { checkpoint, quantization, family, architecture, stages, device })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// How the checkpoint is quantized, if it is.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// Name of the family: that of its specification.
    pub fn family(&self) -> &str {
        &self.family
    }

    /// What the model does.
    pub fn task(&self) -> Task {
        match &self.architecture {
            Architecture::Transformer(NetworkPlan::One(plan)) => match plan.config.head {
                Head::Language | Head::Tied => Task::Language,
                Head::Pooler | Head::Pooled(_) | Head::Attended | Head::None => Task::Encoder,
            },
            Architecture::Transformer(NetworkPlan::Pair(_)) => Task::Pairs,
            Architecture::Transformer(NetworkPlan::Multimodal(_)) => Task::Language,
            Architecture::Conv(_) => Task::Images,
        }
    }

    /// The first stage of the decoder, if text goes in at an encoder and comes out of a decoder.
    pub fn decoder_stage(&self) -> Option<usize> {
        match &self.architecture {
            Architecture::Transformer(plan) if plan.is_text_to_text() => {
                self.stages.iter().rposition(|stage| stage.role == Role::Embed)
            }
            _ => None,
        }
    }

    /// Tensors of the checkpoint that no stage has a use for, buffers that follow from `config.json` aside.
    pub fn unclaimed(&self) -> Vec<&str> {
        let claimed: BTreeSet<&str> =
            self.stages.iter().flat_map(|stage| &stage.tensors).map(String::as_str).collect();
        let sites: BTreeSet<&str> =
            self.stages.iter().flat_map(|stage| &stage.sites).map(|site| site.name.as_str()).collect();
        let blocks = self.quantization.as_ref().and_then(Quantization::attention).map(|c| &c.blocks);
        let attention: BTreeSet<String> =
            blocks.into_iter().flatten().flat_map(|block| AttentionConfig::modules(block)).collect();
        // A packed site has its codes, scales and zero points in tensors of their own.
        let packed = |name: &str| {
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            self.quantization.is_some() && (sites.contains(module) || attention.contains(module))
        };
        let branches: BTreeSet<String> = sites.iter().flat_map(|site| BranchFactors::names(site)).collect();
        let plans = self.blueprints();
        let ignored = |name: &str| {
            let mut ends = plans.iter().flat_map(|plan| &plan.names.ignore);
            ends.any(|end| name == end || name.ends_with(&format!(".{end}")))
        };
        let free = |name: &&str| {
            !claimed.contains(name) && !packed(name) && !branches.contains(*name) && !ignored(name)
        };
        self.checkpoint.names().filter(free).collect()
    }

    /// Rows of the embedding, for a model of text.
    pub fn vocab(&self) -> Option<usize> {
        self.blueprints().into_iter().find_map(|plan| plan.config.vocab())
    }

    /// The transformers that the model is made of.
    fn blueprints(&self) -> Vec<&Blueprint> {
        match &self.architecture {
            Architecture::Transformer(plan) => plan.blueprints(),
            Architecture::Conv(_) => Vec::new(),
        }
    }

    /// Whether the head borrows the embedding.
    pub fn tied(&self) -> bool {
        self.owner().is_some()
    }

    /// The tokenizer beside the weights.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(Tokenizer::of(&self.checkpoint)?)
    }

    /// How its linear maps hang together: what rewrites ask.
    pub fn wiring(&self) -> Wiring {
        match &self.architecture {
            Architecture::Transformer(plan) => plan.wiring(),
            Architecture::Conv(plan) => plan.wiring(),
        }
    }

    /// A random input of the kind that it takes, to compare two models of one family on; `None` where its tensors do not tell.
    pub fn probe(&self, seed: u64) -> Option<Flow> {
        let mut random = random::Stream::new(seed, "models/probe", 0, 0);
        match &self.architecture {
            Architecture::Transformer(plan) => probe::of_transformer(plan, &mut random, &self.device),
            Architecture::Conv(plan) => probe::of_conv(plan, &mut random, &self.device),
        }
    }

    /// How images are normalized, for a model of images.
    pub fn normalization(&self) -> Result<Normalization> {
        let family = match &self.architecture {
            Architecture::Conv(plan) => plan.normalization(),
            Architecture::Transformer(_) => None,
        };
        Normalization::of(&self.checkpoint, family)
    }

    /// Side of the images that the model takes: `image.size` of the file's metadata, else what `preprocessor_config.json` crops
    /// to, else `image_size` of `config.json` or `input_size` of its `pretrained_cfg` (timm), else that of the family.
    pub fn image_side(&self) -> Option<usize> {
        let number = |value: &serde_json::Value| value.as_u64().map(|n| n as usize).filter(|&n| n > 0);
        let stated = self.checkpoint.metadata().get("image.size").and_then(|text| text.trim().parse().ok());
        let beside = || {
            let bytes = self.checkpoint.side_file("preprocessor_config.json").ok().flatten()?;
            let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            let of = |name: &str| number(&value[name]["height"]).or_else(|| number(&value[name]));
            of("crop_size").or_else(|| of("size")).or_else(|| number(&value["size"]["shortest_edge"]))
        };
        let config = || {
            let config = self.checkpoint.config()?;
            number(&config["image_size"]).or_else(|| number(&config["pretrained_cfg"]["input_size"][1]))
        };
        let family = || match &self.architecture {
            Architecture::Conv(plan) => plan.pixels(),
            Architecture::Transformer(_) => None,
        };
        stated.or_else(beside).or_else(config).or_else(family)
    }

    /// Sites of the stages with this role.
    pub fn sites(&self, role: Role) -> impl Iterator<Item = &SiteMeta> {
        self.stages.iter().filter(move |stage| stage.role == role).flat_map(|stage| &stage.sites)
    }

    /// Where computation happens.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same model on another device.
    pub fn on(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Loads everything.
    pub fn network(&self) -> Result<Network> {
        let mut network = Network::load(self)?;
        network.set_attention(self.binary_attention());
        Ok(network)
    }

    /// Attention of one bit, where the model was trained for it. Stages that run one by one do not know of it.
    pub fn binary_attention(&self) -> Option<BinaryAttention> {
        match &self.quantization {
            Some(Quantization::Trimtab(config)) => config.binary_attention().map(BinaryAttention::of_share),
            _ => None,
        }
    }

    /// Loads everything as parameters of the framework on `device`: what the training loop takes.
    pub fn trainable(&self, device: &Device) -> Result<Network> {
        let loader = Loader::new(&self.checkpoint, self.quantization.as_ref(), device, true);
        Ok(Network::load_with(self, |index| Ok(self.stage(index, &loader)?))?)
    }

    fn stage(&self, index: usize, loader: &Loader<'_>) -> Result<Box<dyn Stage>> {
        match &self.architecture {
            Architecture::Conv(plan) => plan.load(index, loader),
            Architecture::Transformer(plan) => plan.load(index, loader),
        }
    }
}

fn read_spec(path: &Path) -> Result<Spec> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::Spec { path: name.clone(), message: format!("cannot be read: {e}") })?;
    Spec::parse(&text, &name)
}

/// The name of a checkpoint's family, and its architecture.
fn recognize(checkpoint: &Checkpoint, spec: Option<Spec>) -> Result<(String, Architecture)> {
    let model = checkpoint.path().display().to_string();
    let unknown = |found: String| Error::UnknownArchitecture {
        model: model.clone(),
        found,
        known: [ModelSpec::known(), ConvSpec::known()].concat().join(", "),
    };
    let conv = |spec: ConvSpec| {
        let family = spec.name.clone();
        match ConvPlan::new(spec, checkpoint) {
            Ok(plan) => Ok((family, Architecture::Conv(Box::new(plan)))),
            Err(message) => Err(Error::Family { model: model.clone(), family, message }),
        }
    };
    let spec = match spec {
        Some(Spec::Conv(spec)) => return conv(*spec),
        Some(Spec::Transformer(spec)) => Some(*spec),
        None => None,
    };
    let model_type = checkpoint.config().and_then(|config| config.get("model_type")?.as_str());
    let (Some(config), Some(model_type)) =
        (checkpoint.config(), model_type.or(spec.as_ref().map(|s| s.name.as_str())))
    else {
        let plan = ConvPlan::recognize(checkpoint)?;
        return plan.map(|plan| (plan.family().to_string(), Architecture::Conv(Box::new(plan)))).ok_or_else(
            || {
                let architecture =
                    checkpoint.config().and_then(|config| config.get("architecture")?.as_str());
                unknown(match architecture {
                    Some(name) => format!("architecture \"{name}\""),
                    None => "no model_type and no known tensor names".into(),
                })
            },
        );
    };
    let spec = match spec {
        Some(spec) => spec,
        None => {
            let meant = |spec: &ConvSpec| spec.model_types.iter().any(|known| known == model_type);
            if let Some(spec) = ConvSpec::built_in()?.into_iter().find(meant) {
                return conv(spec);
            }
            ModelSpec::built_in(model_type)?.ok_or_else(|| unknown(format!("model_type \"{model_type}\"")))?
        }
    };
    let plan = NetworkPlan::new(&spec, config, &model, |name| checkpoint.contains(name))?;
    Ok((spec.name, Architecture::Transformer(plan)))
}

impl StageSource for Model {
    fn stages(&self) -> &[StageInfo] {
        &self.stages
    }

    fn load(&self, index: usize) -> trimtab_nn::Result<Box<dyn Stage>> {
        let loader = Loader::new(&self.checkpoint, self.quantization.as_ref(), &self.device, false);
        Ok(self.stage(index, &loader)?)
    }

    fn owner(&self) -> Option<usize> {
        match &self.architecture {
            Architecture::Transformer(plan) => plan.owner(),
            Architecture::Conv(_) => None,
        }
    }
}
