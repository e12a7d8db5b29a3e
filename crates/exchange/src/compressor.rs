//! What all families of compressors have in common.

use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::state::State;

/// One rank's matrix on its way into an exchange: the gradient plus what earlier steps left behind.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Name of the tensor, under which state is kept.
    pub name: &'a str,
    /// Rows: the first axis of the tensor.
    pub n: usize,
    /// Columns: the product of all other axes.
    pub m: usize,
    /// Rank, width in bits, or density in parts of 10,000, by family; the same on all ranks.
    pub level: usize,
    /// `[n, m]`, finite.
    pub values: &'a [f32],
}

/// What comes out for one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduced {
    /// Approximate mean over the ranks, `[n, m]`: the same bits on all of them.
    pub mean: Vec<f32>,
    /// What this rank adds to its next gradient, `[n, m]`; `None` without error feedback. With it, the mean of the
    /// residuals plus [`Reduced::mean`] is the exact mean of the inputs.
    pub residual: Option<Vec<f32>>,
}

/// A family of compressors.
pub trait Compressor: Send {
    /// Averages `inputs` over all ranks, which give the same names, shapes and levels in the same order.
    ///
    /// `None`, with no state changed, if a mean is too large for `f32`; all ranks agree on that without asking.
    fn reduce(&mut self, inputs: &[Input<'_>], comm: &dyn Communicator) -> Result<Option<Vec<Reduced>>>;

    /// Adds the family's own state (not the residuals) to `state`.
    fn save(&self, state: &mut State);

    /// Takes the family's own state from `state`.
    fn load(&mut self, state: &State) -> Result<()>;
}

/// Largest magnitude that inputs and means may have: sums and projections of up to 10^8 such numbers are finite, so
/// what they leave to the residuals is.
pub(crate) const MAX_MAGNITUDE: f32 = 1e30;

/// Whether all values are finite and far enough from overflow.
pub(crate) fn sound(values: &[f32]) -> bool {
    values.iter().all(|v| v.abs() <= MAX_MAGNITUDE)
}

/// `a - b`.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The means, unless one of them is out of range.
pub(crate) fn unless_out_of_range(reduced: Vec<Reduced>) -> Option<Vec<Reduced>> {
    reduced.iter().all(|r| sound(&r.mean)).then_some(reduced)
}

/// Refuses bytes after the last matrix of a payload.
pub(crate) fn at_end(rest: &[u8], what: &'static str, inputs: &[Input<'_>]) -> Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    let name = inputs.last().map_or("", |input| input.name).to_string();
    let (found, expected) = (format!("{} bytes after it", rest.len()), "the end of the payload".to_string());
    Err(Error::Payload { what, name, found, expected })
}
