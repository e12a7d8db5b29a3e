//! A GGUF file: container, blocks, model, tokenizer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{exhaust, folder, quiet_about_caught_panics};
use trimtab_io::{Checkpoint, Tokenizer, gguf};

fuzz_target!(init: quiet_about_caught_panics(), |input: &[u8]| {
    let dir = folder(&[("model.gguf", input)]);
    let path = dir.path().join("model.gguf");
    if let Ok(file) = gguf::open(&path) {
        for info in file.tensors() {
            let tensor = file.tensor(&info.name).expect("its name is listed");
            assert_eq!(tensor.dequantize().len(), tensor.rows * tensor.cols);
        }
    }
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        exhaust(&checkpoint);
        for name in checkpoint.names() {
            let _ = checkpoint.blocks(name);
        }
        if let Ok(tokenizer) = Tokenizer::of(&checkpoint)
            && let Ok(ids) = tokenizer.encode("the cat  sat, hé 12", true)
        {
            let _ = tokenizer.decode(&ids, false);
        }
    }
});
