//! Times GPTQ on an `N x N` weight with correlated inputs: `gptq_bench [N] [BITS] [GROUP] [REPEATS]`.

use std::time::Instant;

use trimtab_math::gram::GramAccumulator;
use trimtab_math::random::Stream;
use trimtab_quantize::gptq::{GptqSettings, gptq};
use trimtab_quantize::layer::Layer;
use trimtab_quantize::rtn::{RtnSettings, rtn};
use trimtab_quantize::scheme::WeightScheme;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let argument = |i: usize, default| arguments.get(i).copied().unwrap_or(default);
    let (n, bits, group, repeats) = (argument(0, 4096), argument(1, 4), argument(2, 128), argument(3, 3));

    let mut stream = Stream::new(0, "bench/gptq", 0, 0);
    let weight: Vec<f32> = (0..n * n).map(|_| stream.normal() as f32 * 0.02).collect();
    let tokens = 512;
    let mut inputs: Vec<f32> = (0..tokens * n).map(|_| stream.normal() as f32).collect();
    for row in inputs.chunks_mut(n) {
        for j in 1..n {
            row[j] += 0.6 * row[j - 1];
        }
    }
    let mut gram = GramAccumulator::new(n);
    let start = Instant::now();
    gram.add(&inputs, None)?;
    println!("second moment of {tokens} tokens: {:.2} s", start.elapsed().as_secs_f64());
    let hessian = gram.mean()?;

    let layer = Layer::new(&weight, n, n, Some(&hessian))?;
    let group_size = (group > 0).then_some(group);
    let scheme = WeightScheme { bits: bits as u8, group_size, ..WeightScheme::default() };
    println!("{n} x {n}, {bits} bits, group {group}, {} threads", rayon::current_num_threads());
    for _ in 0..repeats {
        let start = Instant::now();
        rtn(&layer, &scheme, &RtnSettings::default())?;
        let rtn_seconds = start.elapsed().as_secs_f64();
        let settings = GptqSettings { rtn_check: false, ..GptqSettings::default() };
        let start = Instant::now();
        let alone = gptq(&layer, &scheme, &settings)?;
        let alone_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let checked = gptq(&layer, &scheme, &GptqSettings::default())?;
        let checked_seconds = start.elapsed().as_secs_f64();
        println!(
            "rtn {rtn_seconds:.3} s; gptq {alone_seconds:.3} s; with comparison {checked_seconds:.3} s; damage {:.6e} of {:.6e}",
            alone.report.damage.unwrap_or(f64::NAN),
            checked.report.rtn_damage.unwrap_or(f64::NAN),
        );
    }
    Ok(())
}
