//! The search for scales.

use std::ops::Range;

use rayon::prelude::*;
use trimtab_io::{FloatElement, FloatScheme, ScaleFormat};

use super::ScaleFinder;
use crate::affine::ScaleDtype;
use crate::error::{Error, Result};
use crate::layer::Layer;

/// A global scale stays so small that scales over it are normal numbers.
const LARGEST_GLOBAL: f32 = 1.0e30;
/// Scales of a float type are tried at these 32nds of the first: from half to half as much again.
const PARTS: Range<i32> = 16..49;
/// E4M3 scales are tried at as many codes to each side: from about two thirds to one and a half times the first.
const NEIGHBOURS: i32 = 5;

/// Finds the scale of one region after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaler {
    pub(crate) scheme: FloatScheme,
    pub(crate) finder: ScaleFinder,
    /// What E4M3 scales are divided by: the largest weight gets the largest scale and the largest code.
    pub(crate) global: Option<f32>,
}

impl Scaler {
    pub(crate) fn new(layer: &Layer, scheme: FloatScheme, finder: ScaleFinder) -> Scaler {
        let global = scheme.scale.has_global().then(|| {
            let range = FloatElement::E4M3.max() * scheme.element.max();
            match absmax(layer.weight()) {
                0.0 => 1.0,
                absmax => (range / absmax).min(LARGEST_GLOBAL),
            }
        });
        Scaler { scheme, finder, global }
    }

    /// What values are divided by for a stored scale.
    pub(crate) fn effective(&self, stored: f32) -> f32 {
        self.global.map_or(stored, |global| stored / global)
    }

    /// The stored scale behind [`Self::effective`]: types are far coarser than its rounding.
    pub(crate) fn stored(&self, effective: f32) -> f32 {
        self.global.map_or(effective, |global| self.scheme.scale.round(effective * global))
    }

    /// The stored scale of a region of rows, each with the power of its inputs; infinite where it overflows its type.
    pub(crate) fn fit(&self, rows: &[&[f32]], power: Option<&[f32]>) -> f32 {
        let absmax = rows.iter().map(|row| absmax(row)).fold(0.0, f32::max);
        let first = self.first(absmax);
        if self.finder == ScaleFinder::AbsMax || absmax == 0.0 || !first.is_finite() {
            return first;
        }
        let power = power.filter(|_| self.finder == ScaleFinder::MseWeighted);
        let error = |stored: f32| {
            let scale = self.effective(stored);
            rows.iter().map(|row| squared_error(row, power, self.scheme.element, scale)).sum::<f64>()
        };
        let (mut best, mut least) = (first, error(first));
        self.candidates(first, |candidate| {
            let found = error(candidate);
            if found < least {
                (best, least) = (candidate, found);
            }
        });
        best
    }

    /// The stored scale that follows from the largest magnitude.
    fn first(&self, absmax: f32) -> f32 {
        let (format, element) = (self.scheme.scale, self.scheme.element);
        match format {
            ScaleFormat::E8M0 => format.round(absmax / 2f32.powi(element.max().log2().floor() as i32)),
            ScaleFormat::E4M3 => {
                let scale = format.round(absmax / element.max() * self.global.unwrap_or(1.0));
                match scale {
                    // As the library has it for groups of zeros.
                    0.0 if absmax == 0.0 => 0.125,
                    0.0 => FloatElement::E4M3.decode(1),
                    scale => scale,
                }
            }
            _ => {
                let scale = format.round(absmax / element.max());
                match (scale, format) {
                    (0.0, _) if absmax > 0.0 => least_positive(format),
                    (0.0, ScaleFormat::F16) => half::f16::EPSILON.to_f32(),
                    (0.0, ScaleFormat::BF16) => half::bf16::EPSILON.to_f32(),
                    (0.0, _) => f32::EPSILON,
                    (scale, _) => scale,
                }
            }
        }
    }

