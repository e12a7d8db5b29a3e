//! Shared, immutable ranges of bytes.

use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use bytemuck::{NoUninit, Pod};
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};

use crate::error::{Error, Result};
use crate::fs;
use crate::lost_pages::{self, Registered};

/// A range of bytes in memory or in a mapped file. Clones share the memory.
///
/// The typed views (`as_f32` and so on) borrow; they are `None` where the length is no multiple of the element or the
/// address is not aligned to it, which a valid safetensors file does not promise.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    map: Option<Arc<Mapped>>,
    start: usize,
    len: usize,
}

/// A mapped file that has a name if its pages get lost. Fields are dropped in this order.
struct Mapped {
    _name: Option<Registered>,
    map: Mmap,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Numbers that own their memory, seen as bytes.
struct Numbers<T>(Vec<T>);

impl<T: NoUninit> AsRef<[u8]> for Numbers<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Bytes {
    /// Bytes that live as long as the program (`include_bytes!`).
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { len: bytes.len(), owner: Arc::new(bytes), map: None, start: 0 }
    }

    /// The memory of a vector of numbers, which keeps its alignment.
    pub fn from_numbers<T: NoUninit + Send + Sync>(numbers: Vec<T>) -> Self {
        Self { len: size_of_val(numbers.as_slice()), owner: Arc::new(Numbers(numbers)), map: None, start: 0 }
    }

    /// Maps a whole file for reading.
    ///
    /// The file must not be shortened or rewritten in place while it is in use: pages that are gone end the process with a
    /// bus error, as with every program that maps files. [`report_lost_pages`](crate::report_lost_pages) makes that a
    /// message with the name of the file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped.
    pub fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let len = file.metadata().map_err(|e| Error::io("read the size of", path, e))?.len();
        if len == 0 {
            return Ok(Self::from_static(&[]));
        }
        // SAFETY: the mapping is read-only and private to this value. Nothing in this crate writes in place to a file
        // that it maps (output goes to new files that are renamed), and the documentation asks the same of others.
        let map = fs::map(path, || unsafe { Mmap::map(&file) }).map_err(|e| Error::io("map", path, e))?;
        let map = Arc::new(Mapped { _name: lost_pages::register(&map, path), map });
        Ok(Self { len: map.map.len(), owner: map.clone(), map: Some(map), start: 0 })
    }

    /// A part of these bytes, sharing the memory; `None` if `range` reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        let (owner, map) = (self.owner.clone(), self.map.clone());
        Some(Self { owner, map, start: self.start + range.start, len: range.len() })
    }

    /// Gives the memory of a mapped file back; what is read again is read from the file again. Otherwise nothing happens.
    pub fn release(&self) {
        if let Some(map) = &self.map {
            // SAFETY: the mapping is read-only and backed by a file, so that dropping its pages loses nothing: the next
            // access brings the same bytes back. A failure only means that the pages stay.
            let _ = unsafe { map.map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }

    /// These bytes at an address divisible by 8: the same memory where that holds already, a copy otherwise.
    pub fn aligned(self) -> Self {
        if self.as_ptr().align_offset(8) == 0 {
            return self;
        }
        let mut words = vec![0u64; self.len.div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..self.len].copy_from_slice(&self);
        Self { len: self.len, ..Self::from_numbers(words) }
    }

    /// The bytes as numbers of another type, borrowed; `None` if size or alignment do not fit.
    pub fn as_numbers<T: Pod>(&self) -> Option<&[T]> {
        bytemuck::try_cast_slice(self).ok()
    }

    /// Borrowed `f32` view.
    pub fn as_f32(&self) -> Option<&[f32]> {
        self.as_numbers()
    }

    /// Borrowed `f64` view.
    pub fn as_f64(&self) -> Option<&[f64]> {
        self.as_numbers()
    }

    /// Borrowed `bf16` view.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        self.as_numbers()
    }

    /// Borrowed `f16` view.
    pub fn as_f16(&self) -> Option<&[f16]> {
        self.as_numbers()
    }

    /// Borrowed `i64` view.
    pub fn as_i64(&self) -> Option<&[i64]> {
        self.as_numbers()
    }

    /// Borrowed `i32` view.
    pub fn as_i32(&self) -> Option<&[i32]> {
        self.as_numbers()
    }

    /// Borrowed view of 32-bit words, as packed codes are stored.
    pub fn as_u32(&self) -> Option<&[u32]> {
        self.as_numbers()
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.len]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_numbers(bytes)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_stay_inside() {
        let all = Bytes::from(vec![1u8, 2, 3, 4]);
        let part = all.slice(1..3).unwrap();
        assert_eq!(&part[..], [2, 3]);
        assert_eq!(part.as_ptr(), all[1..].as_ptr());
        assert!(part.slice(0..3).is_none(), "the parent has more bytes, the part has not");
    }

    #[test]
    fn views_need_size_and_alignment() {
        let bytes = Bytes::from_numbers(vec![1.5f32, -2.0, 0.25]);
        assert_eq!(bytes.as_f32(), Some(&[1.5f32, -2.0, 0.25][..]));
        assert!(bytes.as_f64().is_none(), "12 bytes are no multiple of 8");
        let shifted = bytes.slice(1..9).unwrap();
        assert!(shifted.as_f32().is_none(), "an odd address is not aligned");
        let moved = shifted.clone().aligned();
        assert_eq!(&moved[..], &shifted[..]);
        assert!(moved.as_f32().is_some() && moved.as_f64().is_some());
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, []).unwrap();
        assert!(Bytes::map(&path).unwrap().is_empty());
        assert!(matches!(Bytes::map(&dir.path().join("absent")), Err(Error::Io { .. })));
    }
}
