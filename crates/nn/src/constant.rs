//! Input rows that are the same in every call, answered in full precision: MixDQ's rule for the first token of a text.
//!
//! Source: Zhao et al., arXiv:2405.17873. The embedding of the token that begins a text is the same for all texts and an order of
//! magnitude louder than the rest. In the range of quantized activations it leaves all others a few codes. But what a map gives for a
//! row that never changes is a constant: it is computed once, before the map is quantized, and looked up.
//!
//! A row is recognized by its bits, so that it does not matter where in a batch it stands, and a row that differs in one is multiplied as
//! any other. Ranges have to be found without such rows; steps that are found as activations come, for a whole call at once, would still
//! see them.

use burn::tensor::{Device, Tensor, TensorData};

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::site::{Site, SiteKind};
use crate::weight::host;

/// Rows and what a site gives for them.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstantRows {
    /// `[n, in]`.
    rows: Vec<f32>,
    /// `[n, out]`.
    outputs: Vec<f32>,
    /// Width of a row and of an output.
    width: [usize; 2],
}

impl ConstantRows {
    /// What `site` gives for these rows (`[n, in]`) as it now is, without rounding them: to be asked before its weight is quantized.
    ///
    /// # Errors
    /// Rows of another width, numbers that are not finite, and a site that is no linear map.
    pub fn of(site: &Site, rows: &[f32]) -> Result<Self> {
        let meta = site.meta();
        let refuse =
            |why: String| Err(Error::Activation { message: format!("site \"{}\": {why}", meta.name) });
        if meta.kind != SiteKind::Linear {
            return refuse("only linear maps have rows that are always the same".into());
        }
        if !rows.len().is_multiple_of(meta.cols) || rows.iter().any(|x| !x.is_finite()) {
            return refuse(format!("constant rows are finite numbers, {} each", meta.cols));
        }
        let mut plain = site.clone();
        plain.set_activation(None)?;
        plain.set_constant(None)?;
        let x = TensorData::new(rows.to_vec(), [rows.len() / meta.cols, meta.cols]);
        let outputs = host(plain.forward(Tensor::<2>::from_data(x, &Device::flex()), &mut Ctx::default()));
        Ok(Self { rows: rows.to_vec(), outputs, width: [meta.cols, meta.rows] })
    }

    /// Widths of a row and of what is given for it.
    pub fn widths(&self) -> [usize; 2] {
        self.width
    }

    /// Which of the constant rows each row of `x` (`[n, in]`) is.
    pub(crate) fn places(&self, x: &[f32]) -> Vec<Option<usize>> {
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        let [width, _] = self.width;
        x.chunks_exact(width)
            .map(|row| self.rows.chunks_exact(width).position(|own| same(own, row)))
            .collect()
    }

    /// `y` (`[n, out]`) with what is known in its place.
    pub(crate) fn answer(&self, y: Tensor<2>, places: &[Option<usize>]) -> Tensor<2> {
        if places.iter().all(Option::is_none) {
            return y;
        }
        let (dims, device, [_, out]) = (y.dims(), y.device(), self.width);
        let mut values = host(y);
        for (row, place) in values.chunks_exact_mut(out).zip(places) {
            if let Some(i) = place {
                row.copy_from_slice(&self.outputs[i * out..(i + 1) * out]);
            }
        }
        Tensor::from_data(TensorData::new(values, dims), &device)
    }
}

#[cfg(test)]
mod tests {
    use trimtab_io::{ActivationGranularity, ActivationScheme};

    use super::*;
    use crate::activation::ActivationQuantizer;
    use crate::axis::Axis;
    use crate::site::SiteMeta;
    use crate::weight::Weight;

    fn site() -> Site {
        let (rows, cols) = (3, 4);
        let meta = SiteMeta::linear("to_k", rows, cols);
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7 % 11) as f32 - 5.0) / 6.0).collect();
        let weight = Tensor::from_data(TensorData::new(values, [rows, cols]), &Device::flex());
        let bias = Tensor::from_data(TensorData::new(vec![0.1f32, -0.2, 0.3], [rows]), &Device::flex());
        Site::new(meta, Weight::dense(weight), Some(bias)).unwrap()
    }

    fn run(site: &Site, x: &[f32]) -> Vec<f32> {
        let data = TensorData::new(x.to_vec(), [1, x.len() / 4, 4]);
        host(site.forward(Tensor::<3>::from_data(data, &Device::flex()), &mut Ctx::default()))
    }

    #[test]
    fn a_row_that_is_always_the_same_keeps_its_answer_wherever_it_stands() {
        let (plain, loud) = (site(), [30.0f32, -25.0, 40.0, 10.0]);
        let x = [&[0.5, -0.25, 0.1, 0.9], &loud[..], &[-0.3, 0.2, 0.7, -0.6]].concat();
        let exact = run(&plain, &x);
        let mut treated = plain.clone();
        let scheme = ActivationScheme::new(4, ActivationGranularity::Tensor);
        let quantizer = ActivationQuantizer::new(scheme, vec![scheme.step(-1.0, 1.0)]).unwrap();
        treated.set_activation(Some(quantizer)).unwrap();
        treated.set_weight(Weight::dense(Tensor::zeros([3, 4], &Device::flex()))).unwrap();
        let without = run(&treated, &x);
        assert_eq!(without[3..6], [0.1, -0.2, 0.3], "control: the quantized map says something else");
        treated.set_constant(Some(ConstantRows::of(&plain, &loud).unwrap())).unwrap();
        let with = run(&treated, &x);
        // The answer was computed alone: a product of another number of rows may round otherwise.
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs());
        assert!(near(&with[3..6], &exact[3..6]), "{with:?} {exact:?}");
        assert_eq!((&with[..3], &with[6..]), (&without[..3], &without[6..]), "the others are as they were");
        assert_eq!(run(&treated, &loud), with[3..6], "wherever it stands");
        // Control: a row that differs in one bit is another row.
        let mut other = loud;
        other[2] = f32::from_bits(other[2].to_bits() + 1);
        assert_eq!(run(&treated, &other), [0.1, -0.2, 0.3]);
        treated.set_constant(None).unwrap();
        assert_eq!(run(&treated, &x), without);
    }

    #[test]
    fn rows_that_fit_no_site_are_refused() {
        let plain = site();
        assert!(ConstantRows::of(&plain, &[1.0; 5]).is_err());
        assert!(ConstantRows::of(&plain, &[f32::NAN; 4]).is_err());
        let constant = ConstantRows::of(&plain, &[1.0; 4]).unwrap();
        let meta = SiteMeta { cols: 2, input: Axis::new("in", 2), ..plain.meta().clone() };
        let weight = Weight::dense(Tensor::zeros([3, 2], &Device::flex()));
        let mut other = Site::new(meta, weight, None).unwrap();
        assert!(other.set_constant(Some(constant)).is_err());
    }
}
