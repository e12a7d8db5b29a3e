//! Hessian-aware stochastic bit switching (paper 57): sensitive sites draw high widths more often.

use burn::tensor::{Tensor, TensorData};
use trimtab_math::hutchinson::{Probing, Trace, block_traces};
use trimtab_math::random::Stream;
use trimtab_nn::{Network, SiteMeta, Weight, host};

use super::double_rounding::Sampling;
use crate::error::{Error, Result};
use crate::gradients::Gradients;

/// Indices into `widths`, one for each trace: uniformly, or with probabilities in proportion to the bits where the trace is not
/// below the mean of all.
pub fn draw_widths(widths: &[u8], sampling: Sampling, traces: &[f64], stream: &mut Stream) -> Vec<usize> {
    let mean = traces.iter().sum::<f64>() / traces.len().max(1) as f64;
    let total: f64 = widths.iter().map(|&bits| f64::from(bits)).sum();
    let draw = |&trace: &f64| {
        let u = stream.uniform();
        if sampling == Sampling::Uniform || trace < mean {
            return ((u * widths.len() as f64) as usize).min(widths.len() - 1);
        }
        let mut left = u * total;
        let place = widths.iter().position(|&bits| {
            left -= f64::from(bits);
            left < 0.0
        });
        place.unwrap_or(widths.len() - 1)
    };
    traces.iter().map(draw).collect()
}

/// The Hessian trace of the weight of each of `sites`, by probes of the gradient of `loss`. The network lies on a device with
/// gradients.
///
/// # Errors
/// [`Error::Setting`] for sites that are no parameters, and what the loss meets.
pub fn site_traces(
    network: &Network,
    sites: &[SiteMeta],
    probing: &Probing,
    mut loss: impl FnMut(&Network) -> Result<Tensor<1>>,
) -> Result<Vec<Trace>> {
    let find = |name: &str| network.sites().find(|site| site.name() == name);
    let numbers: Vec<Vec<f32>> = sites
        .iter()
        .map(|meta| find(&meta.name).map(|site| site.to_f32()))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::setting("quantization", "a site of another network"))?;
    let sizes: Vec<usize> = numbers.iter().map(Vec::len).collect();
    let size = |w: &Vec<f32>| {
        let squares = w.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
        (1e-3 * (squares / w.len().max(1) as f64).sqrt()).max(1e-8)
    };
    let steps: Vec<f64> = numbers.iter().map(size).collect();
    block_traces(&sizes, &steps, probing, |offsets| {
        let mut moved = network.clone();
        for ((meta, values), offsets) in sites.iter().zip(&numbers).zip(offsets) {
            let Some((_, site)) = moved.site_mut(&meta.name) else { continue };
            let values: Vec<f32> = values.iter().zip(offsets).map(|(w, o)| w + o).collect();
            let device = match &site.weight {
                Weight::Dense(weight) => weight.val().device(),
                _ => return Err(Error::setting("quantization", "a weight that is no parameter")),
            };
            let tensor = Tensor::from_data(TensorData::new(values, [meta.rows, meta.cols]), &device);
            site.weight = Weight::dense(tensor);
        }
        let gradients = Gradients::collect(&moved, loss(&moved)?.backward(), |_| true, 1);
        let of = |meta: &SiteMeta| {
            let name = meta.weight_name();
            gradients.iter().find(|(path, _)| *path == name).map(|(_, g)| host(g.values.clone()))
        };
        Ok(sites.iter().map(|meta| of(meta).unwrap_or_default()).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sensitive_sites_draw_high_widths_more_often() {
        let widths = [8, 6, 4, 2];
        let traces = [1.0, 2.0, 30.0];
        let mut counts = [[0usize; 4]; 3];
        let n = 20_000;
        for step in 0..n {
            let mut stream = Stream::new(1, "test", step, 0);
            for (site, width) in
                draw_widths(&widths, Sampling::Hasb, &traces, &mut stream).into_iter().enumerate()
            {
                counts[site][width] += 1;
            }
        }
        let shares = counts.map(|of| of.map(|count| count as f64 / n as f64));
        for share in shares[..2].iter().flatten() {
            assert!((share - 0.25).abs() < 0.015, "{shares:?}");
        }
        for (share, bits) in shares[2].iter().zip(widths) {
            assert!((share - f64::from(bits) / 20.0).abs() < 0.015, "{shares:?}");
        }
        let mut stream = Stream::new(1, "test", 0, 0);
        let uniform: Vec<usize> =
            (0..n).map(|_| draw_widths(&widths, Sampling::Uniform, &traces, &mut stream)[2]).collect();
        let high = uniform.iter().filter(|&&width| width == 0).count() as f64 / n as f64;
        assert!((high - 0.25).abs() < 0.015, "the control takes no notice of traces: {high}");
    }
}
