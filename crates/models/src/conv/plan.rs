//! A convolutional network before its numbers are read: its stages, from a specification and the shapes of the tensors.

use std::collections::{BTreeMap, BTreeSet};

use trimtab_io::Checkpoint;
use trimtab_nn::{Activation, Axis, Role, Stage, StageInfo, Wiring};

use super::block::Block;
use super::build::{Builder, Spot};
use super::name::{Place, fill, has};
use super::normalization::Normalization;
use super::op::Op;
use super::shapes::{Shapes, WeightShape, full_name};
use super::spec::{ConvSpec, LayerSpec, ShortcutSpec, StageSpec, UnitSpec};
use crate::load::Loader;

/// Stages of a network at most.
const STAGES: usize = 256;

/// What is known of a network before its weights are read.
#[derive(Clone, Debug)]
pub(crate) struct ConvPlan {
    spec: ConvSpec,
    pieces: Vec<Piece>,
}

/// One stage.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub role: Role,
    pub name: String,
    pub main: Vec<Op>,
    pub shortcut: Shortcut,
    /// After the sum with the shortcut.
    pub after: Option<Activation>,
    /// Layers without tensors that follow.
    pub then: Vec<Op>,
}

/// What is added to what the layers of a stage give.
#[derive(Clone, Debug)]
pub(super) enum Shortcut {
    None,
    Identity,
    /// Every `stride`-th pixel, with channels of zeros up to `rows`.
    Pad {
        stride: usize,
        rows: usize,
    },
    Layers(Vec<Op>),
}

impl Piece {
    /// Layers with tensors that run one after another, path by path.
    fn paths(&self) -> [&[Op]; 2] {
        match &self.shortcut {
            Shortcut::Layers(ops) => [&self.main, ops],
            _ => [&self.main, &[]],
        }
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.paths().into_iter().flatten()
    }

    fn info(&self) -> StageInfo {
        let tensors: Vec<(String, usize)> = self.ops().flat_map(Op::tensors).collect();
        StageInfo {
            role: self.role,
            name: self.name.clone(),
            sites: self.ops().flat_map(Op::sites).map(|(site, _)| site.clone()).collect(),
            numel: tensors.iter().map(|(_, n)| n).sum(),
            tensors: tensors.into_iter().map(|(name, _)| name).collect(),
            optional: false,
        }
    }
}

impl ConvPlan {
    /// Lays the specification over a checkpoint.
    ///
    /// # Errors
    ///
    /// Where the two part.
    pub fn new(spec: ConvSpec, checkpoint: &Checkpoint) -> Result<Self, String> {
        let shapes = Shapes::new(checkpoint);
        let config = checkpoint.config();
        for (field, value) in &spec.requires {
            if let Some(found) = config.and_then(|config| config.get(field)).filter(|found| *found != value) {
                return Err(format!("\"{field}\" in config.json is {found}; only {value} is described"));
            }
        }
        if let Some(tensor) = spec.lacks.iter().find(|name| checkpoint.contains(name)) {
            return Err(format!("it has \"{tensor}\", which no network of this family has"));
        }
        let image = Axis::new("image", image_channels(&spec, &shapes, checkpoint)?);
        let mut builder = Builder::new(&spec, &shapes, config, image);
        let root = Spot { block: "", place: Place::default(), stride: 1 };
        let mut pieces = Vec::new();
        let stem = builder.run(&spec.stem.layers, root)?;
        pieces.extend(plain(Role::Embed, "", stem));
        for stage in &spec.stages {
            add_stage(&mut builder, stage, &mut pieces)?;
        }
        if let Some(first) = pieces.first_mut() {
            first.role = Role::Embed;
        }
        let head = builder.run(&spec.head.layers, root)?;
        let vector = builder.vector;
        pieces.extend(plain(Role::Head, "", head));
        if !vector || pieces.last().is_none_or(|piece| piece.role != Role::Head) {
            return Err("the head gives no vector for an image".into());
        }
        let plan = Self { pieces, spec: spec.clone() };
        plan.claim(checkpoint)?;
        Ok(plan)
    }

    /// The first of the built-in specifications that answers to the `architecture` in `config.json`, where there is one,
    /// and fits the tensors.
    pub fn recognize(checkpoint: &Checkpoint) -> crate::Result<Option<Self>> {
        let config = checkpoint.config();
        let architecture = config.and_then(|config| config.get("architecture")?.as_str());
        let answers = |spec: &ConvSpec| match architecture {
            Some(name) => spec.architectures.iter().any(|known| known == name),
            None => spec.by_tensors && (spec.model_types.is_empty() || config.is_none()),
        };
        let specs = ConvSpec::built_in()?.into_iter().filter(answers);
        Ok(specs.filter_map(|spec| Self::new(spec, checkpoint).ok()).next())
    }

