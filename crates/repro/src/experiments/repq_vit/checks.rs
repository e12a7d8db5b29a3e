//! Exact identities.

use trimtab::floors::io::{ActivationGranularity, ActivationScheme};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::SoftmaxQuantizer;
use trimtab::floors::quantize::repq::{Layerwise, codes_agree};

use crate::experiment::Check;
use crate::experiments::pictures::Cause;

const CHANNELS: usize = 48;
const ROWS: usize = 500;
const OUTPUTS: usize = 8;

pub(super) fn all() -> Result<Vec<Check>, Cause> {
    let mut stream = Stream::new(52, "repq-vit/checks", 0, 0);
    let scheme = ActivationScheme::new(4, ActivationGranularity::Channel);
    let gain: Vec<f64> =
        (0..CHANNELS).map(|d| if d % 9 == 4 { 25.0 } else { 0.5 + stream.uniform() }).collect();
    let bias: Vec<f64> = gain.iter().map(|gain| 0.7 * gain * stream.normal()).collect();
    let steps: Vec<_> = gain
        .iter()
        .zip(&bias)
        .map(|(gain, bias)| scheme.step((bias - 2.5 * gain) as f32, (bias + 2.5 * gain) as f32))
        .collect();
    let weight: Vec<f32> = (0..OUTPUTS * CHANNELS).map(|_| stream.normal() as f32).collect();
    let layerwise = Layerwise::of(&steps);
    let ((new_gain, new_bias), (new_weight, lost)) = (layerwise.norm(&gain, &bias), layerwise.map(&weight));
    let (mut function, mut differ) = (0.0f64, 0usize);
    for _ in 0..ROWS {
        let x: Vec<f64> = (0..CHANNELS).map(|_| stream.normal()).collect();
        let give = |gain: &[f64], bias: &[f64]| -> Vec<f64> {
            x.iter().zip(gain).zip(bias).map(|((x, gain), bias)| x * gain + bias).collect()
        };
        let (before, after) = (give(&gain, &bias), give(&new_gain, &new_bias));
        differ += codes_agree((&before, &steps), (&after, layerwise.step), scheme, 1e-6).0;
        let product = |w: &[f32], x: &[f64]| w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        let maps = weight.chunks(CHANNELS).zip(new_weight.chunks(CHANNELS)).zip(&lost);
        for ((old, new), lost) in maps {
            let size: f64 = old.iter().zip(&before).map(|(&w, x)| (f64::from(w) * x).abs()).sum();
            function = function.max((product(old, &before) - product(new, &after) + lost).abs() / size);
        }
    }
    let relative = |code: &str| -> Result<f64, Cause> {
        let quantizer = SoftmaxQuantizer::new(code.parse()?, 0.8)?;
        let mut worst = 0.0f64;
        for i in 0..20_000 {
            let x = 0.8 * (-f64::from(i) * 0.001).exp2() as f32;
            if let Some(code) = quantizer.encode(x) {
                worst = worst.max((f64::from(quantizer.decode(code)) / f64::from(x) - 1.0).abs());
            }
        }
        Ok(worst)
    };
    let root = SoftmaxQuantizer::new("int4 log-sqrt2".parse()?, 0.37)?;
    let shifts = (0..=root.highest()).map(|q| {
        let odd = f32::from(q % 2);
        let scale = root.scale * 2f32.powi(-i32::from(q.div_ceil(2)));
        f64::from(scale * (1.0 + (std::f32::consts::SQRT_2 - 1.0) * odd) - root.decode(q)).abs()
    });
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check("norm and maps give the same for one step as for a step a channel", function, 1e-5),
        check("codes of one step are those of a step a channel", differ as f64, 0.0),
        check("base root 2: the largest relative error of a weight", relative("int4 log-sqrt2")?, 0.1893),
        check("base 2: the largest relative error of a weight", relative("int4 log2")?, 0.4143),
        check("base root 2: shift and parity are the formula", shifts.fold(0.0, f64::max), 0.0),
    ])
}
