//! Text files.

use std::path::Path;

use crate::error::{Error, Result};

/// Reads a UTF-8 text.
///
/// # Errors
/// [`Error::NotUtf8`] with the offset of the first bad byte; [`Error::Io`].
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    String::from_utf8(read(path)?)
        .map_err(|e| Error::NotUtf8 { path: path.into(), offset: e.utf8_error().valid_up_to() })
}

/// Reads a text in ISO 8859-1, in which every byte is the character of the same number.
///
/// # Errors
/// [`Error::Io`].
pub fn read_latin1(path: impl AsRef<Path>) -> Result<String> {
    Ok(read(path.as_ref())?.into_iter().map(char::from).collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    crate::fs::read(path).map_err(|e| Error::io("read", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, b"caf\xe9 x").unwrap();
        let error = read_text(&path).unwrap_err();
        assert!(matches!(&error, Error::NotUtf8 { offset: 3, .. }), "{error}");
        assert_eq!(read_latin1(&path).unwrap(), "café x");
        std::fs::write(&path, "café x").unwrap();
        assert_eq!(read_text(&path).unwrap(), "café x");
    }
}
