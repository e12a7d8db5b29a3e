//! The program on a disk that fails, for tests. It is `trimtab` in every way, but obeys:
//!
//! | variable | meaning |
//! |---|---|
//! | `TRIMTAB_FAULT` | `KIND:N`: the fault and the call, from 1, that it strikes; see [`Kind`] |
//! | `TRIMTAB_TRACE` | a file that gets one line for each call: operation, path, bytes |
//! | `TRIMTAB_SPARE` | a folder on the same disk, for what a power cut has to bring back; `pause` leaves `paused` there |
//!
//! Under a fault, waiting for the disk is left out: nobody pulls the plug of the machine that runs the tests, and what a
//! power cut loses is taken away by hand.

mod disk;
mod kind;
mod power;

use std::process::ExitCode;

use disk::Disk;

fn main() -> ExitCode {
    match Disk::from_env() {
        Ok(Some(disk)) => drop(trimtab_io::fs::interfere(Box::new(disk))),
        Ok(None) => {}
        Err(message) => panic!("{message}"),
    }
    trimtab_cli::main()
}
