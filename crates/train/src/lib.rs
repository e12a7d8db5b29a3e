//! The one training loop of the house, made of slots.
//!
//! [`Trainer::run`] takes a module of the framework, a [`Dataset`] and an [`Objective`], and returns the trained module.
//! What varies between methods stands in a slot. In the order in which a step passes them:
//!
//! | slot | here | what goes there |
//! |---|---|---|
//! | sampler | [`Sampler`], [`BatchSize`] | shuffling by `(seed, epoch)`, a function of the position alone; how many items a step sees |
//! | batch transform | [`Dataset::batch`], [`BatchTransform`] | what is drawn for an item, and changes of a whole batch; made ahead on a thread ([`Settings::prefetch`]) |
//! | objective | [`Objective`] | [`NextToken`] and others; penalties see the whole module |
//! | statistics of samples | [`SampleStatistics`] | what single samples say, from captures of the forward pass |
//! | exchange | [`Workers`], [`Ranks`] | the mean over processes, compressed or not |
//! | gradient transform | [`Settings::clip_norm`], [`GradientNoise`] | clipping by the norm over all parameters, then noise |
//! | optimizer | [`OptimizerConfig`], [`Group`] | rules by group of parameters; decay for matrices only; state by parameter path |
//! | schedule | [`Schedule`] | the rate by samples seen |
//! | average | [`Settings::average`] | a moving average of the parameters |
//! | probe | [`Observer`] | loss, gradient norm, rate, throughput, held-out loss, and the module itself |
//! | phases | [`Phase`] | each with its own optimizer, schedule, trainable set and length, in sequence or in rounds |
//!
//! All clocks count samples. **The same seed gives the same bytes**, with or without an interruption between: parameters,
//! optimizer state and position are saved by name, the sampler needs no state, and no generator of the framework is used.

mod adaptive;
mod ahead;
mod average;
mod batch;
mod buffers;
mod data;
pub mod denoise;
pub mod distil;
mod error;
mod gradients;
mod noise;
mod objective;
pub mod objectives;
mod observer;
mod optimizer;
mod parameters;
mod per_sample;
mod pictures;
mod position;
pub mod quantized;
mod ranks;
#[cfg(test)]
mod residual_tests;
mod sampler;
mod schedule;
pub mod search;
mod settings;
mod state;
mod statistics;
#[cfg(test)]
mod tests;
mod trainer;
mod workers;

pub use adaptive::{Adaptive, Test};
pub use batch::{BatchSize, Ramp};
pub use data::{BatchTransform, Dataset, TokenBatch, TokenWindows};
pub use error::{Error, Result};
pub use gradients::{Gradient, Gradients};
pub use noise::GradientNoise;
pub use objective::{Loss, NextToken, Objective, Pass, StepInfo, cross_entropy};
pub use observer::{Measured, Observer, Silent, StepRecord};
pub use optimizer::{LambVariant, Optimizer, OptimizerConfig};
pub use parameters::{ParameterInfo, parameters};
pub use per_sample::SampleStatistics;
pub use pictures::{Mix, Pictures};
pub use ranks::Ranks;
pub use sampler::{Item, Sampler};
pub use schedule::Schedule;
pub use settings::{Group, Paths, Phase, Settings};
pub use trainer::{Outcome, Trainer};
pub use workers::{Alone, ExchangeState, Workers};
