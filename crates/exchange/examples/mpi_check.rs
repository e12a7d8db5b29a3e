//! Checks the MPI group against threads; started by `tools/mpi.sh` under `mpirun`.
//!
//! Every process also runs all ranks as threads, and compares what its own rank gets, bit for bit.
//! With the argument `error`, `panic` or `exit`, rank 1 fails in that way, and the others must not hang.

use trimtab_exchange::{
    Communicator, Exchange, ExchangeConfig, Family, LGrecoConfig, Mpi, Named, Policy, ResidualOf, Result,
    RoundingMode, Schedule, Threads,
};
use trimtab_math::random::Stream;

fn normal(purpose: &str, step: u64, rank: usize, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(1, purpose, step, rank as u64);
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// All that a rank sees, as bytes.
fn trace(comm: &dyn Communicator) -> Result<Vec<u8>> {
    let (rank, size) = (comm.rank(), comm.size());
    let mut seen = Vec::new();
    for len in [0, 1, 2, 1001] {
        let mut values = normal("sum", 0, rank, len);
        comm.all_reduce_sum(&mut values)?;
        seen.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    // Lengths of nothing on some ranks, and on all.
    seen.extend(comm.all_gather(&vec![rank as u8; 3 * rank])?.concat());
    seen.extend(comm.all_gather(&[])?.concat());
    seen.extend(comm.all_to_all((0..size).map(|to| vec![to as u8; 5 * rank * to]).collect())?.concat());
    seen.extend(comm.all_to_all(vec![Vec::new(); size])?.concat());
    seen.extend(
        comm.all_to_all((0..size).map(|to| vec![(10 * rank + to) as u8; to + rank]).collect())?.concat(),
    );
    let mut bytes = if rank == 0 { vec![1, 2, 3] } else { Vec::new() };
    comm.broadcast(&mut bytes)?;
    seen.extend(bytes);

    let schedule = Schedule { start: 2, period: 2, window: 2 };
    let policy = Policy::LGreco { schedule, settings: LGrecoConfig::default() };
    for family in [
        Family::Dense,
        Family::PowerSgd { rank: 2, residual_of: ResidualOf::Mean },
        Family::PowerSgd { rank: 4, residual_of: ResidualOf::Own },
        Family::TopK { density: 100, error_feedback: true },
        Family::Qsgd { bits: 4, rounding: RoundingMode::Stochastic, error_feedback: true },
    ] {
        let mut exchange = Exchange::new(ExchangeConfig { family, policy, ..Default::default() })?;
        for step in 0..5 {
            let (mut w, mut v) = (normal("w", step, rank, 50 * 60), normal("v", step, rank, 40 * 90));
            let mut b = normal("b", step, rank, 7);
            if step == 3 && rank == 1 {
                b[0] = f32::NAN;
            }
            let mut tensors = [
                Named { name: "w", shape: &[50, 60], values: &mut w },
                Named { name: "v", shape: &[40, 90], values: &mut v },
                Named { name: "b", shape: &[7], values: &mut b },
            ];
            exchange.exchange(&mut tensors, comm)?;
            seen.extend([w, v, b].concat().iter().flat_map(|v| v.to_le_bytes()));
        }
    }
    seen.extend(comm.sent_bytes().to_le_bytes());
    Ok(seen)
}

fn main() -> Result<()> {
    let comm = Mpi::join()?;
    let (rank, size) = (comm.rank(), comm.size());
    match std::env::args().nth(1).as_deref() {
        Some("error") if rank == 1 => return Ok(()),
        Some("panic") if rank == 1 => panic!("on purpose"),
        Some("exit") if rank == 1 => std::process::exit(3),
        _ => {}
    }
    let found = trace(&comm)?;
    let threads: Vec<_> =
        Threads::ranks(size).into_iter().map(|comm| std::thread::spawn(move || trace(&comm))).collect();
    let traces: Vec<_> = threads.into_iter().map(|t| t.join().expect("a thread has panicked")).collect();
    let expected = traces[rank].as_ref().expect("threads fail where processes do not");
    assert!(found == *expected, "rank {rank}: processes and threads differ");
    let other = traces[(rank + 1) % size].as_ref().expect("threads fail");
    assert!(size == 1 || found != *other, "the control: ranks see different gathers");
    if rank == 0 {
        // The result of this program.
        #[allow(clippy::print_stdout)]
        {
            println!("{size} processes agree with {size} threads in {} bytes", found.len());
        }
    }
    comm.finish()
}
