//! The specification, word for word, in double precision: explicit inverse, upper Cholesky factor, column after column. The
//! oracle of this module's tests.

use trimtab_math::linalg::Square;

use super::{ColumnOrder, GptqSettings, GroupFit};
use crate::affine::Affine;
use crate::scheme::WeightScheme;

pub(super) struct Reference {
    pub(super) codes: Vec<u8>,
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<u8>,
    pub(super) g_idx: Vec<u32>,
    /// Distance of `x / s` from the nearest rounding boundary, per code, in the original column order.
    pub(super) margins: Vec<f64>,
    pub(super) loss: f64,
}

pub(super) fn reference(
    weight: &[f32],
    n: usize,
    hessian: &Square,
    scheme: &WeightScheme,
    settings: &GptqSettings,
) -> Reference {
    let rows = weight.len() / n;
    let mut w: Vec<f64> = weight.iter().map(|&x| f64::from(x)).collect();
    let mut h = hessian.as_slice().to_vec();
    let dead: Vec<usize> = (0..n).filter(|&j| h[j * n + j] == 0.0).collect();
    let mean_live = (0..n).map(|j| h[j * n + j]).sum::<f64>() / (n - dead.len()) as f64;
    for &j in &dead {
        h[j * n + j] = mean_live;
        (0..rows).for_each(|row| w[row * n + j] = 0.0);
    }
    let power: Vec<f64> = (0..n).map(|j| h[j * n + j]).collect();
    let mut order: Vec<usize> = (0..n).collect();
    if settings.order == ColumnOrder::DescendingDiagonal {
        order.sort_by(|&i, &j| power[j].partial_cmp(&power[i]).unwrap());
    }
    let original = w.clone();
    let width = scheme.group_width(n);
    let groups = scheme.groups(n);
    let fit = |values: &[f64], power: Vec<f32>| -> Affine {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        settings.range.fit(&values, Some(&power), &scheme.grid())
    };
    let mut parameters = vec![Affine { scale: 1.0, zero: 0 }; rows * groups];
    if settings.groups == GroupFit::Static {
        for row in 0..rows {
            for group in 0..groups {
                let columns = group * width..n.min((group + 1) * width);
                let power = columns.clone().map(|j| power[j] as f32).collect();
                parameters[row * groups + group] = fit(&original[row * n..][columns], power);
            }
        }
    }
    // Permute, damp, invert, factor.
    let mut w: Vec<f64> = (0..rows * n).map(|k| original[k / n * n + order[k % n]]).collect();
    let mut a: Vec<f64> = (0..n * n).map(|k| h[order[k / n] * n + order[k % n]]).collect();
    let mean = power.iter().sum::<f64>() / n as f64;
    (0..n).for_each(|j| a[j * n + j] += settings.damping.first * mean);
    let u = upper_cholesky(&inverse(&a, n), n);

    let mut codes = vec![0u8; rows * n];
    let mut margins = vec![0.0; rows * n];
    let mut g_idx = vec![0u32; n];
    let mut loss = 0.0;
    for j in 0..n {
        let column = order[j];
        let group = match settings.groups {
            GroupFit::Static => column / width,
            GroupFit::Dynamic => j / width,
        };
        g_idx[column] = group as u32;
        for row in 0..rows {
            if settings.groups == GroupFit::Dynamic && j % width == 0 {
                let positions = j..n.min(j + width);
                let power = positions.clone().map(|j| power[order[j]] as f32).collect();
                parameters[row * groups + group] = fit(&w[row * n..][positions], power);
            }
            let affine = parameters[row * groups + group];
            let current = w[row * n + j];
            let code = affine.code(current as f32, &scheme.grid());
            let scaled = current / f64::from(affine.scale);
            margins[row * n + column] = ((scaled - scaled.floor()) - 0.5).abs();
            codes[row * n + column] = code;
            let error = (current - f64::from(affine.decode(code))) / u[j * n + j];
            loss += 0.5 * error * error;
            for k in j..n {
                w[row * n + k] -= error * u[j * n + k];
            }
        }
    }
    let (scales, zeros) = parameters.iter().map(|affine| (affine.scale, affine.zero)).unzip();
    Reference { codes, scales, zeros, g_idx, margins, loss }
}

/// Gauss-Jordan, for positive definite matrices.
fn inverse(a: &[f64], n: usize) -> Vec<f64> {
    let mut left = a.to_vec();
    let mut right = Square::identity(n).into_vec();
    for pivot in 0..n {
        let factor = 1.0 / left[pivot * n + pivot];
        for k in 0..n {
            left[pivot * n + k] *= factor;
            right[pivot * n + k] *= factor;
        }
        for row in (0..n).filter(|&row| row != pivot) {
            let factor = left[row * n + pivot];
            for k in 0..n {
                left[row * n + k] -= factor * left[pivot * n + k];
                right[row * n + k] -= factor * right[pivot * n + k];
            }
        }
    }
    right
}

/// Upper triangular `U` with `A = Uᵀ U`.
fn upper_cholesky(a: &[f64], n: usize) -> Vec<f64> {
    let mut u = vec![0.0; n * n];
    for i in 0..n {
        for j in i..n {
            let dot: f64 = (0..i).map(|k| u[k * n + i] * u[k * n + j]).sum();
            let rest = a[i * n + j] - dot;
            u[i * n + j] = if i == j { rest.sqrt() } else { rest / u[i * n + i] };
        }
    }
    u
}
