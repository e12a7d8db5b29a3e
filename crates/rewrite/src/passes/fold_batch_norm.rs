//! Batch norms into the convolutions before them.
//!
//! After training a batch norm is a factor and a shift of every channel (Ioffe and Szegedy, arXiv:1502.03167, section 3.1): the
//! factor `s = gain / sqrt(variance + eps)` is a diagonal map on the convolution's output axis and moves into its rows. What is
//! left is a shift. It stays in the norm, whose other numbers become those of no change, so that the file has the tensors that
//! its family has; where the convolution has a bias of its own, that takes the shift too.

use std::sync::Arc;

use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct FoldBatchNorm;

impl EquivalentRewrite for FoldBatchNorm {
    fn pass(&self) -> Pass {
        Pass::FoldBatchNorm
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        let norms = draft.wiring.batch_norms.clone();
        if norms.is_empty() {
            return Err(Error::refused(name, "it has no batch norm"));
        }
        for norm in &norms {
            let Some(source) = &norm.source else {
                let message = format!(
                    "\"{}\" has no convolution right before it, into which its factors could go",
                    norm.name
                );
                return Err(Error::refused(name, message));
            };
            let n = norm.size;
            let tensor = |part: &str| format!("{}.{part}", norm.name);
            let gain = draft.peek(&tensor("weight"), n)?;
            let mean = draft.peek(&tensor("running_mean"), n)?;
            let variance = draft.peek(&tensor("running_var"), n)?;
            let factors: Arc<[f64]> =
                gain.iter().zip(&variance).map(|(g, v)| g / (v + norm.eps).sqrt()).collect();
            draft.scale_output(source, &factors)?;
            let shift: Vec<f64> = {
                let bias = draft.vector(&tensor("bias"), n)?;
                let shift = bias.iter().zip(&mean).zip(&factors[..]).map(|((b, m), s)| b - m * s).collect();
                match source.bias {
                    Some(_) => bias.fill(0.0),
                    None => bias.clone_from(&shift),
                }
                shift
            };
            if let Some(bias) = &source.bias {
                let bias = &mut draft.vector(bias, source.dims[0])?[source.rows.clone()];
                bias.iter_mut().zip(&shift).for_each(|(b, s)| *b += s);
            }
            draft.vector(&tensor("weight"), n)?.fill(1.0);
            draft.vector(&tensor("running_mean"), n)?.fill(0.0);
            draft.vector(&tensor("running_var"), n)?.fill(1.0 - norm.eps);
        }
        Ok(Applied::new(self.pass(), norms.len(), Vec::new()))
    }
}