    /// Every tensor belongs to exactly one stage.
    fn claim(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        for piece in &self.pieces {
            for (tensor, _) in piece.ops().flat_map(Op::tensors) {
                if let Some(other) = owners.insert(tensor.clone(), &piece.name) {
                    return Err(format!("\"{tensor}\" belongs to \"{other}\" and to \"{}\"", piece.name));
                }
            }
        }
        let there =
            |name: &&String| checkpoint.contains(name) || checkpoint.contains(&format!("{name}_packed"));
        if let Some(missing) = owners.keys().find(|name| !there(name)) {
            return Err(format!("no tensor \"{missing}\""));
        }
        let dense = |name: &str| {
            // Steps of its input belong to a map as its codes do.
            let inputs = [".input_scale", ".input_zero_point"];
            if let Some(module) = inputs.iter().find_map(|suffix| name.strip_suffix(suffix)) {
                return format!("{module}.weight");
            }
            let suffixes = ["_packed", "_scale", "_shape", "_zero_point", "_g_idx"];
            let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
            stem.filter(|stem| stem.ends_with(".weight")).unwrap_or(name).to_string()
        };
        let strangers: BTreeSet<String> =
            checkpoint.names().map(dense).filter(|name| !owners.contains_key(name)).collect();
        match strangers.first() {
            None => Ok(()),
            Some(first) => {
                Err(format!("{} tensors have no place in it, among them \"{first}\"", strangers.len()))
            }
        }
    }

    /// Name of the family.
    pub fn family(&self) -> &str {
        &self.spec.name
    }

    /// How images are normalized where the checkpoint does not say it.
    pub fn normalization(&self) -> Option<&Normalization> {
        self.spec.normalize.as_ref()
    }

    /// Side of the images that the family is made for, where it is known.
    pub fn pixels(&self) -> Option<usize> {
        self.spec.pixels
    }

    /// All stages.
    pub fn stages(&self) -> Vec<StageInfo> {
        self.pieces.iter().map(Piece::info).collect()
    }

    /// How the layers hang together.
    pub fn wiring(&self) -> Wiring {
        let mut wiring = Wiring::default();
        self.pieces.iter().flat_map(Piece::paths).for_each(|ops| super::wiring::wire(&mut wiring, ops));
        wiring
    }

    pub fn load(&self, index: usize, loader: &Loader<'_>) -> crate::Result<Box<dyn Stage>> {
        Ok(Box::new(Block::load(&self.pieces[index], loader)?))
    }
}

/// Channels of the images: what the first convolution takes; without one, as many as are normalized.
fn image_channels(spec: &ConvSpec, shapes: &Shapes<'_>, checkpoint: &Checkpoint) -> Result<usize, String> {
    let place = Place::default();
    let conv = |layers: &[LayerSpec], block: &str| {
        layers.iter().find_map(|layer| layer.conv.as_ref()).and_then(|name| full_name(block, name, place))
    };
    let first_block = || {
        let stage = spec.stages.first()?;
        conv(&spec.units.get(stage.units.first()?)?.layers, &fill(&stage.block, place)?)
    };
    let Some(name) = conv(&spec.stem.layers, "").or_else(first_block) else {
        let colours = Normalization::of(checkpoint, spec.normalize.as_ref()).map_err(|e| e.to_string())?;
        return Ok(colours.mean.len());
    };
    match shapes.weight(&name) {
        Some(WeightShape::Dense(shape)) if shape.len() == 4 => Ok(shape[1]),
        // A packed stem does not tell its kernel: colours are three.
        Some(WeightShape::Packed(_)) => Ok(3),
        Some(WeightShape::Dense(shape)) => {
            Err(format!("\"{name}.weight\" has shape {shape:?}, expected that of a convolution"))
        }
        None => Err(format!("no tensor \"{name}.weight\"")),
    }
}

fn plain(role: Role, name: &str, main: Vec<Op>) -> Option<Piece> {
    let piece =
        Piece { role, name: name.into(), main, shortcut: Shortcut::None, after: None, then: Vec::new() };
    (!piece.main.is_empty()).then(|| named(piece))
}

/// A piece without a name gets that of the module that holds all its tensors, else that of its first site.
fn named(mut piece: Piece) -> Piece {
    if piece.name.is_empty() {
        let tensors: Vec<String> = piece.ops().flat_map(Op::tensors).map(|(name, _)| name).collect();
        let first = tensors.first().map_or("", String::as_str);
        let parts = first.split('.').collect::<Vec<_>>();
        let holds = |n: &usize| {
            let prefix = format!("{}.", parts[..*n].join("."));
            tensors.iter().all(|tensor| tensor.starts_with(&prefix))
        };
        let common = (1..parts.len()).rev().find(holds).map(|n| parts[..n].join("."));
        let site = || piece.ops().flat_map(Op::sites).next().map(|(site, _)| site.name.clone());
        piece.name = common.or_else(site).unwrap_or_default();
    }
    piece
}

