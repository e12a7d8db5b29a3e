//! Measuring the kernels on this machine.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use trimtab_io::Checkpoint;
use trimtab_math::gram::GramAccumulator;
use trimtab_math::linalg::{Metric, Path as LowRankPath, Sketch, Square, low_rank, metric_norm};
use trimtab_math::random::Stream;
use trimtab_nn::kernels::bench::{self, Precision, Setting};
use trimtab_quantize::affine::ScaleDtype;
use trimtab_quantize::decoupleq::{DecoupleqSettings, decoupleq};
use trimtab_quantize::gptq::{GptqSettings, gptq};
use trimtab_quantize::layer::Layer;
use trimtab_quantize::scheme::WeightScheme;

use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Names of the measurements.
pub const KERNELS: [&str; 7] = ["memory", "packed", "integers", "dense", "gptq", "eora", "decoupleq"];

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// What was measured.
    pub name: String,
    /// On what.
    pub shape: String,
    /// Median.
    pub seconds: f64,
    /// Bytes of weights read a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// Floating-point operations a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    /// Of a low-rank branch: the squared output error that it leaves, in parts of that without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_left: Option<f64>,
}

/// Runs the measurements called `names`. `problem` is a file with the tensors `error` `[out, in]` and `moment` `[in, in]` that the
/// low-rank branch is found for instead of for a random one, so that another program can be measured on the same.
pub fn run(
    names: &[&str],
    threads: usize,
    problem: Option<&Path>,
    monitor: &mut dyn Monitor,
) -> Result<Vec<Measured>> {
    monitor.begin("measuring", names.len());
    let mut found = Vec::new();
    for (i, &name) in names.iter().enumerate() {
        match name {
            "memory" => found.push(memory(threads)?),
            "packed" => found.extend(packed(threads)?),
            "integers" => found.extend(integers(threads)?),
            "dense" => found.extend(dense(threads)?),
            "gptq" => found.push(gptq_of_one_site()?),
            "eora" => found.extend(branch(problem)?),
            _ => found.push(decoupleq_of_one_site()?),
        }
        monitor.advance(i + 1, name);
    }
    Ok(found)
}

fn failed(message: impl ToString) -> Error {
    Error::Data { what: "bench".into(), message: message.to_string() }
}

fn memory(threads: usize) -> Result<Measured> {
    let gb_per_s = bench::memory_bandwidth(threads_or_all(threads)).map_err(failed)?;
    let (name, shape) = ("memory read".into(), "out of cache".into());
    Ok(Measured {
        name,
        shape,
        seconds: 1.0 / gb_per_s,
        gb_per_s: Some(gb_per_s),
        gflops: None,
        error_left: None,
    })
}

/// 0 stands for one thread a core.
fn threads_or_all(threads: usize) -> usize {
    if threads == 0 { rayon::current_num_threads() } else { threads }
}

fn setting(threads: usize, n: usize) -> Setting {
    Setting { n, rows: 2048, cols: 5632, matrices: 48, rounds: 5, threads: threads_or_all(threads) }
}

fn packed(threads: usize) -> Result<Vec<Measured>> {
    let shapes = [(4, 1), (8, 1), (4, 16), (4, 256)];
    let one = |(bits, n)| Ok(of(bench::packed(setting(threads, n), bits, 128).map_err(failed)?));
    shapes.into_iter().map(one).collect()
}

/// Rows of 8-bit codes with codes that have one scale a row; the float product beside them.
fn integers(threads: usize) -> Result<Vec<Measured>> {
    let mut found = Vec::new();
    for n in [1, 16, 256] {
        let setting = setting(threads, n);
        for bits in [8, 4] {
            found.push(of(bench::integers(setting, bits).map_err(failed)?));
        }
        found.push(of(bench::packed(setting, 8, setting.cols).map_err(failed)?));
    }
    Ok(found)
}

fn dense(threads: usize) -> Result<Vec<Measured>> {
    let shapes = [(Precision::F32, 1), (Precision::Bf16, 1), (Precision::F32, 256)];
    let one = |(precision, n)| Ok(of(bench::dense(setting(threads, n), precision).map_err(failed)?));
    shapes.into_iter().map(one).collect()
}

fn of(m: bench::Measurement) -> Measured {
    let [n, rows, cols] = m.shape;
    let shape = format!("{n} x {rows} x {cols}");
    let (gb_per_s, gflops) = (Some(m.gb_per_s), Some(m.gflops));
    Measured { name: m.name, shape, seconds: m.seconds, gb_per_s, gflops, error_left: None }
}

/// A Gaussian weight `[n, n]` and the second moment of twice as many Gaussian inputs.
fn site(n: usize) -> Result<(Vec<f32>, Square)> {
    let normals = |purpose: &str, count: usize| -> Vec<f32> {
        let mut stream = Stream::new(0, purpose, 0, 0);
        (0..count).map(|_| stream.normal() as f32).collect()
    };
    let weight = normals("bench.weight", n * n).into_iter().map(|w| 0.02 * w).collect();
    let mut sums = GramAccumulator::new(n);
    sums.add(&normals("bench.input", 2 * n * n), None).map_err(failed)?;
    Ok((weight, sums.mean().map_err(failed)?))
}

