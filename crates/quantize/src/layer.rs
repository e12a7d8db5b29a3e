//! The problem that every weight solver gets, and what it returns.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_io::{AffineScheme, AffineTensor, Coded, Dtype, RealTensor};
use trimtab_math::linalg::Square;

use crate::affine::{RealZero, ScaleDtype, value_of_code};
use crate::error::{Error, Result, check_finite, check_length};
use crate::scheme::WeightScheme;

/// One linear layer to quantize: its weight and the second moment of its input.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    weight: &'a [f32],
    d_output: usize,
    d_input: usize,
    hessian: Option<&'a Square>,
}

impl<'a> Layer<'a> {
    /// `weight` `[d_output, d_input]`; `hessian`, if known, is `H = Σ w x xᵀ / Σ w` of order `d_input`.
    ///
    /// # Errors
    /// Shapes that do not fit; a weight that is not finite.
    pub fn new(
        weight: &'a [f32],
        d_output: usize,
        d_input: usize,
        hessian: Option<&'a Square>,
    ) -> Result<Layer<'a>> {
        check_length("layer: weight", d_output * d_input, weight.len())?;
        check_finite("layer: weight", weight, d_input)?;
        if let Some(hessian) = hessian {
            check_length("layer: order of the second moment", d_input, hessian.n())?;
        }
        Ok(Layer { weight, d_output, d_input, hessian })
    }

    /// The weight, `[d_output, d_input]`.
    pub fn weight(&self) -> &'a [f32] {
        self.weight
    }

    /// Rows of the weight.
    pub fn d_output(&self) -> usize {
        self.d_output
    }

    /// Columns of the weight.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// The second moment, if known.
    pub fn hessian(&self) -> Option<&'a Square> {
        self.hessian
    }

    /// The second moment, or the error that `method` needs it.
    pub(crate) fn need_hessian(&self, method: &'static str) -> Result<&'a Square> {
        self.hessian.ok_or(Error::MissingHessian { method })
    }

    /// Diagonal of the second moment in single precision.
    pub(crate) fn input_power(&self) -> Option<Vec<f32>> {
        self.hessian.map(|h| h.diagonal().iter().map(|&x| x as f32).collect())
    }
}

/// What a solver did to one layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Name of the method asked for.
    pub method: String,
    /// `tr((W−Q) H (W−Q)ᵀ)` of the result, where the method knows it.
    pub damage: Option<f64>,
    /// The same for round-to-nearest with the same scheme and range finder.
    pub rtn_damage: Option<f64>,
    /// GPTQ's own loss `Σ E² / 2`, damping included.
    pub loss: Option<f64>,
    /// Damping that the factorization needed, relative to the mean of the diagonal.
    pub damping_used: Option<f64>,
    /// Inputs that were always 0; their weights are stored as 0, with real zero points as the number nearest to it.
    pub dead_columns: usize,
    /// The method did worse than round-to-nearest, and the result is round-to-nearest's. Worth a warning.
    pub fell_back: bool,
}

/// A quantized weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Rows of the weight.
    pub d_output: usize,
    /// Columns of the weight.
    pub d_input: usize,
    /// How it is stored.
    pub scheme: WeightScheme,
    /// Unsigned codes, `[d_output, d_input]`, columns in their original order.
    pub codes: Vec<u8>,
    /// Steps, `[d_output, groups]`, values of the scheme's scale dtype.
    pub scales: Vec<f32>,
    /// Unsigned codes of zero, `[d_output, groups]`; all `2^(b−1)` if the scheme is symmetric, none if zeros are real.
    pub zeros: Vec<u8>,
    /// Real zeros, `[d_output, groups]`, values of the scheme's scale dtype, if the scheme has them.
    pub real_zeros: Option<Vec<f32>>,
    /// Group of each column, `[d_input]`, if it is not `column / group_size`.
    pub g_idx: Option<Vec<u32>>,
    /// How it went.
    pub report: LayerReport,
}

