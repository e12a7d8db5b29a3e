//! What an error-compensating solver has to know of the codes: how a group is fitted, and which code is nearest.

use trimtab_io::FloatElement;

use crate::affine::{Affine, Grid, nearest_code, value_of_code};
use crate::range::RangeFinder;

/// The codes of single numbers, for vector loops: no branches, no memory.
pub(crate) trait Coder: Copy + Send + Sync {
    /// Code and value nearest to `x` for a step and a zero.
    fn nearest(self, x: f32, scale: f32, zero: f32) -> (u8, f32);
}

/// Fits groups and names the coder of their elements.
pub(crate) trait ElementQuantizer: Sync {
    /// Codes of single numbers.
    type Coder: Coder;

    /// The coder of every group.
    fn coder(&self) -> Self::Coder;

    /// A step and zero that hold 0 without error.
    fn idle(&self) -> Affine;

    /// Step and zero of a group of a row. `values` are its weights as they are when it is fitted, `power` that of their inputs.
    fn fit(&self, row: usize, group: usize, values: &[f32], power: &[f32]) -> Affine;
}

/// Integers on an affine grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntegerQuantizer<'a> {
    pub(crate) grid: Grid,
    pub(crate) range: &'a RangeFinder,
}

impl ElementQuantizer for IntegerQuantizer<'_> {
    type Coder = IntegerCoder;

    fn coder(&self) -> IntegerCoder {
        IntegerCoder { lowest: f32::from(self.grid.lowest()), highest: f32::from(self.grid.highest()) }
    }

    fn idle(&self) -> Affine {
        self.grid.affine(0.0, 0.0)
    }

    fn fit(&self, _row: usize, _group: usize, values: &[f32], power: &[f32]) -> Affine {
        self.range.fit(values, Some(power), &self.grid)
    }
}

/// The integers in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntegerCoder {
    lowest: f32,
    highest: f32,
}

impl Coder for IntegerCoder {
    #[inline(always)]
    fn nearest(self, x: f32, scale: f32, zero: f32) -> (u8, f32) {
        let code = nearest_code(x, scale, zero, self.lowest, self.highest);
        (code as u8, value_of_code(code, scale, zero))
    }
}

/// Small floats; their zero is not used.
impl Coder for FloatElement {
    #[inline(always)]
    fn nearest(self, x: f32, scale: f32, _zero: f32) -> (u8, f32) {
        let value = self.round(x / scale);
        (self.code_of(value), value * scale)
    }
}