fn add_stage(builder: &mut Builder<'_>, stage: &StageSpec, pieces: &mut Vec<Piece>) -> Result<(), String> {
    let (spec, shapes) = (builder.spec, builder.shapes);
    let unit_at = |place: Place| -> Option<(String, &UnitSpec)> {
        let block = fill(&stage.block, place)?;
        let units = stage.units.iter().filter_map(|name| spec.units.get(name));
        let unit = units.into_iter().find(|unit| shapes.is_unit(unit, &block, place))?;
        Some((block, unit))
    };
    if !has(&stage.block, 'i') {
        let (block, unit) = unit_at(Place::default()).ok_or_else(|| missing(stage))?;
        let spot = Spot {
            block: &block,
            place: Place::default(),
            stride: stage.strides.first().copied().unwrap_or(1),
        };
        pieces.push(piece(builder, unit, spot)?);
        return Ok(());
    }
    let by_stage = has(&stage.block, 's');
    let mut seen = 0;
    for s in 0..if by_stage { STAGES } else { 1 } {
        let place = |block: usize| Place { stage: s, block };
        let blocks: Vec<usize> = shapes.indices().filter(|&i| unit_at(place(i)).is_some()).collect();
        if blocks.is_empty() {
            // Stages are numbered from 0 or 1 on, without a gap.
            if seen > 0 || s > 1 { break } else { continue }
        }
        if !stage.enter.is_empty() && shapes.all_fit(&stage.enter, "", place(0)) {
            let spot = Spot { block: "", place: place(0), stride: 1 };
            let ops = builder.run(&stage.enter, spot)?;
            pieces.extend(plain(Role::Block, "", ops));
        }
        let strides = &stage.strides;
        match by_stage {
            true if !strides.is_empty() && seen >= strides.len() => {
                return Err(format!("\"{}\": more stages than the {} strides", stage.block, strides.len()));
            }
            false if !strides.is_empty() && blocks.len() != strides.len() => {
                let (found, expected) = (blocks.len(), strides.len());
                return Err(format!("\"{}\": {found} blocks, but {expected} strides", stage.block));
            }
            _ => {}
        }
        for (n, &i) in blocks.iter().enumerate() {
            let Some((block, unit)) = unit_at(place(i)) else { continue };
            let stride = match by_stage {
                true if n > 0 => None,
                true => strides.get(seen),
                false => strides.get(n),
            };
            let spot = Spot { block: &block, place: place(i), stride: stride.copied().unwrap_or(1) };
            let mut piece = piece(builder, unit, spot)?;
            // A number that no layer of the block takes is that of a layer without tensors.
            let taken =
                unit.layers.iter().filter(|l| !l.optional || shapes.fits(l, &block, spot.place)).count();
            if blocks.get(n + 1).is_none_or(|next| next - i > taken) {
                piece.then = builder.run(&stage.between, spot)?;
            }
            pieces.push(piece);
        }
        seen += 1;
    }
    if seen == 0 { Err(missing(stage)) } else { Ok(()) }
}

fn missing(stage: &StageSpec) -> String {
    format!("the checkpoint has no block \"{}\" of the kind {}", stage.block, stage.units.join(" or "))
}

/// One block.
fn piece(builder: &mut Builder<'_>, unit: &UnitSpec, spot: Spot<'_>) -> Result<Piece, String> {
    let input = builder.axis.clone();
    let mut dry = builder.clone();
    let main = dry.run(&unit.layers, spot)?;
    let moves = |layer: &LayerSpec| layer.stride.is_some();
    let same = input.size() == dry.axis.size() && (spot.stride == 1 || !unit.layers.iter().any(moves));
    let projected = builder.shapes.all_fit(&unit.projection, spot.block, spot.place);
    let (main, shortcut) = match unit.shortcut {
        _ if projected => {
            *builder = dry;
            let target = builder.axis.clone();
            (main, Shortcut::Layers(builder.from(input).onto(target, &unit.projection, spot)?))
        }
        Some(ShortcutSpec::Pad) if !same => {
            *builder = dry;
            let rows = builder.axis.size();
            if rows < input.size() {
                return Err(format!("\"{}\": fewer channels come out than its shortcut brings", spot.block));
            }
            (main, Shortcut::Pad { stride: spot.stride, rows })
        }
        Some(ShortcutSpec::SameShape) if !same => {
            *builder = dry;
            (main, Shortcut::None)
        }
        Some(ShortcutSpec::Identity) if !same => {
            let (from, to) = (input, dry.axis);
            let message = "is no projection in the checkpoint for its shortcut";
            return Err(format!(
                "\"{}\" goes from {from} to {to} by a stride of {}, but there {message}",
                spot.block, spot.stride
            ));
        }
        Some(_) => (builder.onto(input, &unit.layers, spot)?, Shortcut::Identity),
        None => {
            *builder = dry;
            (main, Shortcut::None)
        }
    };
    let after = unit.after.as_ref().map(|act| builder.spec.activation(act, builder.config)).transpose()?;
    Ok(named(Piece { role: Role::Block, name: spot.block.into(), main, shortcut, after, then: Vec::new() }))
}
