//! A specification of a family, a `config.json` and the tensors of a model.
#![no_main]

use burn::tensor::Device;
use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{described, folder, parts};
use trimtab_io::Checkpoint;
use trimtab_models::spec::propose_spec;
use trimtab_models::{Model, Spec};

fuzz_target!(|input: &[u8]| {
    let [spec, config, lines] = parts(input);
    let dir = folder(&[("config.json", config), ("model.safetensors", &described(lines, &[0, 0x3c, 1]))]);
    let spec = match std::str::from_utf8(spec) {
        Ok("") => None,
        Ok(text) => Spec::parse(text, "s.toml").ok(),
        Err(_) => return,
    };
    let Ok(checkpoint) = Checkpoint::open(dir.path()) else { return };
    if let Some(config) = checkpoint.config() {
        let shapes: Vec<(String, Vec<usize>)> = checkpoint
            .names()
            .filter_map(|name| Some((name.to_owned(), checkpoint.info(name)?.shape.clone())))
            .collect();
        let _ = propose_spec(config, &shapes);
    }
    if let Ok(model) = Model::from_checkpoint(checkpoint, spec, Device::flex()) {
        let _ = (model.task(), model.vocab(), model.tied(), model.normalization());
        let _ = model.unclaimed();
        let _ = model.network();
    }
});
