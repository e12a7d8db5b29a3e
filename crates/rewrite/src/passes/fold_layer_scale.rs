//! Factors of channels into the maps before them.
//!
//! LayerScale (Touvron et al., arXiv:2103.17239, section 2) multiplies what a sublayer adds to the stream, channel by channel. It
//! is a diagonal map on the output axis of the sublayer's last map, and moves into its rows.

use std::sync::Arc;

use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct FoldLayerScale;

impl EquivalentRewrite for FoldLayerScale {
    fn pass(&self) -> Pass {
        Pass::FoldLayerScale
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        let scales = draft.wiring.scales.clone();
        if scales.is_empty() {
            return Err(Error::refused(name, "it has no factors of channels"));
        }
        if let Some(scale) = scales.iter().find(|scale| scale.sources.is_empty()) {
            let message = format!("no linear map stands right before \"{}\"", scale.tensor);
            return Err(Error::refused(name, message));
        }
        for scale in &scales {
            let factors: Arc<[f64]> = draft.peek(&scale.tensor, scale.size)?.into();
            for source in &scale.sources {
                draft.scale_output(source, &factors)?;
            }
            draft.vector(&scale.tensor, scale.size)?.fill(1.0);
        }
        Ok(Applied::new(self.pass(), scales.len(), Vec::new()))
    }
}
