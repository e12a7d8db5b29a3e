//! The weight solvers by name: what the planner prices with and what treatment runs is the same call.

use serde::{Deserialize, Serialize};

use crate::adaquant::{AdaquantSettings, adaquant_by_moment};
use crate::decoupleq::{DecoupleqSettings, decoupleq};
use crate::error::Result;
use crate::gptq::{GptqSettings, gptq};
use crate::layer::{Layer, Quantized};
use crate::rtn::{RtnSettings, rtn};
use crate::scheme::WeightScheme;

/// Turns a layer into codes.
pub trait LayerSolver {
    /// Name in reports and settings.
    fn name(&self) -> &'static str;

    /// Whether it needs the second moment of the layer's input.
    fn needs_hessian(&self) -> bool;

    /// Quantizes one layer.
    ///
    /// # Errors
    /// Settings out of range, a missing second moment, or a failure named by the solver.
    fn solve(&self, layer: &Layer, scheme: &WeightScheme) -> Result<Quantized>;
}

/// A solver with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Solver {
    /// Round-to-nearest.
    Rtn(RtnSettings),
    /// GPTQ.
    Gptq(GptqSettings),
    /// decoupleQ: real zeros or symmetric codes.
    Decoupleq(DecoupleqSettings),
    /// AdaQuant, of weights alone: whole zeros.
    Adaquant(AdaquantSettings),
}

impl Default for Solver {
    fn default() -> Self {
        Solver::Gptq(GptqSettings::default())
    }
}

impl LayerSolver for Solver {
    fn name(&self) -> &'static str {
        match self {
            Solver::Rtn(_) => "rtn",
            Solver::Gptq(_) => "gptq",
            Solver::Decoupleq(_) => "decoupleq",
            Solver::Adaquant(_) => "adaquant",
        }
    }

    fn needs_hessian(&self) -> bool {
        match self {
            Solver::Rtn(settings) => settings.range.needs_input_power(),
            Solver::Gptq(_) | Solver::Decoupleq(_) | Solver::Adaquant(_) => true,
        }
    }

    fn solve(&self, layer: &Layer, scheme: &WeightScheme) -> Result<Quantized> {
        match self {
            Solver::Rtn(settings) => rtn(layer, scheme, settings),
            Solver::Gptq(settings) => gptq(layer, scheme, settings),
            Solver::Decoupleq(settings) => decoupleq(layer, scheme, settings),
            Solver::Adaquant(settings) => adaquant_by_moment(layer, scheme, settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::RangeFinder;
    use trimtab_math::linalg::Square;

    #[test]
    fn settings_are_read_by_method_name() {
        let solver: Solver =
            serde_json::from_str(r#"{"method": "rtn", "range": {"rule": "mse_weighted"}}"#).unwrap();
        assert_eq!(solver, Solver::Rtn(RtnSettings { range: RangeFinder::mse_weighted() }));
        assert!(solver.needs_hessian());
        let solver: Solver = serde_json::from_str(r#"{"method": "gptq"}"#).unwrap();
        assert_eq!(solver, Solver::default());
        let text = serde_json::to_string(&solver).unwrap();
        assert_eq!(serde_json::from_str::<Solver>(&text).unwrap(), solver);
        assert!(serde_json::from_str::<Solver>(r#"{"method": "gptq", "dampin": 1}"#).is_err());
    }

    #[test]
    fn dispatches_to_the_method() {
        let w = [0.3f32, -0.2, 0.9, 0.4];
        let h = Square::identity(2);
        let layer = Layer::new(&w, 2, 2, Some(&h)).unwrap();
        for solver in [Solver::Rtn(RtnSettings::default()), Solver::default()] {
            let found = solver.solve(&layer, &WeightScheme::default()).unwrap();
            assert_eq!(found.report.method, solver.name());
        }
        let without = Layer::new(&w, 2, 2, None).unwrap();
        assert!(Solver::default().solve(&without, &WeightScheme::default()).is_err());
    }
}
