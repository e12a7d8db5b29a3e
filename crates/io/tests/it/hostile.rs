//! Files that are damaged, or made to do damage: an error or sound tensors, never a panic.

use trimtab_hostile::{INPUTS, mutate, storm, storm_of};
use trimtab_io::{Checkpoint, Dtype};

use super::{file, memory, tensor};

/// Reads whatever an opened checkpoint offers; returns whether it opened.
fn exhaust(result: trimtab_io::Result<Checkpoint>) -> bool {
    let Ok(checkpoint) = result else { return false };
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).unwrap();
        let expected = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
        assert_eq!(tensor.bytes.len(), expected);
        let _ = tensor.to_f32();
        let _ = tensor.to_i64();
        let _ = tensor.first_non_finite();
    }
    true
}

fn weights() -> Vec<u8> {
    file(&[
        ("layer.weight", tensor(&[3, 4], 1.0, Dtype::F32)),
        ("layer.bias", tensor(&[3], 0.5, Dtype::BF16)),
        ("empty", tensor(&[0, 5], 0.0, Dtype::F16)),
    ])
}

#[test]
fn every_truncation_is_refused() {
    let whole = weights();
    assert!(exhaust(memory(&[("model.safetensors", whole.clone())])));
    for len in 0..whole.len() {
        assert!(
            !exhaust(memory(&[("model.safetensors", whole[..len].to_vec())])),
            "{len} bytes of {}",
            whole.len()
        );
    }
}

#[test]
fn mutated_files_do_no_harm() {
    let whole = weights();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let opened = storm(
        INPUTS,
        1,
        |draws| {
            // Mostly the header: changes of the data are always sound.
            let mut changed = mutate(&whole[8..8 + header], draws);
            let length = match draws.below(4) {
                0 => mutate(&whole[..8], draws),
                _ => (changed.len() as u64).to_le_bytes().to_vec(),
            };
            let mut bytes = length;
            bytes.append(&mut changed);
            bytes.extend_from_slice(&whole[8 + header..]);
            bytes
        },
        |bytes| exhaust(memory(&[("model.safetensors", bytes.clone())])),
    );
    // Changed letters of a name leave a file sound; most other changes do not.
    assert!((1..INPUTS / 2).contains(&opened), "{opened} of {INPUTS} opened");
}

#[test]
fn mutated_indices_do_no_harm() {
    let index =
        br#"{"metadata":{"total_size":20},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let shards =
        [file(&[("a", tensor(&[2], 1.0, Dtype::F32))]), file(&[("b", tensor(&[3], 1.0, Dtype::F32))])];
    let open = |index: Vec<u8>| {
        memory(&[
            ("model.safetensors.index.json", index),
            ("m-1.safetensors", shards[0].clone()),
            ("m-2.safetensors", shards[1].clone()),
        ])
    };
    assert!(exhaust(open(index.to_vec())));
    for len in 0..index.len() {
        assert!(!exhaust(open(index[..len].to_vec())), "{len} bytes");
    }
    storm_of(index, 2, |index| exhaust(open(index.to_vec())));
}

#[test]
fn mutated_configurations_do_no_harm() {
    let config =
        br#"{"model_type": "llama", "hidden_size": 64, "rope_scaling": {"factor": 8.0}, "bos": [1, 2]}"#;
    let whole = weights();
    storm_of(config, 3, |config| {
        exhaust(memory(&[("model.safetensors", whole.clone()), ("config.json", config.to_vec())]))
    });
}

#[test]
fn deep_json_and_huge_numbers_are_errors() {
    let with = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        exhaust(memory(&[("model.safetensors", bytes)]))
    };
    assert!(with("{}"));
    assert!(!with(&format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000))));
    assert!(!with(
        r#"{"a":{"dtype":"I8","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}}"#
    ));
    assert!(!with(r#"{"a":{"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#));
    assert!(!with(r#"{"a":{"dtype":"I8","shape":[1e3],"data_offsets":[0,1000]}}"#));
}
