//! How the inputs of a module are coded while a model runs.

use serde::{Deserialize, Serialize};

/// What is done to every number that reaches a module. Models that were trained on coded inputs need them to be coded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InputCode {
    /// `clip(round(x / step), low, high) * step`, ties to the even code.
    Grid {
        /// Distance of two neighbours, positive.
        step: f32,
        /// The smallest code.
        low: i32,
        /// The largest code.
        high: i32,
    },
    /// `-1` below 0, else `+1`.
    Signs,
}

impl InputCode {
    /// What makes no sense, if anything.
    pub fn problem(&self) -> Option<String> {
        match *self {
            Self::Grid { step, low, high } if !(step > 0.0 && step.is_finite()) || low >= high => {
                Some(format!("a grid of {low} to {high} in steps of {step}"))
            }
            _ => None,
        }
    }
}
