//! Times the kernels on matrices that come from memory, beside the read bandwidth measured in the same run.
//!
//! `cargo run --release -p trimtab-nn --example kernels -- [THREADS]`
#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;

use trimtab_nn::kernels::bench::{
    Measurement, Precision, Setting, dense, integers, memory_bandwidth, packed,
};

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |threads| threads.parse())?;
    let one_row = Setting { n: 1, rows: 2048, cols: 5632, matrices: 60, rounds: 7, threads };
    println!("memory: {:.1} GB/s on {threads} threads", memory_bandwidth(threads)?);
    show(&dense(one_row, Precision::F32)?);
    show(&dense(one_row, Precision::Bf16)?);
    for (bits, group_size) in [(8, 128), (6, 128), (5, 64), (4, 128), (4, 32), (4, 5632), (3, 128), (2, 128)]
    {
        show(&packed(one_row, bits, group_size)?);
    }
    for bits in [8, 4] {
        show(&integers(one_row, bits)?);
    }
    for n in [4, 16, 256] {
        let setting = Setting { n, matrices: 10, rounds: 3, ..one_row };
        show(&dense(setting, Precision::Bf16)?);
        show(&packed(setting, 8, 5632)?);
        show(&integers(setting, 8)?);
        show(&integers(setting, 4)?);
        show(&packed(setting, 4, 128)?);
        show(&packed(setting, 3, 128)?);
    }
    println!("memory: {:.1} GB/s on {threads} threads", memory_bandwidth(threads)?);
    Ok(())
}

fn show(m: &Measurement) {
    let [n, rows, cols] = m.shape;
    println!(
        "{:24} {n:3} x [{rows}, {cols}] {:9.1} us {:6.2} GB/s {:6.1} GFLOP/s {:8.0} products/s",
        m.name,
        m.seconds * 1e6,
        m.gb_per_s,
        m.gflops,
        1.0 / m.seconds
    );
}
