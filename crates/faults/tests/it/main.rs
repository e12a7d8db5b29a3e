//! The program on disks that fail, in processes that are killed, beside itself and with too little memory.

mod bench;
mod layer;
mod page;
#[path = "../../../hub/tests/it/server.rs"]
#[allow(dead_code)] // Only the sound half of the hub is of use here.
mod server;
mod supply;
mod sweep;
mod trouble;
