//! Texts, tables of sentence pairs, series, pictures and sounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::folder;
use trimtab_io::{Series, Wav, decode_image, read_latin1, read_pairs, read_text};

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
    if let Ok(mut series) = Series::parse(input, &path) {
        let rows = series.rows();
        assert_eq!(series.slice(0..rows).map(<[f32]>::len), Some(rows * series.columns.len()));
        let _ = series.standardize(0..rows);
    }
    if let Ok(image) = decode_image(input, "data") {
        assert_eq!(image.pixels().len(), image.shape().iter().product::<usize>());
    }
    if let Ok(wav) = Wav::parse(input, "data") {
        assert_eq!(wav.samples.len(), wav.frames() * wav.channels);
        assert!(wav.samples.iter().all(|sample| sample.is_finite()));
    }
});