/// The median of three runs.
fn median(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut time = || -> Result<f64> {
        let begun = Instant::now();
        run()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let mut seconds = [time()?, time()?, time()?];
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[1])
}

/// GPTQ on one 4096 x 4096 site, 4 bits, groups of 128, the second moment given.
fn gptq_of_one_site() -> Result<Measured> {
    const N: usize = 4096;
    let (weight, h) = site(N)?;
    let layer = Layer::new(&weight, N, N, Some(&h))?;
    let settings = GptqSettings { rtn_check: false, ..GptqSettings::default() };
    let seconds =
        median(|| gptq(&layer, &WeightScheme::default(), &settings).map(drop).map_err(Error::from))?;
    // Cholesky of the second moment and the update of the weights, multiply-adds counted as two.
    let operations = (N as f64).powi(3) / 3.0 + (N as f64).powi(3);
    let (name, shape) = ("gptq int4 g128".into(), format!("{N} x {N}"));
    let gflops = Some(operations / seconds / 1e9);
    Ok(Measured { name, shape, seconds, gb_per_s: None, gflops, error_left: None })
}

/// decoupleQ on one 2048 x 2048 site, 2 bits, a step and a real zero a row, the second moment given.
fn decoupleq_of_one_site() -> Result<Measured> {
    const N: usize = 2048;
    let (weight, h) = site(N)?;
    let layer = Layer::new(&weight, N, N, Some(&h))?;
    let (group_size, real_zero, scale_dtype) = (None, true, ScaleDtype::F32);
    let scheme = WeightScheme { bits: 2, group_size, real_zero, scale_dtype, ..WeightScheme::default() };
    let settings = DecoupleqSettings::default();
    let seconds = median(|| decoupleq(&layer, &scheme, &settings).map(drop).map_err(Error::from))?;
    let (name, shape) = ("decoupleq int2 row real".into(), format!("{N} x {N}"));
    Ok(Measured { name, shape, seconds, gb_per_s: None, gflops: None, error_left: None })
}

/// The branch of rank 128 of one 2048 x 2048 site, by a full decomposition and by the randomized path, error and second moment
/// given.
fn branch(problem: Option<&Path>) -> Result<Vec<Measured>> {
    const RANK: usize = 128;
    let (error, h) = match problem {
        Some(path) => read_problem(path)?,
        None => drawn_problem()?,
    };
    let (n, right) = (h.n(), Metric::Full(&h));
    let rows = error.len() / n.max(1);
    let total = metric_norm(&error, rows, None, right).map_err(failed)?;
    let mut found = Vec::new();
    let paths = [("exact", LowRankPath::Exact), ("fast", LowRankPath::Randomized(Sketch::default()))];
    for (name, path) in paths {
        let mut seconds = Vec::new();
        let mut left = 0.0;
        for _ in 0..3 {
            let begun = Instant::now();
            let branch = low_rank(&error, rows, None, right, RANK, path).map_err(failed)?;
            seconds.push(begun.elapsed().as_secs_f64());
            left = branch.residual(total, RANK) / total;
        }
        seconds.sort_by(f64::total_cmp);
        found.push(Measured {
            name: format!("eora rank {RANK}, {name}"),
            shape: format!("{rows} x {n}"),
            seconds: seconds[1],
            gb_per_s: None,
            gflops: None,
            error_left: Some(left),
        });
    }
    Ok(found)
}

/// A white error and the second moment of inputs that share directions.
fn drawn_problem() -> Result<(Vec<f64>, Square)> {
    const N: usize = 2048;
    let mut stream = Stream::new(0, "bench.branch", 0, 0);
    let error = (0..N * N).map(|_| 0.01 * stream.normal()).collect();
    let mut x = vec![0.0f32; 2 * N * N];
    for row in x.chunks_mut(N) {
        let mut before = 0.0;
        for value in row.iter_mut() {
            before = 0.8 * before + stream.normal();
            *value = before as f32;
        }
    }
    let mut sums = GramAccumulator::new(N);
    sums.add(&x, None).map_err(failed)?;
    Ok((error, sums.mean().map_err(failed)?))
}

fn read_problem(path: &Path) -> Result<(Vec<f64>, Square)> {
    let file = Checkpoint::open(path)?;
    let numbers = |name: &str| -> Result<(Vec<usize>, Vec<f64>)> {
        let tensor = file.tensor(name)?;
        let values = tensor.to_f32()?.into_iter().map(f64::from).collect();
        Ok((tensor.shape, values))
    };
    let ((shape, error), (square, moment)) = (numbers("error")?, numbers("moment")?);
    match (shape.as_slice(), square.as_slice()) {
        ([_, cols], [n, m]) if n == m && cols == n => Ok((error, Square::new(*n, moment).map_err(failed)?)),
        _ => Err(failed(format!(
            "expected error [out, in] and moment [in, in], found {shape:?} and {square:?}"
        ))),
    }
}
