//! Averages of gradients between ranks, compressed: PowerSGD, TopK, QSGD, and levels by L-GreCo.
//!
//! Slices, shapes and names in, the same out; no tensor framework. An [`Exchange`] is what a training loop holds. It
//! takes the gradients of one rank and returns their mean over all, the same bits on every rank:
//!
//! ```
//! use trimtab_exchange::{Exchange, ExchangeConfig, Family, Named, ResidualOf, Threads};
//!
//! let family = Family::PowerSgd { rank: 2, residual_of: ResidualOf::Mean };
//! let ranks = Threads::ranks(2).into_iter().map(|comm| {
//!     std::thread::spawn(move || {
//!         let mut exchange = Exchange::new(ExchangeConfig { family, ..Default::default() })?;
//!         let mut gradient = vec![1.0; 64 * 64];
//!         let mut tensors = [Named { name: "w", shape: &[64, 64], values: &mut gradient }];
//!         exchange.exchange(&mut tensors, &comm)?;
//!         Ok::<_, trimtab_exchange::Error>(exchange.sent_bytes())
//!     })
//! });
//! let ranks: Vec<_> = ranks.collect();
//! for rank in ranks {
//!     // Two factors of 64 x 2 instead of 64 x 64, and nine bytes of agreement.
//!     assert_eq!(rank.join().unwrap().unwrap(), 2 * 4 * 64 * 2 + 9);
//! }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `communicator` | what an exchange needs from a group of ranks; `alone`, `threads` and (feature `mpi`) `mpi` are such groups |
//! | `compressor` | what families have in common; `power_sgd`, `top_k`, `qsgd` (on [`quantizer`]), `dense` |
//! | `family` | families as settings: levels, payloads, what pays |
//! | `tables` | error and size of every candidate level |
//! | `l_greco` | the fewest bytes within an error; `baselines` for comparison; `accordion` |
//! | `exchange` | agreement, error feedback, decisions, state |
//!
//! A step: all ranks agree that they bring the same tensors and that every gradient is finite (if not, the step is
//! skipped and no residual changes); levels are decided if it is time; what does not pay to compress is averaged in one
//! buffer, the rest by its family; residuals are kept, means are written. Take statistics of gradients before it; clip,
//! add noise and run the optimizer after it. State is kept by tensor name, never by place.

mod accordion;
mod adjust;
mod agreement;
mod alone;
mod baselines;
mod checkpoint;
mod communicator;
mod compressor;
mod dense;
mod error;
mod exchange;
mod family;
mod l_greco;
mod matrix;
#[cfg(feature = "mpi")]
mod mpi;
mod named;
mod orthonormal;
mod policy;
mod power_sgd;
mod qsgd;
pub mod quantizer;
mod state;
mod tables;
mod threads;
mod top_k;

pub use accordion::Accordion;
pub use adjust::{Adjustment, Choice};
pub use alone::Alone;
pub use baselines::{greedy, same_bytes_uniform};
pub use communicator::{Communicator, all_reduce_bytes, owned_range};
pub use compressor::{Compressor, Input, Reduced};
pub use dense::dense_mean;
pub use error::{Error, Result};
pub use exchange::{Exchange, Exchanged};
pub use family::{Family, MAX_CANDIDATES};
pub use l_greco::{Levels, l_greco};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use named::Named;
pub use policy::{ExchangeConfig, LGrecoConfig, Policy, Schedule};
pub use power_sgd::{PowerSgd, ResidualOf};
pub use qsgd::{Qsgd, RoundingMode};
pub use state::State;
pub use tables::{ErrorTable, LowRankErrors};
pub use threads::Threads;
pub use top_k::{DENSITY_PARTS, TopK, kept};
