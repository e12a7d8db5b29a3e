//! Dense decompositions in `f64` on row-major slices, computed by `faer`.
//!
//! Each runs on one thread, except the Cholesky factorization, whose blocks are spread over the current rayon pool in
//! pieces of a fixed size (so its result does not depend on the pool). Order and signs are fixed: singular values and
//! eigenvalues descend, and the entry of largest magnitude of each left vector is positive.

mod blocked;
mod cholesky;
mod eigen;
mod solve;
mod square;
mod svd;
mod triangular;
mod upper;

pub use cholesky::{Damping, Factor, cholesky_damped};
pub use eigen::{Eigen, symmetric_eigen};
pub use solve::solve;
pub use square::Square;
pub use svd::{Svd, thin_svd};
pub use triangular::{lower_inverse, upper_inverse};
pub use upper::{UpperFactor, upper_factor};