impl Quantized {
    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.scheme.groups(self.d_input)
    }

    /// Group of each column, `[d_input]`.
    pub fn group_of_columns(&self) -> Vec<u32> {
        let width = self.scheme.group_width(self.d_input);
        match &self.g_idx {
            Some(g_idx) => g_idx.clone(),
            None => (0..self.d_input).map(|column| (column / width) as u32).collect(),
        }
    }

    /// A weight with real zeros; `parameters` `[d_output, groups]`.
    ///
    /// # Errors
    /// [`Error::Scale`] for a step or a zero that left the range of its type.
    pub(crate) fn with_real_zeros(
        [d_output, d_input]: [usize; 2],
        scheme: &WeightScheme,
        codes: Vec<u8>,
        parameters: &[RealZero],
        report: LayerReport,
    ) -> Result<Quantized> {
        let groups = scheme.groups(d_input);
        let infinite = |found: &RealZero| !found.scale.is_finite() || !found.zero.is_finite();
        if let Some(at) = parameters.iter().position(infinite) {
            return Err(Error::Scale { row: at / groups, group: at % groups, dtype: scheme.scale_dtype });
        }
        let (scales, real): (Vec<f32>, Vec<f32>) =
            parameters.iter().map(|found| (found.scale, found.zero)).unzip();
        let (zeros, real_zeros) = match scheme.symmetric {
            true => (vec![scheme.grid().middle(); scales.len()], None),
            false => (Vec::new(), Some(real)),
        };
        Ok(Quantized {
            d_output,
            d_input,
            scheme: *scheme,
            codes,
            scales,
            zeros,
            real_zeros,
            g_idx: None,
            report,
        })
    }

    /// The rows of several weights of one scheme below each other; columns are in consecutive groups. Damages, which may be of different
    /// inputs, are left out of the report.
    ///
    /// # Errors
    /// Nothing to stack; other columns or schemes; a group index.
    pub(crate) fn stack(parts: Vec<Quantized>) -> Result<Quantized> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().ok_or(Error::Length { what: "stack: parts", expected: 1, found: 0 })?;
        for part in parts {
            check_length("stack: columns", all.d_input, part.d_input)?;
            if all.g_idx.is_some() || part.g_idx.is_some() || all.scheme != part.scheme {
                let found = "a group index, or another scheme".to_string();
                return Err(Error::Setting {
                    what: "stack",
                    expected: "consecutive groups of one scheme",
                    found,
                });
            }
            all.d_output += part.d_output;
            all.codes.extend(part.codes);
            all.scales.extend(part.scales);
            all.zeros.extend(part.zeros);
            if let (Some(zeros), Some(more)) = (&mut all.real_zeros, part.real_zeros) {
                zeros.extend(more);
            }
            let (report, more) = (&mut all.report, part.report);
            (report.damage, report.rtn_damage, report.loss) = (None, None, None);
            let damping = report.damping_used.zip(more.damping_used).map(|(a, b)| a.max(b));
            report.damping_used = damping.or(report.damping_used).or(more.damping_used);
            report.dead_columns += more.dead_columns;
            // Of hundreds of single rows some are always better off with round-to-nearest.
            report.fell_back &= more.fell_back;
        }
        Ok(all)
    }

    /// The weight as it is written to files: packed codes with steps, zeros and group index.
    ///
    /// # Errors
    /// As [`AffineTensor::from_codes`] and [`RealTensor::new`]; none for the result of a solver.
    pub fn pack(&self) -> Result<Coded> {
        let scheme = AffineScheme {
            bits: self.scheme.bits,
            group_size: self.scheme.group_size,
            symmetric: self.scheme.symmetric || self.real_zeros.is_some(),
        };
        let zeros = (!scheme.symmetric).then(|| self.zeros.clone());
        let dtype = match self.scheme.scale_dtype {
            ScaleDtype::F32 => Dtype::F32,
            ScaleDtype::F16 => Dtype::F16,
            ScaleDtype::Bf16 => Dtype::BF16,
        };
        let codes = AffineTensor::from_codes(
            self.d_output,
            self.d_input,
            scheme,
            &self.codes,
            self.scales.clone(),
            zeros,
            self.g_idx.clone(),
            dtype,
        )?;
        Ok(match &self.real_zeros {
            Some(zeros) => Coded::Real(RealTensor::new(codes, zeros.clone())?),
            None => Coded::Affine(codes),
        })
    }

    /// The weight that the codes stand for, `[d_output, d_input]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let group_of = self.group_of_columns();
        let middle = f32::from(self.scheme.grid().middle());
        let mut weight = vec![0.0; self.codes.len()];
        let rows = weight.par_chunks_mut(self.d_input.max(1)).zip(self.codes.par_chunks(self.d_input.max(1)));
        rows.enumerate().for_each(|(row, (out, codes))| {
            let first = row * self.groups();
            for ((out, &code), &group) in out.iter_mut().zip(codes).zip(&group_of) {
                let at = first + group as usize;
                *out = match &self.real_zeros {
                    Some(zeros) => self.scales[at] * (f32::from(code) - middle) + zeros[at],
                    None => value_of_code(f32::from(code), self.scales[at], f32::from(self.zeros[at])),
                };
            }
        });
        weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_numbers_are_checked() {
        let h = Square::identity(3);
        assert!(Layer::new(&[0.0; 6], 2, 3, Some(&h)).is_ok());
        assert!(matches!(Layer::new(&[0.0; 5], 2, 3, None), Err(Error::Length { .. })));
        assert!(matches!(Layer::new(&[0.0; 4], 2, 2, Some(&h)), Err(Error::Length { .. })));
        let bad = [0.0, 0.0, 0.0, 0.0, f32::INFINITY, 0.0];
        assert!(matches!(Layer::new(&bad, 2, 3, None), Err(Error::NotFinite { row: 1, column: 1, .. })));
        let without = Layer::new(&[0.0; 6], 2, 3, None).unwrap();
        assert!(matches!(without.need_hessian("gptq"), Err(Error::MissingHessian { method: "gptq" })));
    }

    #[test]
    fn dequantize_follows_the_group_index() {
        let scheme = WeightScheme { group_size: Some(2), ..WeightScheme::default() };
        let mut quantized = Quantized {
            d_output: 1,
            d_input: 3,
            scheme,
            codes: vec![1, 2, 3],
            scales: vec![0.5, 2.0],
            zeros: vec![1, 0],
            real_zeros: None,
            g_idx: None,
            report: LayerReport::default(),
        };
        assert_eq!(quantized.dequantize(), [0.0, 0.5, 6.0]);
        quantized.g_idx = Some(vec![1, 0, 0]);
        assert_eq!(quantized.dequantize(), [2.0, 0.5, 1.0]);
    }
}
