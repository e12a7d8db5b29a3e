//! Exact identities.

use trimtab::floors::io::{Dtype, NormalFloatScheme, NormalFloatTensor};
use trimtab::floors::math::random::Stream;
use trimtab::floors::mend::eora::{Evidence, Variant};
use trimtab::floors::mend::lq::{LqSettings, lq};

use crate::experiment::Check;
use crate::experiments::wikilm::Attempt;

const ROWS: usize = 32;
const COLS: usize = 48;

/// The published table of NF4.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// All of them.
pub fn all() -> Attempt<Vec<Check>> {
    let mut stream = Stream::new(25, "lq-lora/identities", 0, 0);
    let weight: Vec<f32> = (0..ROWS * COLS).map(|_| stream.normal() as f32).collect();
    let scheme = NormalFloatScheme { block: 16, ..NormalFloatScheme::new(2) };
    let coded = |weight: &[f32]| -> Result<(NormalFloatTensor, Vec<f32>), trimtab::floors::mend::Error> {
        let matrix = NormalFloatTensor::encode(weight, ROWS, COLS, scheme)?;
        let values = matrix.dequantize();
        Ok((matrix, values))
    };
    let run = |rank: usize, fisher: Option<&[f32]>| {
        let variant = if fisher.is_some() { Variant::Fisher } else { Variant::Svd };
        let settings = LqSettings { variant, ..LqSettings::default() };
        let evidence = Evidence { fisher, second_moment: None };
        lq(&weight, ROWS, evidence, (rank, Dtype::F32), &settings, coded(&weight)?, coded)
    };
    let left = |found: &trimtab::floors::mend::lq::Split<NormalFloatTensor>| -> Attempt<f64> {
        let mut together = found.changed.dequantize();
        if let Some(branch) = &found.branch {
            branch.merge_into(&mut together)?;
        }
        Ok(weight.iter().zip(&together).map(|(w, q)| (f64::from(*w) - f64::from(*q)).powi(2)).sum())
    };
    let table = NormalFloatScheme::new(4).table();
    let far = table.iter().zip(NF4).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let bits = |scheme: NormalFloatScheme| {
        (8.0 * scheme.bytes(2048, 2048) as f64 / f64::from(1 << 22) - scheme.bits_per_weight()).abs()
    };
    let bytes = NormalFloatScheme::all().map(bits).fold(0.0, f64::max);
    let some = run(4, None)?;
    let measured = left(&some)?;
    let none = run(0, None)?.error;
    let alike = vec![1.0; ROWS * COLS];
    let even = run(4, Some(&alike))?;
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check("the table of four bits is that of NF4", far, 1e-6),
        check("bytes of 432 configurations are the bits of the formula, tensor by tensor", bytes, 1e-3),
        check(
            "the error that is returned is that of codes and branch together",
            (measured / some.error - 1.0).abs(),
            1e-9,
        ),
        check("a branch of full rank leaves nothing", run(ROWS, None)?.error / none, 1e-9),
        check(
            "Fisher information that is everywhere the same changes nothing",
            (even.error / some.error - 1.0).abs(),
            1e-6,
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hold() {
        for check in all().unwrap() {
            assert!(check.holds(), "{check:?}");
        }
    }
}
