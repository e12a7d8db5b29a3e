//! PyTorch files (`torch.save`), read without executing code.
//!
//! Such a file is a pickle, a program for a small machine, with the numbers beside it: since PyTorch 1.6 in an
//! uncompressed zip archive, before that one after the other in one file. Python's machine may call any function. The
//! one here ([`machine`]) only builds dictionaries, lists, strings, numbers and tensors; whatever else a file asks for
//! is refused with its opcode and place. Numbers stay where they are in the mapped file.
//!
//! Source: `torch/serialization.py`, `torch/_utils.py` and Python's `pickletools`, which describes every opcode.

mod build;
mod legacy;
mod machine;
mod opcode;
mod place;
mod stack;
mod state;
mod value;
mod zip;

use std::ops::Range;

use crate::error::{Error, Result};
use crate::header::Entry;

pub(crate) use place::gather;

/// Ends of the names that PyTorch files usually have.
pub(crate) const ENDINGS: [&str; 5] = [".pt", ".pth", ".th", ".bin", ".ckpt"];

/// The tensors of a file, and the part of it that describes them.
pub(crate) struct TorchFile {
    /// Sorted by name.
    pub tensors: Vec<Entry>,
    /// Where the description lies.
    pub header: Range<usize>,
}

/// Whether `bytes`, the whole content of a file called `name`, are to be read as a PyTorch file.
///
/// The content decides where it can; a file that begins like neither kind goes by its name.
pub(crate) fn is_torch(name: &str, bytes: &[u8]) -> bool {
    // A safetensors file has its header's opening brace here.
    if bytes.get(8) == Some(&b'{') {
        return false;
    }
    zip::is_zip(bytes) || legacy::is_legacy(bytes) || ENDINGS.iter().any(|end| name.ends_with(end))
}

/// Reads the description of a PyTorch file; `label` is how messages call the file.
pub(crate) fn read(label: &str, bytes: &[u8]) -> Result<TorchFile> {
    if zip::is_zip(bytes) {
        return zip::read(label, bytes);
    }
    if legacy::is_legacy(bytes) {
        return legacy::read(label, bytes);
    }
    let start: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let message = format!(
        "not a PyTorch file: starts with {}, expected 50 4b 03 04 (zip) or the pickled magic number of older versions",
        if start.is_empty() { "nothing".into() } else { start.join(" ") }
    );
    Err(Error::malformed(label, message))
}
