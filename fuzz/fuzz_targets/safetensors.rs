//! A directory with one file of weights, or an index and two shards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{exhaust, folder, headed, parts};
use trimtab_io::{Checkpoint, ImageSet};

fuzz_target!(|input: &[u8]| {
    let [header, data, index, second, config] = parts(input);
    let (first, second) = (headed(header, data), headed(second, data));
    let dir = match index {
        [] => folder(&[("config.json", config), ("model.safetensors", &first)]),
        index => folder(&[
            ("config.json", config),
            ("model.safetensors.index.json", index),
            ("model-1.safetensors", &first),
            ("model-2.safetensors", &second),
        ]),
    };
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        exhaust(&checkpoint);
    }
    if let Ok(images) = ImageSet::read(dir.path(), "test") {
        let all: Vec<usize> = (0..images.len().min(100)).collect();
        assert_eq!(images.select(&all).len(), all.len());
    }
});
