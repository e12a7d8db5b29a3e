//! What the tensors of a checkpoint say about the layers.

use std::collections::BTreeSet;

use trimtab_io::Checkpoint;

use super::name::{Place, fill};
use super::spec::{LayerSpec, UnitSpec};

/// Indices and tensors beyond so many are no network.
const MOST: usize = 1 << 16;

/// Shapes by name.
pub(super) struct Shapes<'a> {
    checkpoint: &'a Checkpoint,
    /// All numbers that stand alone between the dots of names.
    indices: BTreeSet<usize>,
}

/// Shape of the weight of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WeightShape {
    Dense(Vec<usize>),
    /// `[out, in]`, whatever the site is.
    Packed([usize; 2]),
}

impl<'a> Shapes<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        let parts = checkpoint.names().flat_map(|name| name.split('.'));
        let indices = parts.filter_map(|part| part.parse().ok()).filter(|&index| index < MOST);
        Self { checkpoint, indices: indices.collect() }
    }

    /// Numbers that may be indices of blocks.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.indices.iter().copied()
    }

    /// Shape of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&'a [usize]> {
        self.checkpoint.info(name).map(|info| &info.shape[..])
    }

    /// Shape of the weight of the site `name`.
    pub fn weight(&self, name: &str) -> Option<WeightShape> {
        if let Some(shape) = self.tensor(&format!("{name}.weight")) {
            // Codes of a byte lie where numbers would, always as a matrix.
            return Some(match (shape, self.checkpoint.contains(&format!("{name}.weight_scale"))) {
                (&[rows, cols], true) => WeightShape::Packed([rows, cols]),
                _ => WeightShape::Dense(shape.to_vec()),
            });
        }
        if !self.checkpoint.contains(&format!("{name}.weight_packed")) {
            return None;
        }
        let shape = self.checkpoint.tensor(&format!("{name}.weight_shape")).ok()?.to_i64().ok()?;
        let dims: Vec<usize> = shape.iter().filter_map(|&dim| usize::try_from(dim).ok()).collect();
        Some(WeightShape::Packed(dims.try_into().ok()?))
    }

    /// Whether the tensors of a layer are there and of the right rank. Layers without tensors always fit.
    pub fn fits(&self, layer: &LayerSpec, block: &str, place: Place) -> bool {
        let full = |name: &String| full_name(block, name, place);
        let rank = |name: &String, ranks: &[usize]| {
            full(name).and_then(|name| self.weight(&name)).is_some_and(|shape| match shape {
                WeightShape::Dense(shape) => ranks.contains(&shape.len()),
                WeightShape::Packed(_) => ranks.iter().any(|&rank| rank > 1),
            })
        };
        let all = |names: &[&Option<String>], ranks: &[usize]| {
            names.iter().copied().flatten().all(|name| rank(name, ranks))
        };
        let scale =
            layer.scale.as_ref().is_none_or(|name| full(name).is_some_and(|n| self.tensor(&n).is_some()));
        let squeeze = layer.squeeze.as_ref();
        all(&[&layer.conv], &[4])
            && all(&[&layer.linear], &[2])
            && all(&[&layer.norm, &layer.layer_norm], &[1])
            && squeeze.is_none_or(|s| rank(&s.reduce, &[2, 4]) && rank(&s.expand, &[2, 4]))
            && scale
    }

    /// Whether all layers fit that have to be there, and at least one of them has tensors.
    pub fn all_fit(&self, layers: &[LayerSpec], block: &str, place: Place) -> bool {
        let mut needed = layers.iter().filter(|layer| !layer.optional);
        layers.iter().any(has_tensors) && needed.all(|layer| self.fits(layer, block, place))
    }

    /// Whether a block is of this kind.
    pub fn is_unit(&self, unit: &UnitSpec, block: &str, place: Place) -> bool {
        self.all_fit(&unit.layers, block, place)
    }
}

fn has_tensors(layer: &LayerSpec) -> bool {
    let names = [&layer.conv, &layer.linear, &layer.norm, &layer.layer_norm, &layer.scale];
    names.into_iter().any(Option::is_some) || layer.squeeze.is_some()
}

/// Full name of a module of a block.
pub(super) fn full_name(block: &str, name: &str, place: Place) -> Option<String> {
    match name.strip_prefix('/') {
        Some(root) => fill(root, place),
        None if block.is_empty() => fill(name, place),
        None => Some(format!("{block}.{}", fill(name, place)?)),
    }
}
