//! Data sets: texts, sentence pairs, images.

mod images;
mod pairs;
mod text;

pub use images::ImageSet;
pub use pairs::{Pair, read_pairs};
pub use text::{read_latin1, read_text};
