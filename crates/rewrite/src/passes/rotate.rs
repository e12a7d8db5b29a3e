//! The residual stream rotated.
//!
//! QuaRot (Ashkboos et al., arXiv:2404.00456, section 4) and the first step of RSQ (Sung et al., arXiv:2503.01820): what is added
//! to the stream is multiplied with an orthogonal `Q` (writers `Qᵀ W`, `Qᵀ b`, tables `E Q`), what reads it with `Qᵀ` (readers
//! `W Q`). An RMS norm with gains of one commutes with `Q`. So does a layer norm, if `Q` maps the vector of ones to itself: then
//! the mean and what is left of a row do not mix, no centring is needed, and the file keeps its family. Such a `Q` is the same
//! random Hadamard matrix and one reflection. A bias that is left in a norm is a vector along the stream and is rotated with it.
//!
//! Only what can be fused is rotated; a transform at run time, as before the last map of a feed-forward sublayer, is not asked of
//! any engine.

use std::sync::Arc;

use trimtab_math::random::Stream as Random;
use trimtab_math::rotation::{Rotation, RotationKind};
use trimtab_nn::NormKind;

use super::{RotateHeads, TIED, has_unit_scales, left_alone};
use crate::draft::Draft;
use crate::edit::{Edit, turn};
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Rotate {
    /// Which rotations are drawn.
    pub kind: RotationKind,
    /// Seed.
    pub seed: u64,
    /// Whether the values of the heads are rotated as well.
    pub heads: bool,
    /// Whether everything is rotated back.
    pub back: bool,
}

impl Rotate {
    /// Why a stream cannot be rotated, whatever passes come first.
    fn reason(draft: &Draft<'_>, index: usize) -> Option<String> {
        let stream = &draft.wiring.streams[index];
        if let Some(obstacle) = stream.obstacles.first() {
            return Some(obstacle.clone());
        }
        let norms = || draft.wiring.norms.iter().filter(|norm| norm.stream == Some(index));
        if norms().next().is_none() && stream.readers.is_empty() {
            return Some("nothing reads it".into());
        }
        norms().find(|norm| norm.obstacle.is_some()).and_then(|norm| norm.obstacle.clone())
    }
}

impl EquivalentRewrite for Rotate {
    fn pass(&self) -> Pass {
        Pass::Rotate
    }

    fn needs(&self, draft: &Draft<'_>) -> Result<Vec<Pass>> {
        let (mut scales, mut gains) = (false, false);
        for index in (0..draft.wiring.streams.len()).filter(|&index| Self::reason(draft, index).is_none()) {
            scales |= !has_unit_scales(draft, index)?;
            for norm in draft.wiring.norms.iter().filter(|norm| norm.stream == Some(index)) {
                gains |= !draft.has_unit_gain(norm)?;
            }
        }
        let scales = scales.then_some(Pass::FoldLayerScale);
        Ok(scales.into_iter().chain(gains.then_some(Pass::FoldNormGain)).collect())
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        let streams = draft.wiring.streams.clone();
        if streams.is_empty() {
            return Err(Error::refused(name, "it has no residual stream that norms read"));
        }
        let (mut changed, mut reasons, mut notes) = (0, Vec::new(), Vec::new());
        for (index, stream) in streams.iter().enumerate() {
            if let Some(reason) = Self::reason(draft, index) {
                reasons.push((index, reason));
                continue;
            }
            let norms: Vec<_> =
                draft.wiring.norms.iter().filter(|norm| norm.stream == Some(index)).cloned().collect();
            for norm in &norms {
                if !draft.has_unit_gain(norm)? {
                    let reason =
                        if norm.tied { TIED } else { "its gain is not one: fold-norm-gain comes first" };
                    return Err(Error::refused(name, format!("\"{}\": {reason}", norm.name)));
                }
            }
            let n = stream.axis.size();
            let mut random = Random::new(self.seed, "rewrite/rotate", index as u64, 0);
            let mut rotation = Rotation::draw(n, self.kind, &mut random);
            if self.kind == RotationKind::Hadamard && !rotation.is_hadamard() {
                notes.push(format!(
                    "no Hadamard matrix of order {n}: the rotation is an orthogonal matrix drawn at random"
                ));
            }
            if stream.centered || norms.iter().any(|norm| norm.kind == NormKind::Layer) {
                rotation = rotation.fixing_ones();
            }
            let rotation = Arc::new(rotation);
            for writer in &stream.writers {
                draft.rotate_writer(writer, &rotation, self.back)?;
            }
            for norm in &norms {
                if let Some(bias) = &norm.bias {
                    turn(&rotation, self.back, draft.vector(bias, n)?);
                }
            }
            for reader in norms.iter().flat_map(|norm| &norm.readers).chain(&stream.readers) {
                draft.edit(reader, Edit::rotate_cols(reader, &rotation, self.back));
            }
            changed += 1;
        }
        if changed == 0 {
            return Err(Error::refused(name, left_alone(&streams, &reasons).join("\n")));
        }
        notes.extend(left_alone(&streams, &reasons));
        if self.heads && !draft.wiring.values.is_empty() {
            RotateHeads { kind: self.kind, seed: self.seed, back: self.back }.apply(draft)?;
        }
        let inverse = Box::new(Self { back: !self.back, ..*self });
        Ok(Applied { inverse: Some(inverse), ..Applied::new(self.pass(), changed, notes) })
    }
}
