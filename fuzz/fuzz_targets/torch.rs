//! A PyTorch file: zip archive or old format, pickle, storages, views.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{exhaust, folder};
use trimtab_io::Checkpoint;

fuzz_target!(|input: &[u8]| {
    let dir = folder(&[("weights.pt", input)]);
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        exhaust(&checkpoint);
    }
});
