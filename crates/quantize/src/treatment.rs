//! The solvers as a treatment: what the planner prices and the pipeline applies to any site.

use trimtab_calibrate::{Outcome, SiteEvidence, Treated, Treatment};
use trimtab_nn::SiteMeta;

use crate::damage::output_error;
use crate::layer::{Layer, Quantized};
use crate::rtn::{RtnSettings, rtn};
use crate::scheme::WeightScheme;
use crate::solver::{LayerSolver, Solver};

/// A solver and the scheme that it codes for.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineTreatment {
    /// How codes are chosen.
    pub solver: Solver,
    /// What they mean.
    pub scheme: WeightScheme,
}

impl Treatment for AffineTreatment {
    fn needs_second_moment(&self) -> bool {
        self.solver.needs_hessian()
    }

    fn treat(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<Outcome, String> {
        self.run(site, weight, evidence).map_err(|error| error.to_string())
    }
}

impl AffineTreatment {
    fn run(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> crate::Result<Outcome> {
        let layer = Layer::new(weight, site.rows, site.cols, evidence.second_moment)?;
        let found = self.solver.solve(&layer, &self.scheme)?;
        let report = &found.report;
        let damage = match report.damage {
            Some(damage) => damage,
            None => error_of(&layer, &found)?,
        };
        let baseline_damage = match report.rtn_damage {
            Some(damage) => damage,
            None if matches!(self.solver, Solver::Rtn(_)) => damage,
            None => error_of(&layer, &rtn(&layer, &self.scheme, &RtnSettings::default())?)?,
        };
        Ok(Outcome {
            damage,
            baseline_damage,
            fell_back: report.fell_back,
            damping: report.damping_used.unwrap_or(0.0),
            treated: Treated::Packed(found.pack()?),
        })
    }
}

/// `tr((W - Q) H (W - Q)^T)`, with `H` the identity where nothing was observed.
fn error_of(layer: &Layer<'_>, found: &Quantized) -> crate::Result<f64> {
    let q = found.dequantize();
    match layer.hessian() {
        Some(h) => output_error(layer.weight(), &q, h),
        None => Ok(layer.weight().iter().zip(&q).map(|(&w, &q)| f64::from(w - q).powi(2)).sum()),
    }
}
