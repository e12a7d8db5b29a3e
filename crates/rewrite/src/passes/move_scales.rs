//! Given factors over the edges of norms: the way back of every pass that moves a diagonal map.

use std::collections::BTreeMap;
use std::sync::Arc;

use trimtab_nn::NormEdge;

use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::pass::{Applied, EquivalentRewrite, Pass};

/// Divides gain and bias of each norm by its factors and multiplies the columns of its readers with them.
#[derive(Clone, Debug)]
pub struct MoveScales {
    /// Factors by the name of the norm, one a channel, none zero.
    pub factors: BTreeMap<String, Arc<[f64]>>,
}

impl MoveScales {
    /// The way back.
    pub fn inverse(&self) -> Self {
        let invert = |(name, factors): (&String, &Arc<[f64]>)| {
            (name.clone(), factors.iter().map(|f| f.recip()).collect())
        };
        Self { factors: self.factors.iter().map(invert).collect() }
    }
}

impl EquivalentRewrite for MoveScales {
    fn pass(&self) -> Pass {
        Pass::ScaleChannels
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied> {
        let name = self.pass().name();
        let norms: Vec<NormEdge> = draft.wiring.free_norms().cloned().collect();
        for (norm, factors) in &self.factors {
            let edge = norms.iter().find(|edge| edge.name == *norm);
            let edge =
                edge.ok_or_else(|| Error::refused(name, format!("\"{norm}\" is no norm that maps read")))?;
            let sound = factors.iter().all(|f| f.is_finite() && *f != 0.0);
            if factors.len() != edge.axis.size() || !sound {
                return Err(Error::Setting {
                    pass: name,
                    message: format!(
                        "\"{norm}\" needs {} finite factors that are not zero, {} are given",
                        edge.axis.size(),
                        factors.len()
                    ),
                });
            }
            draft.absorb(edge, factors)?;
        }
        let applied = Applied::new(self.pass(), self.factors.len(), Vec::new());
        Ok(Applied { inverse: Some(Box::new(self.inverse())), ..applied })
    }
}
