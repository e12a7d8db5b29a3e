//! The one training loop of the house, made of slots.
//!
//! [`Trainer::run`] takes a module of the framework, a [`Dataset`] and an [`Objective`], and returns the trained module.
//! What varies between methods stands in a slot:
//!
//! | slot | here | what goes there |
//! |---|---|---|
//! | sampler | [`Sampler`] | shuffling by `(seed, epoch)`, a function of the position alone |
//! | batch transform | [`Dataset::batch`] | what a data set does to its items on the way to a batch |
//! | objective | [`Objective`] | [`NextToken`]; distillation and contrastive losses implement the same trait |
//! | gradient transform | [`Gradients`] | accumulation over passes, clipping by the norm over all parameters |
//! | optimizer | [`OptimizerConfig`] | any optimizer of the framework; decay for matrices only; state by parameter path |
//! | schedule | [`Schedule`] | the rate by samples seen |
//! | probe | [`Observer`] | loss, gradient norm, rate, throughput, held-out loss |
//! | phases | [`Phase`] | each with its own optimizer, schedule and trainable set |
//!
//! Slots without a user are not written. They will stand at these places of [`Trainer::run`]: statistics of single
//! samples between the forward pass and the mean of the loss; the exchange of gradients between workers after the last
//! pass of a step and before clipping; a penalty on parameters inside the objective, which sees the whole module.
//!
//! **The same seed gives the same bytes**, with or without an interruption between: parameters, optimizer state and
//! position are saved by name, the sampler needs no state, and no generator of the framework is used.

mod data;
pub mod denoise;
mod error;
mod gradients;
mod objective;
mod observer;
mod optimizer;
mod parameters;
mod sampler;
mod schedule;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod trainer;

pub use data::{Dataset, TokenBatch, TokenWindows};
pub use error::{Error, Result};
pub use gradients::Gradients;
pub use objective::{Loss, NextToken, Objective, cross_entropy};
pub use observer::{Observer, Silent, StepRecord};
pub use optimizer::{Optimizer, OptimizerConfig};
pub use parameters::{ParameterInfo, parameters};
pub use sampler::Sampler;
pub use schedule::Schedule;
pub use settings::{Phase, Settings, Trainable};
pub use trainer::{Outcome, Trainer};
