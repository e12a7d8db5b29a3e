//! The plan of a whole network: one transformer, two parts, or a vision tower, a projector and a decoder.

use serde_json::Value;
use trimtab_nn::{OnPart, Part, Role, Stage, StageInfo};

use super::plan::{Blueprint, has_module};
use super::projector::{Projector, ProjectorPlan};
use super::{Head, Input, Parts};
use crate::error::{Error, Result};
use crate::load::Loader;
use crate::spec::{self, ModelSpec};

/// Everything that is known of a network before its weights are read.
pub(crate) enum NetworkPlan {
    One(Box<Blueprint>),
    /// Encoder and decoder, or two towers.
    Pair(Box<[Blueprint; 2]>),
    /// A vision tower whose features a decoder reads in place of tokens.
    Multimodal(Box<Multimodal>),
}

/// A vision tower, cut off where its features are taken, and the decoder that reads them.
pub(crate) struct Multimodal {
    pub(super) tower: Blueprint,
    pub(super) projector: ProjectorPlan,
    pub(super) decoder: Blueprint,
}

/// A stage before it is loaded.
pub(crate) struct StagePlan {
    pub role: Role,
    pub name: String,
    pub parts: Parts,
    /// Whether it runs only where a second input is given.
    pub optional: bool,
    /// Blocks of the part of the network that it belongs to.
    pub depth: usize,
}

impl NetworkPlan {
    /// The plan of one model; `has` tells whether the checkpoint has a tensor, `model` is for messages.
    ///
    /// # Errors
    /// [`Error::Config`] if a field is missing or says what is not known, or if the parts do not fit together.
    pub fn new(spec: &ModelSpec, config: &Value, model: &str, has: impl Fn(&str) -> bool) -> Result<Self> {
        let mut parts = spec.parts(config, model)?;
        let second = if parts.len() > 1 { parts.pop() } else { None };
        let fail = |message: String| Error::Config { model: model.into(), message };
        let Some(first) = parts.pop() else { return Err(fail(format!("{} has no parts", spec.name))) };
        let blueprint = |part: &spec::Part| -> Result<Blueprint> {
            let (options, names) = part.spec.configure(&part.config, model)?;
            let tied = options.head == Head::Tied;
            let untied = if tied { part.spec.untied(&part.config, &options, model)? } else { None };
            let section = part.section.clone();
            Ok(Blueprint { untied, section, ..Blueprint::new(options, names, &part.roots, &has) })
        };
        let Some(second) = second else { return Ok(Self::One(Box::new(blueprint(&first)?))) };
        let depth = first.spec.configure(&first.config, model)?.0.blocks.len();
        let Some(options) = spec.projector(config, model, depth)? else {
            let both = [blueprint(&first)?, blueprint(&second)?];
            return Self::pair(both, &has).map_err(fail);
        };
        // A tower without what stands behind its features.
        let (mut tower, mut names) = first.spec.configure(&first.config, model)?;
        tower.blocks.truncate(options.blocks);
        tower.head = Head::None;
        names.final_norm = None;
        let Input::Patches { image, patch, .. } = tower.input else {
            return Err(fail(format!(
                "the vision tower is of family {}, which takes no images",
                first.spec.name
            )));
        };
        let rows = (image / patch).pow(2) + names.tokens.len();
        if rows <= usize::from(options.drop_first) {
            return Err(fail(format!("images of {image} pixels in patches of {patch} leave no feature")));
        }
        let mut tower = Blueprint::new(tower, names, &first.roots, &has);
        (tower.scope, tower.section) = ("vision.", first.section.clone());

        let (mut decoder, names) = second.spec.configure(&second.config, model)?;
        let family = &second.spec.name;
        let language = matches!(decoder.head, Head::Language | Head::Tied) && names.cross.is_none();
        let vocab = decoder.vocab().filter(|_| language);
        let vocab =
            vocab.ok_or_else(|| fail(format!("{family} is no decoder of text, which reads features")))?;
        if options.token >= vocab {
            let token = options.token;
            return Err(fail(format!("the image token {token} lies outside of the vocabulary of {vocab}")));
        }
        if decoder.embed_scale.is_some() {
            return Err(fail(format!(
                "{family} scales its embedding; whether it scales features beside it is not known"
            )));
        }
        decoder.placeholder = Some(options.token);
        let tied = decoder.head == Head::Tied;
        let untied = if tied { second.spec.untied(&second.config, &decoder, model)? } else { None };
        let section = second.section.clone();
        let decoder = Blueprint { untied, section, ..Blueprint::new(decoder, names, &second.roots, &has) };
        let projector = ProjectorPlan::new(&options, tower.residual(), decoder.embedded(), &has);
        Ok(Self::Multimodal(Box::new(Multimodal { tower, projector, decoder })))
    }

    /// An encoder and the decoder that looks at what it gives, or two towers.
    fn pair([mut first, mut second]: [Blueprint; 2], has: &impl Fn(&str) -> bool) -> Result<Self, String> {
        if second.names.cross.is_some() && second.config.width != first.config.width {
            let (a, b) = (first.config.width, second.config.width);
            return Err(format!("a decoder of width {b} cannot read an encoder of width {a}"));
        }
        first.lends = second.config.borrows_embedding;
        if second.names.cross.is_none() {
            (first.scope, second.scope) = ("first.", "second.");
        }
        // A checkpoint of the encoder alone.
        if !has_module(has, &second.attention(0).o.meta.name) {
            return Ok(Self::One(Box::new(first)));
        }
        Ok(Self::Pair(Box::new([first, second])))
    }

