//! Tensors by name, and as the matrices that families compress.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// A tensor of the model and its gradient on this rank.
#[derive(Debug)]
pub struct Named<'a> {
    /// Name, unique, the same on all ranks; state is kept under it.
    pub name: &'a str,
    /// Shape. All axes but the first are taken as one: a matrix `[n, m]`.
    pub shape: &'a [usize],
    /// In: gradient of this rank, the mean over its samples. Out: mean over the ranks.
    pub values: &'a mut [f32],
}

/// A tensor that is compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) name: &'a str,
    pub(crate) n: usize,
    pub(crate) m: usize,
}

/// A gradient plus its residual.
#[derive(Debug)]
pub(crate) struct Corrected<'a> {
    pub(crate) name: &'a str,
    /// `None`: it does not pay, and is averaged as it is.
    pub(crate) matrix: Option<Matrix<'a>>,
    pub(crate) values: Vec<f32>,
}

/// First axis, and all others as one. A scalar is a vector of one.
pub(crate) fn flattened(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [n, rest @ ..] => (*n, rest.iter().product()),
    }
}

/// Shapes that their values fill, and names that occur once.
pub(crate) fn check(tensors: &[Named<'_>]) -> Result<()> {
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let product = tensor.shape.iter().try_fold(1usize, |p, &side| p.checked_mul(side));
        if product != Some(tensor.values.len()) {
            let (name, shape) = (tensor.name.to_string(), tensor.shape.to_vec());
            let (expected, found) = (product.unwrap_or(usize::MAX), tensor.values.len());
            return Err(Error::Shape { name, shape, expected, found });
        }
        if !names.insert(tensor.name) {
            return Err(Error::Duplicate { name: tensor.name.to_string() });
        }
    }
    Ok(())
}