    /// Stored scales around the first.
    fn candidates(&self, first: f32, mut each: impl FnMut(f32)) {
        match self.scheme.scale {
            ScaleFormat::E8M0 => {
                for candidate in [0.5 * first, 2.0 * first] {
                    // The codes end at 2^-127 and 2^127.
                    if self.scheme.scale.round(candidate) == candidate {
                        each(candidate);
                    }
                }
            }
            ScaleFormat::E4M3 => {
                let code = i32::from(FloatElement::E4M3.encode(first));
                let codes = (code - NEIGHBOURS).max(1)..=(code + NEIGHBOURS).min(0x7e);
                codes.filter(|&c| c != code).for_each(|c| each(FloatElement::E4M3.decode(c as u8)));
            }
            format => {
                for part in PARTS {
                    let candidate = format.round(first * part as f32 / 32.0);
                    if candidate > 0.0 && candidate.is_finite() {
                        each(candidate);
                    }
                }
            }
        }
    }
}

fn least_positive(format: ScaleFormat) -> f32 {
    match format {
        ScaleFormat::F16 => half::f16::from_bits(1).to_f32(),
        ScaleFormat::BF16 => half::bf16::from_bits(1).to_f32(),
        _ => f32::MIN_POSITIVE,
    }
}

fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max: f32, x| max.max(x.abs()))
}

/// The stored scales of a whole layer, in the shape of the scheme.
pub(crate) fn find_scales(layer: &Layer, scaler: &Scaler) -> Result<Vec<f32>> {
    let (rows, columns) = (layer.d_output(), layer.d_input());
    let [height, width] = scaler.scheme.extent(rows, columns);
    let [_, across] = scaler.scheme.scale_shape(rows, columns);
    let power = layer.input_power();
    let band = |first: usize| -> Vec<f32> {
        let band = &layer.weight()[first * columns..(first + height).min(rows) * columns];
        let region = |group: usize| {
            let span = group * width..columns.min((group + 1) * width);
            let rows: Vec<&[f32]> = band.chunks(columns.max(1)).map(|row| &row[span.clone()]).collect();
            scaler.fit(&rows, power.as_ref().map(|power| &power[span]))
        };
        (0..across).map(region).collect()
    };
    let bands = scaler.scheme.scale_shape(rows, columns)[0];
    let scales: Vec<f32> = (0..bands).into_par_iter().flat_map_iter(|i| band(i * height)).collect();
    check_scales(&scales, across, scaler.scheme.scale)?;
    Ok(scales)
}

/// Refuses scales that overflowed their type.
pub(crate) fn check_scales(scales: &[f32], across: usize, format: ScaleFormat) -> Result<()> {
    let dtype = match format {
        ScaleFormat::F16 => ScaleDtype::F16,
        ScaleFormat::BF16 => ScaleDtype::Bf16,
        _ => ScaleDtype::F32,
    };
    match scales.iter().position(|scale| !scale.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::Scale { row: at / across.max(1), group: at % across.max(1), dtype }),
    }
}

/// `Σ h (x − x̂)²`.
fn squared_error(values: &[f32], power: Option<&[f32]>, element: FloatElement, scale: f32) -> f64 {
    pulp::Arch::new().dispatch(SquaredError { values, power, element, scale })
}

struct SquaredError<'a> {
    values: &'a [f32],
    power: Option<&'a [f32]>,
    element: FloatElement,
    scale: f32,
}

impl pulp::NullaryFnOnce for SquaredError<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        const LANES: usize = 16;
        let Self { values, power, element, scale } = self;
        let square = |x: f32| {
            let error = x - element.round(x / scale) * scale;
            error * error
        };
        let mut sum = 0.0;
        for (part, values) in values.chunks(LANES).enumerate() {
            let mut squares = [0.0f32; LANES];
            for (out, &x) in squares.iter_mut().zip(values) {
                *out = square(x);
            }
            if let Some(power) = power {
                for (out, &h) in squares.iter_mut().zip(&power[part * LANES..]) {
                    *out *= h;
                }
            }
            sum += squares.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        sum
    }
}
