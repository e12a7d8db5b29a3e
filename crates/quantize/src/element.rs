//! What an error-compensating solver has to know of the codes: how a group is fitted, and which code is nearest.

use trimtab_io::FloatElement;

use crate::affine::{Affine, Grid, RealZero, nearest_code, nearest_signed, value_of_code};
use crate::range::RangeFinder;

/// The codes of single numbers, for vector loops: no branches, no memory.
pub(crate) trait Coder: Copy + Send + Sync {
    /// Code and value nearest to `x` for a step and a zero.
    fn nearest(self, x: f32, scale: f32, zero: f32) -> (u8, f32);
}

/// What a group is coded with: a step and a zero, whatever the coder makes of them.
pub(crate) trait Parameters: Copy + Send + Sync {
    /// The step.
    fn scale(&self) -> f32;

    /// The zero as the coder takes it.
    fn zero(&self) -> f32;
}

impl Parameters for Affine {
    fn scale(&self) -> f32 {
        self.scale
    }

    fn zero(&self) -> f32 {
        f32::from(self.zero)
    }
}

impl Parameters for RealZero {
    fn scale(&self) -> f32 {
        self.scale
    }

    fn zero(&self) -> f32 {
        self.zero
    }
}

/// Fits groups and names the coder of their elements.
pub(crate) trait ElementQuantizer: Sync {
    /// Codes of single numbers.
    type Coder: Coder;
    /// What it fits.
    type Parameters: Parameters;

    /// The coder of every group.
    fn coder(&self) -> Self::Coder;

    /// A step and zero that hold 0 without error.
    fn idle(&self) -> Self::Parameters;

    /// Step and zero of a group of a row. `values` are its weights as they are when it is fitted, `power` that of their inputs.
    fn fit(&self, row: usize, group: usize, values: &[f32], power: &[f32]) -> Self::Parameters;
}

/// Integers on an affine grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntegerQuantizer<'a> {
    pub(crate) grid: Grid,
    pub(crate) range: &'a RangeFinder,
}

impl ElementQuantizer for IntegerQuantizer<'_> {
    type Coder = IntegerCoder;
    type Parameters = Affine;

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

/// Integers with a real zero: fitted on the way, or found beforehand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealQuantizer<'a> {
    pub(crate) grid: Grid,
    pub(crate) source: RealSource<'a>,
}

/// Where steps and real zeros come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RealSource<'a> {
    /// A range finder.
    Range(&'a RangeFinder),
    /// Fixed ones, `[rows, groups]`.
    Fixed { parameters: &'a [RealZero], groups: usize },
}

impl ElementQuantizer for RealQuantizer<'_> {
    type Coder = RealCoder;
    type Parameters = RealZero;

    fn coder(&self) -> RealCoder {
        let middle = f32::from(self.grid.middle());
        let (lowest, highest) = (f32::from(self.grid.lowest()), f32::from(self.grid.highest()));
        RealCoder { lowest: lowest - middle, highest: highest - middle, middle }
    }

    fn idle(&self) -> RealZero {
        RealZero { scale: 1.0, zero: 0.0 }
    }

    fn fit(&self, row: usize, group: usize, values: &[f32], power: &[f32]) -> RealZero {
        match self.source {
            RealSource::Range(range) => range.fit_real(values, Some(power), &self.grid),
            RealSource::Fixed { parameters, groups } => parameters[row * groups + group],
        }
    }
}

/// The integers in use, around the middle one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealCoder {
    lowest: f32,
    highest: f32,
    middle: f32,
}

impl Coder for RealCoder {
    #[inline(always)]
    fn nearest(self, x: f32, scale: f32, zero: f32) -> (u8, f32) {
        let v = nearest_signed(x, scale, zero, self.lowest, self.highest);
        ((v + self.middle) as u8, scale * v + zero)
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
