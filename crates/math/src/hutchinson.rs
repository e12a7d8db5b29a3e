//! Traces of the blocks of a Hessian that is known by its gradient alone.
//!
//! Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
//! Communications in Statistics 18, 1989: for signs `v`, the mean of `v^T H v` is the trace. One probe moves the parameters of all
//! blocks at once, each by steps of its own size, so a probe costs two gradients however many blocks there are; what one block
//! adds to another's sum has the mean 0.

use crate::error::{Error, Result};
use crate::random::Stream;
use crate::stats;

/// Settings of [`block_traces`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probing {
    /// Probes at least.
    pub least: usize,
    /// Probes at most.
    pub most: usize,
    /// Ends as soon as every block's standard error is below this share of its trace.
    pub relative_error: f64,
    /// Seed of the signs.
    pub seed: u64,
}

impl Default for Probing {
    fn default() -> Self {
        Self { least: 8, most: 100, relative_error: 0.05, seed: 0 }
    }
}

/// The trace of one block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trace {
    /// Mean over the probes.
    pub trace: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Probes.
    pub probes: usize,
}

/// The trace of each diagonal block of the Hessian of a loss, by central differences of its gradient.
///
/// `steps` has the step of each block's parameters (a thousandth of their root mean square is usual), `sizes` how many there
/// are. `gradient` takes what is added to the parameters of each block, and gives the gradient of each.
///
/// # Errors
/// A step that is not positive, no probe, a gradient of another length, and what `gradient` meets.
pub fn block_traces<E: From<Error>>(
    sizes: &[usize],
    steps: &[f64],
    probing: &Probing,
    mut gradient: impl FnMut(&[Vec<f32>]) -> std::result::Result<Vec<Vec<f32>>, E>,
) -> std::result::Result<Vec<Trace>, E> {
    check(sizes, steps, probing)?;
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); sizes.len()];
    for probe in 0..probing.most {
        let signs = |block: usize, size: usize| -> Vec<f32> {
            let mut stream = Stream::new(probing.seed, "hutchinson", probe as u64, block as u64);
            (0..size).map(|_| if stream.next_u32() & 1 == 0 { 1.0 } else { -1.0 }).collect()
        };
        let signs: Vec<Vec<f32>> =
            sizes.iter().enumerate().map(|(block, &size)| signs(block, size)).collect();
        let moved = |side: f64| -> Vec<Vec<f32>> {
            let block =
                |(signs, step): (&Vec<f32>, &f64)| signs.iter().map(|v| v * (side * step) as f32).collect();
            signs.iter().zip(steps).map(block).collect()
        };
        let (above, below) = (gradient(&moved(1.0))?, gradient(&moved(-1.0))?);
        for (block, signs) in signs.iter().enumerate() {
            let [above, below] = [&above, &below].map(|of| of.get(block).map_or(&[][..], Vec::as_slice));
            for side in [above, below] {
                if side.len() != signs.len() {
                    let what = "hutchinson: gradient of a block";
                    return Err(Error::Length { what, expected: signs.len(), found: side.len() }.into());
                }
            }
            let along: f64 =
                signs.iter().zip(above.iter().zip(below)).map(|(v, (a, b))| f64::from(v * (a - b))).sum();
            // The step that single precision really makes of it.
            found[block].push(along / (2.0 * f64::from(steps[block] as f32)));
        }
        let close =
            |of: &Vec<f64>| stats::standard_error(of) <= probing.relative_error * stats::mean(of).abs();
        if probe + 1 >= probing.least && found.iter().all(close) {
            break;
        }
    }
    let trace = |of: &Vec<f64>| Trace {
        trace: stats::mean(of),
        standard_error: stats::standard_error(of),
        probes: of.len(),
    };
    Ok(found.iter().map(trace).collect())
}

fn check(sizes: &[usize], steps: &[f64], probing: &Probing) -> Result<()> {
    if sizes.len() != steps.len() {
        return Err(Error::Length { what: "hutchinson: steps", expected: sizes.len(), found: steps.len() });
    }
    if let Some(&value) = steps.iter().find(|&&step| !(step > 0.0 && step.is_finite())) {
        return Err(Error::Setting { what: "hutchinson: step", expected: "a positive number", value });
    }
    if probing.most < 2 {
        let value = probing.most as f64;
        return Err(Error::Setting { what: "hutchinson: most probes", expected: "at least 2", value });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix of order 12, blocks of 5 and 7, that ties them.
    fn matrix() -> Vec<f64> {
        let entry =
            |i: usize, j: usize| if i == j { 1.0 + i as f64 } else { ((i * j) as f64 * 0.7).sin() * 0.4 };
        (0..144).map(|k| entry(k / 12, k % 12)).collect()
    }

    /// Gradient of `x^T A x / 2 + sum x^4` at 0.3 plus an offset.
    fn gradient(offsets: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let a = matrix();
        let x: Vec<f64> = offsets.iter().flatten().map(|&o| 0.3 + f64::from(o)).collect();
        let row = |i: usize| (0..12).map(|j| a[12 * i + j] * x[j]).sum::<f64>() + 4.0 * x[i].powi(3);
        let all: Vec<f32> = (0..12).map(|i| row(i) as f32).collect();
        Ok(vec![all[..5].to_vec(), all[5..].to_vec()])
    }

    #[test]
    fn traces_are_those_of_the_hessian_within_their_errors() {
        let probing = Probing { least: 400, most: 400, ..Probing::default() };
        let found = block_traces(&[5, 7], &[1e-2, 2e-2], &probing, gradient).unwrap();
        // The quartic adds 12 x^2 = 1.08 to each entry of the diagonal.
        let exact = [(1.0 + 5.0) / 2.0 * 5.0 + 5.0 * 1.08, (6.0 + 12.0) / 2.0 * 7.0 + 7.0 * 1.08];
        for (found, exact) in found.iter().zip(exact) {
            assert!((found.trace - exact).abs() < 3.0 * found.standard_error, "{found:?} {exact}");
            assert!(found.standard_error < 0.05 * exact && found.probes == 400);
        }
        // The control: the other block's trace is not within the errors.
        assert!((found[0].trace - exact[1]).abs() > 3.0 * found[0].standard_error);
    }

    #[test]
    fn a_diagonal_needs_no_more_than_the_least_probes() {
        let diagonal = |offsets: &[Vec<f32>]| -> Result<Vec<Vec<f32>>> {
            Ok(vec![offsets[0].iter().enumerate().map(|(i, o)| (i as f32 + 1.0) * o).collect()])
        };
        let found = block_traces(&[4], &[0.5], &Probing::default(), diagonal).unwrap();
        assert_eq!(found, [Trace { trace: 10.0, standard_error: 0.0, probes: 8 }]);
    }

    #[test]
    fn senseless_settings_are_refused() {
        let none = |_: &[Vec<f32>]| -> Result<Vec<Vec<f32>>> { Ok(vec![]) };
        let message =
            |steps: &[f64]| block_traces(&[1], steps, &Probing::default(), none).unwrap_err().to_string();
        assert!(message(&[0.0]).contains("step") && message(&[]).contains("steps"));
        assert!(message(&[1.0]).contains("gradient of a block"));
        let one = Probing { most: 1, ..Probing::default() };
        assert!(block_traces(&[1], &[1.0], &one, none).is_err());
    }
}
