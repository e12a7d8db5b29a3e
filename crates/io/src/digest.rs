//! SHA-256 of files, without mapping them.

use std::io::Read;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fs::File;

/// Bytes read or written at once.
pub(crate) const CHUNK: usize = 1 << 20;

/// Length and hash of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    of_bytes(bytes).sha256
}

/// Length and SHA-256 of a file, in lower-case hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub fn file_sha256(path: &Path) -> Result<(u64, String)> {
    of_file(path).map(|digest| (digest.bytes, digest.sha256))
}

pub(crate) fn of_bytes(bytes: &[u8]) -> Digest {
    Digest { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
}

pub(crate) fn of_file(path: &Path) -> Result<Digest> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(|e| Error::io("read", path, e))?;
        if n == 0 {
            return Ok(Digest { bytes, sha256: hex(&hash.finalize()) });
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_hash_of_abc() {
        let digest = of_bytes(b"abc");
        assert_eq!(digest.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(of_file(&path).unwrap(), digest);
        std::fs::write(&path, b"abd").unwrap();
        assert_ne!(of_file(&path).unwrap(), digest);
    }
}
