//! The embedded model `@pico`: a language model of the Llama family that tells small stories, with its tokenizer.
//!
//! The project trains it with its own loop (`trimtab train recipes/pico.toml`) on stories of the [`grammar`], which also
//! tells the stories to calibrate on and to judge by; the three never overlap in their random streams.

pub mod grammar;
pub mod tokenizer;

use trimtab_io::{Bytes, Checkpoint};

use crate::error::Result;
use grammar::{Split, story};
use tokenizer::END_OF_TEXT;

/// Stories in [`calibration_text`] and [`heldout_text`]: enough for 128 windows of 256 tokens and a rest.
const STORIES: u64 = 256;
/// Seed of the held-out stories; there is one set.
const HELDOUT_SEED: u64 = 0;

macro_rules! files {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../../../../assets/pico/", $name)).as_slice())),*]
    };
}

const FILES: [(&str, &[u8]); 5] = files![
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json"
];

/// The checkpoint in this program.
///
/// # Errors
/// None but for a program that was built from damaged files.
pub fn checkpoint() -> Result<Checkpoint> {
    let files = FILES.iter().map(|&(name, bytes)| (name.to_string(), Bytes::from_static(bytes)));
    Ok(Checkpoint::from_bytes(files.collect())?.named("@pico"))
}

/// A story as the model sees it in training: one line, then the token that ends a text.
pub fn document(seed: u64, split: Split, index: u64) -> String {
    format!("{}\n{END_OF_TEXT}", story(seed, split, index))
}

/// The documents `0 .. n`, one after the other.
pub fn documents(seed: u64, split: Split, n: u64) -> String {
    (0..n).map(|index| document(seed, split, index)).collect()
}

/// Stories to calibrate on.
pub fn calibration_text(seed: u64) -> String {
    documents(seed, Split::Calibration, STORIES)
}

/// Stories to judge by, never trained or calibrated on.
pub fn heldout_text() -> String {
    documents(HELDOUT_SEED, Split::Heldout, STORIES)
}
