//! What two roundings must be.

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::host;
use trimtab::floors::nn::straight_through::{clip, floor, round};
use trimtab::floors::train::quantized::{alrs_factor, eta, switch_code};

use crate::experiment::Check;

/// Weights in units of the step, about as they are trained: few beyond the codes.
fn weights(n: usize) -> Vec<f32> {
    let mut stream = Stream::new(3, "double rounding", 0, 0);
    (0..n).map(|_| 45.0 * stream.normal() as f32).collect()
}

/// Numbers as training sees them, in steps, beside those of the integers.
fn apart(values: &[f32], bits: u8) -> f64 {
    let (parts, high) = ((1u32 << (8 - bits)) as f32, ((1 << (bits - 1)) - 1) as f32);
    let x = Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &Device::flex());
    let code = round(clip(x, -128.0, 127.0));
    let up = if bits < 8 { 0.5 } else { 0.0 };
    let seen = host(clip(floor(code / parts + up), -high - 1.0, high) * parts);
    let integer =
        |v: &f32| f32::from(switch_code(v.clamp(-128.0, 127.0).round_ties_even() as i8, 8, bits)) * parts;
    values.iter().zip(seen).map(|(v, seen)| f64::from((integer(v) - seen).abs())).fold(0.0, f64::max)
}

/// How far errors go beyond `D/2 + 1/2` steps between the outermost codes.
fn beyond(values: &[f32], bits: u8) -> f64 {
    let (parts, high) = (f64::from(1u32 << (8 - bits)), f64::from((1 << (bits - 1)) - 1));
    let inside =
        values.iter().map(|v| f64::from(*v)).filter(|v| *v > (-high - 1.0) * parts && *v < high * parts);
    inside
        .map(|v| {
            let code = switch_code(v.clamp(-128.0, 127.0).round_ties_even() as i8, 8, bits);
            (f64::from(code) * parts - v).abs() - (parts / 2.0 + 0.5)
        })
        .fold(0.0, f64::max)
}

/// Mean errors in steps over all codes of one period: of the shift, of truncation.
fn means(bits: u8) -> [f64; 2] {
    let parts = 1i32 << (8 - bits);
    let codes = || (-parts / 2..parts / 2).map(|code| (code, code as i8));
    let mean = |sum: i32| f64::from(sum) / f64::from(parts);
    let shifted = codes().map(|(c, code)| i32::from(switch_code(code, 8, bits)) * parts - c).sum();
    let dropped = codes().map(|(c, _)| (c >> (8 - bits)) * parts - c).sum();
    [mean(shifted), mean(dropped)]
}

pub(super) fn checks() -> Vec<Check> {
    let values = weights(20_000);
    let all = |f: &dyn Fn(u8) -> f64| [8, 6, 4, 2].map(f).into_iter().fold(0.0, f64::max);
    let small: [&[f32]; 2] = [&[0.02, -0.01], &[0.04]];
    let rate = alrs_factor(4, 0.1, small) * 0.1 - 0.01 * (0.1 - 0.03);
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    vec![
        check(
            "integers are the numbers of training, in steps, at 8, 6, 4 and 2 bits",
            all(&|bits| apart(&values, bits)),
            0.0,
        ),
        check("no error beyond half a part and half a step", all(&|bits| beyond(&values, bits)), 1e-5),
        check(
            "the shift errs by half a step on average: halves go up",
            [6, 4, 2].map(|bits| (means(bits)[0] - 0.5).abs()).into_iter().fold(0.0, f64::max),
            0.0,
        ),
        check(
            "truncation errs by (D - 1) / 2 steps on average",
            [6, 4, 2]
                .map(|bits| (means(bits)[1] + (f64::from(1u32 << (8 - bits)) - 1.0) / 2.0).abs())
                .into_iter()
                .fold(0.0, f64::max),
            0.0,
        ),
        check(
            "shares of the rate are 1, 0.1, 0.01, 0.001",
            [0, 2, 4, 6]
                .iter()
                .zip([1.0, 0.1, 0.01, 1e-3])
                .map(|(d, e)| (eta(*d) - e).abs())
                .fold(0.0, f64::max),
            1e-15,
        ),
        check("a rate of 0.1 at a mean largest gradient of 0.03 and 4 bits less is 0.0007", rate.abs(), 1e-9),
    ]
}
