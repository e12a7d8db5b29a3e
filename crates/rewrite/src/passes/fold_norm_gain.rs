//! Gains and biases of norms into the maps that read them.
//!
//! `W (g n + b) + c = (W diag(g)) n + (c + W b)`: step 0 of Pre-RMSNorm (Jiang et al., arXiv:2305.14858, section 3) and of
//! QuaRot (Ashkboos et al., arXiv:2404.00456, section 4). The gain is a diagonal map on the norm's axis and moves over the edge
//! into the columns of every reader. The bias needs a place: where a reader has no bias of its own, and where zeros of a padding
//! stand beside the input, it stays in the norm, divided by the gain, which is the same function.

use std::collections::BTreeMap;
use std::sync::Arc;

use trimtab_nn::NormEdge;

use super::{MoveScales, TIED, no_free_norm};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct FoldNormGain;

impl EquivalentRewrite for FoldNormGain {
    fn pass(&self) -> Pass {
        Pass::FoldNormGain
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        for norm in draft.wiring.norms.iter().filter(|norm| norm.tied) {
            if !draft.has_unit_gain(norm)? {
                return Err(Error::refused(
                    name,
                    format!("\"{}\" is read by the head, and {TIED}", norm.name),
                ));
            }
        }
        let norms: Vec<NormEdge> = draft.wiring.free_norms().cloned().collect();
        if norms.is_empty() {
            return Err(Error::refused(name, no_free_norm(draft)));
        }
        let (mut kept, mut factors, mut inverse) = (0, BTreeMap::new(), true);
        for norm in &norms {
            let gain: Arc<[f64]> = draft.gain(norm)?.into();
            let bias = norm.bias.as_ref().map(|bias| draft.peek(bias, norm.axis.size())).transpose()?;
            let bias = bias.filter(|bias| bias.iter().any(|b| *b != 0.0));
            if let Some(bias) = &bias {
                match norm.readers.iter().all(|reader| reader.bias.is_some() && !reader.pads) {
                    true => {
                        into_readers(draft, norm, bias)?;
                        inverse = false;
                    }
                    false => {
                        if bias.iter().zip(&gain[..]).any(|(b, g)| *b != 0.0 && *g == 0.0) {
                            let message = format!(
                                "\"{}\" has a bias where its gain is zero, and a map that reads it has no bias to take it",
                                norm.name
                            );
                            return Err(Error::refused(name, message));
                        }
                        kept += 1;
                    }
                }
            }
            draft.absorb(norm, &gain)?;
            inverse &= gain.iter().all(|g| *g != 0.0);
            factors.insert(norm.name.clone(), gain.iter().map(|g| g.recip()).collect());
        }
        let mut notes = Vec::new();
        if kept > 0 {
            notes.push(format!(
                "{kept} norms keep a bias (divided by the gain): a map that reads them has none to take it"
            ));
        }
        let others: Vec<&str> = (draft.wiring.norms.iter())
            .filter(|norm| norm.obstacle.is_some())
            .map(|norm| norm.name.as_str())
            .collect();
        if !others.is_empty() {
            notes.push(format!(
                "{} norms are not read by linear maps alone and stay: {}",
                others.len(),
                short(&others)
            ));
        }
        let back: Option<Box<dyn EquivalentRewrite>> =
            if inverse { Some(Box::new(MoveScales { factors })) } else { None };
        Ok(Applied { inverse: back, ..Applied::new(self.pass(), norms.len(), notes) })
    }
}

/// Adds `W b` to the biases of the readers, and leaves the norm without one.
fn into_readers(draft: &mut Draft<'_>, norm: &NormEdge, bias: &[f64]) -> Result<()> {
    for reader in &norm.readers {
        let Some(target) = &reader.bias else { continue };
        let matrix = draft.matrix(reader)?;
        let cols = reader.dims[1];
        let added: Vec<f64> = (reader.rows.clone())
            .map(|i| {
                let row = &matrix[i * cols..][reader.cols.clone()];
                row.chunks(reader.spread).zip(bias).map(|(w, b)| w.iter().sum::<f64>() * b).sum()
            })
            .collect();
        let target = &mut draft.vector(target, reader.dims[0])?[reader.rows.clone()];
        target.iter_mut().zip(added).for_each(|(t, a)| *t += a);
    }
    if let Some(bias) = &norm.bias {
        draft.vector(bias, norm.axis.size())?.fill(0.0);
    }
    Ok(())
}

/// The first of some names.
fn short(names: &[&str]) -> String {
    match names {
        [a, b, _, ..] => format!("{a}, {b}, …"),
        few => few.join(", "),
    }
}
