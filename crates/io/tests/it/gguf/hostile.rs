//! Damaged files: an error or sound tensors, never a panic, never long, never large.

use trimtab_hostile::{Draws, INPUTS, storm};
use trimtab_io::gguf;
use trimtab_io::{Bytes, Tokenizer};

use super::models::{llama, write};
use super::{fixtures, open};

/// Reads whatever the file offers, as a container, as a model and as a tokenizer; returns whether it was accepted as the first.
fn exhaust(bytes: &[u8]) -> bool {
    if let Ok(checkpoint) = open(bytes.to_vec()) {
        for name in checkpoint.names() {
            let tensor = checkpoint.tensor(name).unwrap();
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.numel());
            if let Some(blocks) = checkpoint.blocks(name).unwrap() {
                assert_eq!(blocks.rows * blocks.cols, tensor.numel());
            }
        }
        if let Ok(tokenizer) = Tokenizer::of(&checkpoint) {
            let _ =
                tokenizer.encode("the cat  sat, h\u{e9} 12", true).map(|ids| tokenizer.decode(&ids, false));
        }
    }
    let Ok(file) = gguf::parse(&Bytes::from(bytes.to_vec())) else { return false };
    for info in file.tensors() {
        let tensor = file.tensor(&info.name).unwrap();
        assert_eq!(tensor.dequantize().len(), info.shape.iter().product::<usize>());
    }
    true
}

/// One to four changes of the description: a bit, a byte, a number that is large or small, a deletion, an insertion.
fn mutate(bytes: &[u8], header: usize, draws: &mut Draws) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=draws.below(4) {
        let i = draws.below(header.min(out.len()));
        match draws.below(6) {
            0 => out[i] ^= 1 << draws.below(8),
            1 => out[i] = draws.below(256) as u8,
            2 => {
                let number = [0u64, 1, u64::MAX, 1 << 62, 1 << 32, 31][draws.below(6)];
                let end = (i + 8).min(out.len());
                out[i..end].copy_from_slice(&number.to_le_bytes()[..end - i]);
            }
            3 => drop(out.remove(i)),
            4 => out.insert(i, draws.below(256) as u8),
            _ => {
                let end = (i + 1 + draws.below(24)).min(out.len());
                let part = out[i..end].to_vec();
                out.splice(i..i, part);
            }
        }
    }
    out
}

fn damaged(whole: &[u8], seed: u64) -> usize {
    let header = gguf::parse(&Bytes::from(whole.to_vec())).unwrap().data_start();
    storm(INPUTS, seed, |draws| mutate(whole, header, draws), |bytes| exhaust(bytes))
}

#[test]
fn every_truncation_is_refused() {
    let whole = std::fs::read(fixtures().join("tiny.gguf")).unwrap();
    assert!(exhaust(&whole));
    let file = gguf::parse(&Bytes::from(whole.clone())).unwrap();
    let end = file.tensors().iter().map(|tensor| tensor.range.end).max().unwrap();
    for len in 0..end {
        assert!(!exhaust(&whole[..len]), "{len} bytes of {}", whole.len());
    }
    assert!(exhaust(&whole[..end]), "only padding is missing");
}

#[test]
fn mutated_files_do_no_harm() {
    let whole = std::fs::read(fixtures().join("tiny.gguf")).unwrap();
    let accepted = damaged(&whole, 11);
    // A changed letter or value leaves a file sound; most other changes do not.
    assert!((1..INPUTS / 2).contains(&accepted), "{accepted} of {INPUTS} accepted");
}

#[test]
fn mutated_models_do_no_harm() {
    let accepted = damaged(&write(&llama()), 12);
    assert!((1..INPUTS / 2).contains(&accepted), "{accepted} of {INPUTS} accepted");
}
