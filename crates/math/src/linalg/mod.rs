//! Dense decompositions in `f64` on row-major slices, computed by `faer`.
//!
//! Each runs on one thread, except the Cholesky factorization and the products of the low-rank one, which are spread over
//! the current rayon pool in pieces of a fixed size (so that their results do not depend on the pool). Order and signs are fixed: singular values and
//! eigenvalues descend, and the entry of largest magnitude of each left vector is positive.

mod blocked;
mod cholesky;
mod eigen;
mod low_rank;
mod qr;
mod solve;
mod square;
mod svd;
mod triangular;
mod upper;

pub use cholesky::{Damping, Factor, cholesky_damped};
pub use eigen::{Eigen, symmetric_eigen};
pub use low_rank::{LowRank, Metric, Path, Sketch, low_rank, metric_norm};
pub use solve::solve;
pub use square::Square;
pub use svd::{Svd, thin_svd};
pub use triangular::{lower_inverse, upper_inverse};
pub use upper::{UpperFactor, upper_factor};
