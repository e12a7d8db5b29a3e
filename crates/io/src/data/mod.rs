//! Data sets: texts, sentence pairs, images, and how they become batches.

pub mod augment;
mod folder;
mod images;
mod packing;
mod pairs;
mod prefetch;
mod series;
mod text;
mod wav;

pub use folder::{ImageFolder, decode_image};
pub use images::ImageSet;
pub use packing::{Packed, PackingOrder, concatenate, pack};
pub use pairs::{Pair, read_pairs};
pub use prefetch::Prefetch;
pub use series::{Series, SeriesWindows, split_by_share};
pub use text::{read_latin1, read_text};
pub use wav::Wav;
