//! Loud channels, for experiments.
//!
//! Small networks lack the few loud channels of large ones that the papers on rotation and scaling are about. Some channels of
//! what every norm gives are multiplied with a factor, and the columns that read them divided by it: the function stays, the
//! imbalance is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use trimtab_math::random::Stream as Random;
use trimtab_nn::NormEdge;

use super::{MoveScales, no_free_norm};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct InjectOutliers {
    /// Channels of every norm.
    pub channels: usize,
    /// By how much they get louder.
    pub factor: f64,
    /// Which channels.
    pub seed: u64,
}

impl EquivalentRewrite for InjectOutliers {
    fn pass(&self) -> Pass {
        Pass::InjectOutliers
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        if !(self.factor.is_finite() && self.factor > 0.0) {
            let message = format!("the factor is {}, expected a positive number", self.factor);
            return Err(Error::Setting { pass: name, message });
        }
        let norms: Vec<NormEdge> = draft.wiring.free_norms().cloned().collect();
        if norms.is_empty() {
            return Err(Error::refused(name, no_free_norm(draft)));
        }
        let mut factors: BTreeMap<String, Arc<[f64]>> = BTreeMap::new();
        for norm in &norms {
            let mut order: Vec<usize> = (0..norm.axis.size()).collect();
            Random::new(self.seed, &format!("rewrite/outliers/{}", norm.name), 0, 0).shuffle(&mut order);
            let mut moved = vec![1.0; order.len()];
            order.iter().take(self.channels).for_each(|&channel| moved[channel] = self.factor.recip());
            factors.insert(norm.name.clone(), moved.into());
        }
        let applied = MoveScales { factors }.apply(draft)?;
        Ok(Applied { pass: self.pass(), ..applied })
    }
}
