//! Texts and tables of sentence pairs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::folder;
use trimtab_io::{read_latin1, read_pairs, read_text};

fuzz_target!(|input: &[u8]| {
    let dir = folder(&[("data", input)]);
    let path = dir.path().join("data");
    if let Ok(pairs) = read_pairs(&path) {
        assert!(pairs.iter().all(|pair| pair.score.is_finite()));
    }
    if let Ok(text) = read_text(&path) {
        assert_eq!(text.as_bytes(), input);
    }
    if let Ok(text) = read_latin1(&path) {
        assert_eq!(text.chars().count(), input.len());
    }
});
