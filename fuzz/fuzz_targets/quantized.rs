//! `quantization_config` of every method, and the tensors that it stands for.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{described, folder, parts};
use trimtab_io::{AffineFormat, AffineTensor, Checkpoint, Coded, GptqFormat, Quantization, convert};

const FORMATS: [AffineFormat; 5] = [
    AffineFormat::PackQuantized,
    AffineFormat::IntQuantized,
    AffineFormat::Gptq(GptqFormat::V1),
    AffineFormat::Gptq(GptqFormat::V2),
    AffineFormat::Awq,
];

fuzz_target!(|input: &[u8]| {
    let [config, lines, data] = parts(input);
    let dir = folder(&[("config.json", config), ("model.safetensors", &described(lines, data))]);
    let Ok(checkpoint) = Checkpoint::open(dir.path()) else { return };
    let Some(config) = checkpoint.config() else { return };
    let Ok(Some(quantization)) = Quantization::of(config) else { return };
    // A module has its tensors below its name; only stacked experts end in another way.
    let modules: BTreeSet<&str> = checkpoint
        .names()
        .filter_map(|name| name.strip_suffix("_blocks").or(name.rsplit_once('.').map(|(module, _)| module)))
        .collect();
    for module in modules.into_iter().chain(["m.other"]).take(8) {
        let Ok(Some(matrix)) = quantization.read(&checkpoint, module) else { continue };
        let [rows, cols] = matrix.dims();
        assert_eq!(matrix.dequantize().len(), rows * cols);
        assert!(matrix.bytes() < u64::MAX);
        if let Coded::Affine(matrix) = matrix {
            convert_all(&matrix);
        }
    }
});

/// The same codes in every other format, which may be refused.
fn convert_all(matrix: &AffineTensor) {
    for target in FORMATS {
        if let Ok((converted, _)) = convert(matrix, target) {
            assert_eq!((converted.rows, converted.cols), (matrix.rows, matrix.cols));
        }
    }
}
