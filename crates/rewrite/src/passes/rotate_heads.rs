//! The values of every attention head rotated, and the map of outputs back.
//!
//! What an attention gives is a mixture of values, so a rotation of the values of one head passes through it and is undone by the
//! columns of the map of outputs: QuaRot (arXiv:2404.00456, section 4, stage 1b), its fused half. It holds wherever the norms stand.
//! Heads that share their values share the rotation.

use std::sync::Arc;

use trimtab_math::random::Stream as Random;
use trimtab_math::rotation::{Rotation, RotationKind};

use crate::draft::Draft;
use crate::edit::Edit;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct RotateHeads {
    /// Which rotations are drawn.
    pub kind: RotationKind,
    /// Seed.
    pub seed: u64,
    /// Whether the values are rotated back.
    pub back: bool,
}

impl EquivalentRewrite for RotateHeads {
    fn pass(&self) -> Pass {
        Pass::RotateHeads
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let values = draft.wiring.values.clone();
        if values.is_empty() {
            return Err(Error::refused(self.pass().name(), "it has no attention"));
        }
        for (index, path) in values.iter().enumerate() {
            let mut random = Random::new(self.seed, "rewrite/rotate-heads", index as u64, 0);
            let rotation = Arc::new(Rotation::draw(path.values.rows.len(), self.kind, &mut random));
            draft.rotate_output(&path.values, &rotation, self.back)?;
            for output in &path.outputs {
                draft.edit(output, Edit::rotate_cols(output, &rotation, self.back));
            }
        }
        let inverse = Box::new(Self { back: !self.back, ..*self });
        Ok(Applied { inverse: Some(inverse), ..Applied::new(self.pass(), values.len(), Vec::new()) })
    }
}
