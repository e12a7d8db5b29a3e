//! A checkpoint and its architecture: what every verb opens.

use std::path::Path;

use burn::tensor::Device;
use trimtab_io::{Checkpoint, Quantization, Tokenizer};
use trimtab_nn::{Network, Role, SiteMeta, Stage, StageInfo, StageSource, Task};

use crate::error::{Error, Result};
use crate::load::Loader;
use crate::resnet::{Normalization, ResNetPlan};
use crate::spec::ModelSpec;
use crate::transformer::{Block, Blueprint, Embed, Head, ReadOut, Transformer};

/// A model that is not yet loaded: its checkpoint, its architecture, its stages.
pub struct Model {
    checkpoint: Checkpoint,
    quantization: Option<Quantization>,
    architecture: Architecture,
    stages: Vec<StageInfo>,
    device: Device,
}

enum Architecture {
    Transformer(Box<Blueprint>),
    ResNet(ResNetPlan),
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
    pub fn from_checkpoint(checkpoint: Checkpoint, spec: Option<ModelSpec>, device: Device) -> Result<Self> {
        let quantization = match checkpoint.config() {
            Some(config) => Quantization::of(config)?,
            None => None,
        };
        let architecture = recognize(&checkpoint, spec)?;
        let stages = match &architecture {
            Architecture::Transformer(blueprint) => blueprint.stages(),
            Architecture::ResNet(plan) => plan.stages(),
        };
        Ok(Self { checkpoint, quantization, architecture, stages, device })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// How the checkpoint is quantized, if it is.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// What the model does.
    pub fn task(&self) -> Task {
        match &self.architecture {
            Architecture::Transformer(plan) if plan.config.head == Head::Pooler => Task::Encoder,
            Architecture::Transformer(_) => Task::Language,
            Architecture::ResNet(_) => Task::Images,
        }
    }

    /// Rows of the embedding, for a model of text.
    pub fn vocab(&self) -> Option<usize> {
        match &self.architecture {
            Architecture::Transformer(plan) => Some(plan.config.vocab),
            Architecture::ResNet(_) => None,
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

    /// How images are normalized, for a model of images.
    pub fn normalization(&self) -> Result<Normalization> {
        Normalization::of(&self.checkpoint)
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
        Ok(Network::load(self)?)
    }

    /// Loads a transformer as one trainable module on `device`.
    pub fn trainable(&self, device: &Device) -> Result<Transformer> {
        match &self.architecture {
            Architecture::Transformer(plan) => Transformer::load(
                plan,
                &Loader::new(&self.checkpoint, self.quantization.as_ref(), device, true),
            ),
            Architecture::ResNet(_) => Err(Error::Config {
                model: self.checkpoint.path().display().to_string(),
                message: "only transformers are trained as one module".into(),
            }),
        }
    }
}

fn read_spec(path: &Path) -> Result<ModelSpec> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::Spec { path: name.clone(), message: format!("cannot be read: {e}") })?;
    ModelSpec::parse(&text, &name)
}

fn recognize(checkpoint: &Checkpoint, spec: Option<ModelSpec>) -> Result<Architecture> {
    let model = checkpoint.path().display().to_string();
    let unknown = |found: String| Error::UnknownArchitecture {
        model: model.clone(),
        found,
        known: format!("{}, resnet (CIFAR)", ModelSpec::known().join(", ")),
    };
    let model_type = checkpoint.config().and_then(|config| config.get("model_type")?.as_str());
    let (Some(config), Some(model_type)) =
        (checkpoint.config(), model_type.or(spec.as_ref().map(|s| s.name.as_str())))
    else {
        let plan = ResNetPlan::recognize(checkpoint);
        return plan
            .map(Architecture::ResNet)
            .ok_or_else(|| unknown("no model_type and no known tensor names".into()));
    };
    let spec = match spec {
        Some(spec) => spec,
        None => {
            ModelSpec::built_in(model_type)?.ok_or_else(|| unknown(format!("model_type \"{model_type}\"")))?
        }
    };
    let options = spec.configure(config, &model)?;
    let blueprint = Blueprint::new(options, spec.names, |name| checkpoint.contains(name));
    Ok(Architecture::Transformer(Box::new(blueprint)))
}

impl StageSource for Model {
    fn stages(&self) -> &[StageInfo] {
        &self.stages
    }

    fn load(&self, index: usize) -> trimtab_nn::Result<Box<dyn Stage>> {
        let loader = Loader::new(&self.checkpoint, self.quantization.as_ref(), &self.device, false);
        let plan = match &self.architecture {
            Architecture::ResNet(plan) => return Ok(plan.load(index, &loader)?),
            Architecture::Transformer(plan) => plan,
        };
        Ok(match self.stages[index].role {
            Role::Embed => Box::new(Embed::load(plan, &loader)?),
            Role::Block => Box::new(Block::load(plan, index - 1, &loader)?),
            Role::Head => Box::new(ReadOut::load(plan, &loader)?),
        })
    }

    fn owner(&self) -> Option<usize> {
        match &self.architecture {
            Architecture::Transformer(plan) if plan.config.head == Head::Tied => Some(0),
            _ => None,
        }
    }
}
