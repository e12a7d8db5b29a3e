//! Whether a downloaded file is the one that the hub listed.

use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use trimtab_io::fs::File;

use crate::error::{Error, Result};

const CHUNK: usize = 1 << 20;

/// The running hash of a file, of the kind that its name in the cache is.
pub enum Check {
    /// 64 digits: SHA-256 of the content (large files).
    Sha256(Sha256),
    /// 40 digits: the hash by which git calls the file (small files).
    Git(Sha1),
    /// A name that is no hash; only the length can be compared.
    Length,
}

impl Check {
    /// For a file of `size` bytes called `etag` in the cache.
    pub fn new(etag: &str, size: u64) -> Self {
        let is_hex = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match etag.len() {
            64 if is_hex => Self::Sha256(Sha256::new()),
            40 if is_hex => Self::Git(Sha1::new().chain_update(format!("blob {size}\0"))),
            _ => Self::Length,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
            Self::Length => {}
        }
    }

    /// Takes in the content of a file.
    pub fn absorb(&mut self, path: &Path) -> Result<()> {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match file.read(&mut buffer).map_err(|e| Error::io("read", path, e))? {
                0 => return Ok(()),
                n => self.update(&buffer[..n]),
            }
        }
    }

    /// The hash, if it is not the expected one.
    pub fn mismatch(self, etag: &str) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
            Self::Length => return None,
        };
        (!found.eq_ignore_ascii_case(etag)).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let check = |etag: &str| {
            let mut check = Check::new(etag, 3);
            check.update(b"a");
            check.update(b"bc");
            check.mismatch(etag)
        };
        // `printf abc | git hash-object --stdin`, `printf abc | sha256sum`.
        let git = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(check(git), None);
        assert_eq!(check(sha256), None);
        assert_eq!(check(&sha256.to_uppercase()), None);
        assert_eq!(check(&git.replace('f', "0")).as_deref(), Some(git));
        assert_eq!(check(&sha256.replace('b', "0")).as_deref(), Some(sha256));
        assert_eq!(check("abc-123"), None, "no hash, nothing to compare");
    }
}
