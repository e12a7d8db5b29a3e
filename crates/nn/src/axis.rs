//! Axes: the named channel dimensions that sites share.

use std::fmt;
use std::sync::Arc;

/// A channel axis: the residual stream, the heads of block 3, the hidden units of its MLP.
///
/// Two sites that name the same axis change together: what permutes, scales, rotates or removes channels of an axis
/// has to visit every site (and every diagonal map, such as a norm gain) along it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Axis {
    name: Arc<str>,
    size: usize,
    unit: usize,
}

impl Axis {
    /// An axis of `size` channels that may be cut anywhere.
    pub fn new(name: impl Into<Arc<str>>, size: usize) -> Self {
        Self { name: name.into(), size, unit: 1 }
    }

    /// The same axis, whose channels only make sense in runs of `unit` (the width of an attention head).
    pub fn in_units_of(mut self, unit: usize) -> Self {
        self.unit = unit;
        self
    }

    /// Name, unique within a model (`residual`, `blocks.3.heads`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Channels along the axis.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Channels that belong together.
    pub fn unit(&self) -> usize {
        self.unit
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.size)
    }
}