    /// The transformers that it is made of.
    pub fn blueprints(&self) -> Vec<&Blueprint> {
        match self {
            Self::One(plan) => vec![plan],
            Self::Pair(parts) => parts.iter().collect(),
            Self::Multimodal(parts) => vec![&parts.tower, &parts.decoder],
        }
    }

    /// Whether text goes in at an encoder and comes out of a decoder.
    pub fn is_text_to_text(&self) -> bool {
        let Self::Pair(parts) = self else { return false };
        let [first, second] = &**parts;
        let speaks = matches!(second.config.head, Head::Language | Head::Tied);
        first.config.vocab().is_some() && second.names.cross.is_some() && speaks
    }

    /// Every stage, in order.
    pub fn stage_plans(&self) -> Vec<StagePlan> {
        let of = |plan: &Blueprint, optional: bool| {
            let depth = plan.config.blocks.len();
            let stage = move |(role, name, parts)| StagePlan { role, name, parts, optional, depth };
            plan.parts().into_iter().map(stage).collect::<Vec<_>>()
        };
        match self {
            Self::One(plan) => of(plan, false),
            Self::Pair(parts) => parts.iter().flat_map(|plan| of(plan, false)).collect(),
            Self::Multimodal(parts) => {
                let mut stages = of(&parts.tower, true);
                stages.push(StagePlan {
                    role: Role::Block,
                    name: parts.projector.name.clone(),
                    parts: parts.projector.parts(),
                    optional: true,
                    depth: 1,
                });
                stages.extend(of(&parts.decoder, false));
                stages
            }
        }
    }

    /// What is known of every stage before it is loaded.
    pub fn stages(&self) -> Vec<StageInfo> {
        let info = |stage: StagePlan| StageInfo {
            optional: stage.optional,
            ..stage.parts.info(stage.role, stage.name)
        };
        self.stage_plans().into_iter().map(info).collect()
    }

    /// The stage whose embedding a head, or another part, borrows.
    pub fn owner(&self) -> Option<usize> {
        match self {
            Self::One(plan) => (plan.config.head == Head::Tied).then_some(0),
            Self::Pair(parts) if parts[0].lends => Some(0),
            Self::Pair(parts) => (parts[1].config.head == Head::Tied).then(|| parts[0].len()),
            Self::Multimodal(parts) => {
                (parts.decoder.config.head == Head::Tied).then(|| parts.tower.len() + 1)
            }
        }
    }

    /// Loads one stage.
    pub fn load(&self, index: usize, loader: &Loader<'_>) -> Result<Box<dyn Stage>> {
        let on = |part, stage| -> Box<dyn Stage> { Box::new(OnPart(part, stage)) };
        match self {
            Self::One(plan) => plan.load(index, loader),
            Self::Pair(parts) => {
                let [first, second] = &**parts;
                let Some(index) = index.checked_sub(first.len()) else {
                    return Ok(on(Part::First, first.load(index, loader)?));
                };
                let stage = second.load(index, loader)?;
                // A block that looks across takes both.
                let across =
                    second.names.cross.is_some() && (1..=second.config.blocks.len()).contains(&index);
                Ok(if across { stage } else { on(Part::Second, stage) })
            }
            Self::Multimodal(parts) => {
                let Multimodal { tower, projector, decoder } = &**parts;
                match index.checked_sub(tower.len()) {
                    None => Ok(on(Part::Beside, tower.load(index, loader)?)),
                    Some(0) => Ok(on(Part::Beside, Box::new(Projector::load(projector, loader)?))),
                    Some(index) => decoder.load(index - 1, loader),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sparse_table_has_the_defaults_of_its_family() {
        // As the tables of LLaVA 1.5 are written: only what differs from the defaults of the reference.
        let config = json!({
            "model_type": "llava",
            "text_config": {"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-5},
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
                "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14,
            },
        });
        let spec = ModelSpec::built_in("llava").unwrap().unwrap();
        let plan = NetworkPlan::new(&spec, &config, "m", |_| true).unwrap();
        let tensors: Vec<_> = plan.stage_plans().iter().flat_map(|stage| stage.parts.tensors()).collect();
        let shape = |name: &str| {
            let tensor = tensors.iter().find(|tensor| tensor.name == name);
            tensor.map(|tensor| tensor.shape.as_slice())
        };
        assert_eq!(shape("language_model.model.layers.31.mlp.up_proj.weight"), Some(&[11008, 4096][..]));
        assert_eq!(shape("language_model.lm_head.weight"), Some(&[32064, 4096][..]));
        assert_eq!(shape("multi_modal_projector.linear_1.weight"), Some(&[4096, 1024][..]));
        assert_eq!(
            shape("vision_tower.vision_model.encoder.layers.22.mlp.fc1.weight"),
            Some(&[4096, 1024][..])
        );
        assert_eq!(shape("vision_tower.vision_model.encoder.layers.23.mlp.fc1.weight"), None);
    }
}
