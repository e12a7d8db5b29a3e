//! Numbers without a tensor framework: counter-based random streams, dense decompositions in `f64`, streaming second
//! moments and a few statistics.
//!
//! Everything takes and returns plain slices (row-major) or the small types defined here, and is checked against a
//! closed form, brute force or a naive reference. The same input gives the same bytes at any number of threads: parallel
//! loops run over pieces of a fixed size, each computed by one thread.
//!
//! | module | holds |
//! |---|---|
//! | [`random`] | Philox streams named by seed, purpose, step and item |
//! | [`linalg`] | Cholesky with the house damping policy, triangular inverse, eigenvalues, SVD, solve |
//! | [`hadamard`], [`rotation`] | Hadamard matrices, random rotations |
//! | [`adam`] | Adam on numbers of the host |
//! | [`gram`] | the streaming second moment `Σ w x xᵀ` |
//! | [`hutchinson`] | traces of a Hessian by its gradient |
//! | [`stats`] | means, paired t, rank correlation, log-sum-exp, KL |
//! | [`vector`] | exponentials, softmax and sums of `f32` rows, vectorized |

pub mod adam;
pub mod error;
pub mod gram;
pub mod hadamard;
pub mod hutchinson;
pub mod linalg;
pub mod random;
pub mod rotation;
pub mod stats;
pub mod vector;

pub use error::{Error, Result};
