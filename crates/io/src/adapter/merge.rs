//! Low-rank changes of one weight.

/// A change of rank `rank` of one weight: `s B A`, for DoRA with the length of each output.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[rank, d_input]`; the input of a convolution is its patch.
    pub a: Vec<f32>,
    /// `[d_output, rank]`.
    pub b: Vec<f32>,
    /// Inner dimension.
    pub rank: usize,
    /// Inputs of the weight.
    pub d_input: usize,
    /// Outputs of the weight.
    pub d_output: usize,
    /// The factor `s`.
    pub scale: f32,
    /// DoRA: trained length of the weights of each output.
    pub magnitude: Option<Vec<f32>>,
    /// Added, times `scale`, to the bias of the module.
    pub bias: Option<Vec<f32>>,
    /// Whether a square weight lies `[d_input, d_output]`; other shapes tell it themselves.
    pub transposed: bool,
}

impl LowRank {
    /// `s B A`, `[d_output, d_input]`.
    pub fn product(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.d_output * self.d_input];
        if out.is_empty() {
            return out;
        }
        for (row, factors) in out.chunks_exact_mut(self.d_input).zip(self.b.chunks_exact(self.rank)) {
            for (&factor, inputs) in factors.iter().zip(self.a.chunks_exact(self.d_input)) {
                row.iter_mut().zip(inputs).for_each(|(sum, &input)| *sum += factor * input);
            }
            row.iter_mut().for_each(|value| *value *= self.scale);
        }
        out
    }

    /// The weight with the change in it; an error says what does not fit.
    pub(super) fn merge(&self, base: &[f32], dims: &[usize]) -> Result<Vec<f32>, String> {
        let (d_output, d_input) = (self.d_output, self.d_input);
        let numel = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        if numel != Some(base.len()) {
            return Err(format!("shape {dims:?} is not that of {} numbers", base.len()));
        }
        let straight = dims.first() == Some(&d_output) && base.len() == d_output * d_input;
        let turned = *dims == [d_input, d_output];
        // Of a square matrix only the settings know.
        let turned = match (straight, turned) {
            (true, true) => self.transposed,
            (false, false) => {
                return Err(format!(
                    "the adapter is for {d_output} outputs and {d_input} inputs, the weight is {dims:?}"
                ));
            }
            (_, turned) => turned,
        };
        let mut out = self.product();
        let at = |o: usize, i: usize| if turned { i * d_output + o } else { o * d_input + i };
        for o in 0..d_output {
            let row = &mut out[o * d_input..(o + 1) * d_input];
            row.iter_mut().enumerate().for_each(|(i, value)| *value += base[at(o, i)]);
            if let Some(magnitude) = &self.magnitude {
                let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
                let factor = magnitude[o] / norm;
                if !factor.is_finite() {
                    return Err(format!(
                        "output {o} has the length {norm} and the magnitude {}",
                        magnitude[o]
                    ));
                }
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
        if !turned {
            return Ok(out);
        }
        let mut back = vec![0.0; out.len()];
        for o in 0..d_output {
            for i in 0..d_input {
                back[i * d_output + o] = out[o * d_input + i];
            }
        }
        Ok(back)
    }

    /// A bias with the change in it.
    pub(crate) fn merge_bias(&self, mut base: Vec<f32>) -> Result<Vec<f32>, String> {
        let Some(bias) = &self.bias else { return Ok(base) };
        if base.len() != bias.len() {
            return Err(format!("the adapter changes {} biases, the model has {}", bias.len(), base.len()));
        }
        base.iter_mut().zip(bias).for_each(|(base, &bias)| *base += self.scale * bias);
        Ok(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rank 1 on two outputs and three inputs: `s B A = 2 [1, 10]ᵀ [1, 2, 3]`.
    fn change() -> LowRank {
        LowRank {
            a: vec![1.0, 2.0, 3.0],
            b: vec![1.0, 10.0],
            rank: 1,
            d_input: 3,
            d_output: 2,
            scale: 2.0,
            magnitude: None,
            bias: Some(vec![1.0, -1.0]),
            transposed: false,
        }
    }

    #[test]
    fn by_hand() {
        let lora = change();
        assert_eq!(lora.product(), [2.0, 4.0, 6.0, 20.0, 40.0, 60.0]);
        assert_eq!(lora.merge(&[1.0; 6], &[2, 3]).unwrap(), [3.0, 5.0, 7.0, 21.0, 41.0, 61.0]);
        assert_eq!(lora.merge(&[1.0; 6], &[2, 3, 1, 1]).unwrap(), [3.0, 5.0, 7.0, 21.0, 41.0, 61.0]);
        assert_eq!(lora.merge(&[1.0; 6], &[3, 2]).unwrap(), [3.0, 21.0, 5.0, 41.0, 7.0, 61.0]);
        assert_eq!(lora.merge_bias(vec![0.5, 0.5]).unwrap(), [2.5, -1.5]);
        // Rows [3, 4, 0] and [0, 0, 2] of lengths 5 and 2 get the lengths 10 and 1.
        let dora = LowRank { b: vec![0.0; 2], magnitude: Some(vec![10.0, 1.0]), ..change() };
        assert_eq!(
            dora.merge(&[3.0, 4.0, 0.0, 0.0, 0.0, 2.0], &[2, 3]).unwrap(),
            [6.0, 8.0, 0.0, 0.0, 0.0, 1.0]
        );
    }

    #[test]
    fn a_square_weight_lies_as_the_settings_say() {
        let square = |transposed| LowRank {
            a: vec![1.0, 0.0],
            b: vec![0.0, 1.0],
            rank: 1,
            d_input: 2,
            d_output: 2,
            scale: 1.0,
            magnitude: None,
            bias: None,
            transposed,
        };
        assert_eq!(square(false).merge(&[0.0; 4], &[2, 2]).unwrap(), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(square(true).merge(&[0.0; 4], &[2, 2]).unwrap(), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let lora = change();
        assert!(
            lora.merge(&[0.0; 8], &[2, 4])
                .unwrap_err()
                .contains("2 outputs and 3 inputs, the weight is [2, 4]")
        );
        assert!(lora.merge(&[0.0; 6], &[2, 4]).unwrap_err().contains("not that of 6 numbers"));
        assert!(lora.merge_bias(vec![0.0; 3]).unwrap_err().contains("2 biases, the model has 3"));
        let dora = LowRank { b: vec![0.0; 2], magnitude: Some(vec![1.0, 1.0]), ..change() };
        assert!(dora.merge(&[0.0; 6], &[2, 3]).unwrap_err().contains("output 0 has the length 0"));
    }
}
