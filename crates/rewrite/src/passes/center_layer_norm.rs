//! Layer norms to RMS norms, by a residual stream with the mean zero.
//!
//! Pre-RMSNorm (Jiang et al., arXiv:2305.14858): nothing in a Pre-LN network reads the mean of the stream, since every reader
//! begins with a layer norm, which takes it away. So every writer may leave it out: the mean over the output axis is taken from
//! the columns of every map that adds to the stream, from its bias, and from every row of every table. Then the variance is the
//! mean square, and the norm is an RMS norm of the same epsilon.
//!
//! The file keeps its family: a layer norm on a stream of mean zero is that RMS norm. A switch in `config.json` says so, for
//! programs that know it; others compute a mean of nothing. The step from CRMSNorm, which leaves out the last channel, is not
//! made: no family has a place for it.

use trimtab_nn::NormKind;

use super::{TIED, has_unit_scales, left_alone};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct CenterLayerNorm;

impl CenterLayerNorm {
    /// Why a stream cannot be centred.
    fn reason(draft: &Draft<'_>, index: usize) -> Result<Option<String>> {
        let stream = &draft.wiring.streams[index];
        if stream.centered {
            return Ok(Some("it has the mean zero already".into()));
        }
        let norms: Vec<_> = draft.wiring.norms.iter().filter(|norm| norm.stream == Some(index)).collect();
        // That a norm is seen from outside is no obstacle: what it gives stays the same.
        let outside =
            |reason: &&String| !norms.iter().any(|norm| reason.starts_with(&format!("\"{}\"", norm.name)));
        if let Some(obstacle) = stream.obstacles.iter().find(outside) {
            return Ok(Some(obstacle.clone()));
        }
        if let Some(norm) = norms.iter().find(|norm| norm.kind == NormKind::Rms) {
            return Ok(Some(format!(
                "\"{}\" is an RMS norm, which does not take the mean away: without it the function changes",
                norm.name
            )));
        }
        if let Some(reader) = stream.readers.first() {
            return Ok(Some(format!(
                "\"{}\" reads the stream without a norm, its mean included",
                reader.tensor
            )));
        }
        for norm in norms.iter().filter(|norm| norm.tied) {
            let bias = norm.bias.as_ref().map(|bias| draft.peek(bias, norm.axis.size())).transpose()?;
            let plain = bias.is_none_or(|bias| bias.iter().all(|b| *b == 0.0));
            if !draft.has_unit_gain(norm)? || !plain {
                return Ok(Some(TIED.into()));
            }
        }
        Ok(None)
    }
}

impl EquivalentRewrite for CenterLayerNorm {
    fn pass(&self) -> Pass {
        Pass::CenterLayerNorm
    }

    fn needs(&self, draft: &Draft<'_>) -> Result<Vec<Pass>> {
        for index in 0..draft.wiring.streams.len() {
            if Self::reason(draft, index)?.is_none() && !has_unit_scales(draft, index)? {
                return Ok(vec![Pass::FoldLayerScale]);
            }
        }
        Ok(Vec::new())
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        let streams = draft.wiring.streams.clone();
        if streams.is_empty() {
            return Err(Error::refused(name, "it has no residual stream that layer norms read"));
        }
        let (mut legal, mut reasons) = (Vec::new(), Vec::new());
        for index in 0..streams.len() {
            match Self::reason(draft, index)? {
                None => legal.push(index),
                Some(reason) => reasons.push((index, reason)),
            }
        }
        // One switch for two streams says the same of both.
        let shared = |index: &usize| {
            let field = &streams[*index].centered_field;
            reasons.iter().find(|(other, _)| streams[*other].centered_field == *field)
        };
        if legal.is_empty() || legal.iter().any(|index| shared(index).is_some()) {
            return Err(Error::refused(name, left_alone(&streams, &reasons).join("\n")));
        }
        for &index in &legal {
            for writer in &streams[index].writers {
                draft.center_writer(writer)?;
            }
            draft.set_config(&streams[index].centered_field, true);
            draft.wiring.streams[index].centered = true;
            let norms = draft.wiring.norms.iter_mut();
            norms.filter(|norm| norm.stream == Some(index)).for_each(|norm| norm.kind = NormKind::Rms);
        }
        Ok(Applied::new(self.pass(), legal.len(), left_alone(&streams, &reasons)))
    }
}
