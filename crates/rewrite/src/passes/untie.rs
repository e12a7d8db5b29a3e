//! A head of its own in the place of one that borrows the embedding.

use trimtab_nn::wiring::TiedHead;

use crate::draft::Draft;
use crate::edit::Edit;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass: the file grows by a copy of the embedding, and `config.json` says that the head does not borrow. Where a family
/// scales the logits of a head that borrows (T5), the copy is scaled instead.
#[derive(Clone, Copy, Debug)]
pub struct Untie;

impl EquivalentRewrite for Untie {
    fn pass(&self) -> Pass {
        Pass::Untie
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let Some(TiedHead { embedding, head, factor, field }) = draft.wiring.tied.take() else {
            return Err(Error::refused(self.pass().name(), "its head does not borrow the embedding"));
        };
        let part = draft.copy(&embedding, &head);
        if factor != 1.0 {
            draft.edit(&part, Edit::scale(&part, factor));
        }
        draft.set_config(&field, false);
        for norm in draft.wiring.norms.iter_mut().filter(|norm| norm.tied) {
            norm.tied = false;
            norm.readers = vec![part.clone()];
        }
        let note = format!("\"{head}\" is new: a copy of \"{}\"", embedding.tensor);
        Ok(Applied::new(self.pass(), 1, vec![note]))
    }
}
