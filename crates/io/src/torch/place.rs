//! From a tensor of the pickle to bytes of the file.

use std::ops::Range;

use super::value::{Heap, Id, Tensor, Value};
use crate::error::{Error, Result};
use crate::header::Entry;
use crate::tensor::byte_count;

/// Most dimensions of a tensor.
const MAX_RANK: usize = 16;

/// Checks `tensor` against the bytes of its storage, which lie at `storage` in a file of `file_len` bytes.
pub fn entry(
    label: &str,
    name: String,
    tensor: &Tensor,
    heap: &Heap,
    storage: Range<usize>,
    file_len: usize,
) -> Result<Entry> {
    let wrong = |message: String| Error::tensor(label, &name, message);
    let storage = part(tensor, storage).map_err(&wrong)?;
    let lengths = |id: Id, what: &str| {
        let items = &heap.tuples[id as usize];
        if items.len() > MAX_RANK {
            return Err(wrong(format!("{what} has {} entries, at most {MAX_RANK} are read", items.len())));
        }
        let length = |item: &Value| match *item {
            Value::Int(n) => usize::try_from(n).ok(),
            _ => None,
        };
        let lengths: Option<Vec<usize>> = items.iter().map(length).collect();
        lengths.ok_or_else(|| wrong(format!("{what} must hold integers that are not negative")))
    };
    let (shape, strides) = (lengths(tensor.shape, "its shape")?, lengths(tensor.strides, "its strides")?);
    if shape.len() != strides.len() {
        return Err(wrong(format!("shape {shape:?} and strides {strides:?} differ in length")));
    }
    let (dtype, size) = (tensor.dtype, tensor.dtype.size());
    if byte_count(dtype, &shape).is_none_or(|bytes| bytes > file_len) {
        return Err(wrong(format!(
            "shape {shape:?} of {dtype} takes more bytes than the file has ({file_len})"
        )));
    }
    if shape.contains(&0) {
        return Ok(Entry { name, dtype, shape, range: storage.start..storage.start, strides: None });
    }
    let out_of_range = || {
        wrong(format!(
            "offset {}, shape {shape:?} and strides {strides:?} reach past its storage of {} elements",
            tensor.offset,
            storage.len() / size
        ))
    };
    let first = usize::try_from(tensor.offset).map_err(|_| out_of_range())?;
    let steps = shape.iter().zip(&strides);
    let last =
        steps.clone().try_fold(first, |at, (&n, &stride)| at.checked_add((n - 1).checked_mul(stride)?));
    let end =
        last.and_then(|last| last.checked_add(1)?.checked_mul(size)).filter(|&end| end <= storage.len());
    let end = end.ok_or_else(out_of_range)?;

    let mut dense = 1;
    let mut row_major = true;
    for (&n, &stride) in steps.rev() {
        // The stride of a dimension of one element is never used.
        row_major &= n == 1 || stride == dense;
        dense *= n;
    }
    // `first * size` cannot overflow: it is below `end`.
    let range = storage.start + first * size..storage.start + end;
    Ok(Entry { name, dtype, shape, range, strides: (!row_major).then_some(strides) })
}

/// The part of its storage that a tensor of an old file views; the whole storage otherwise.
fn part(tensor: &Tensor, storage: Range<usize>) -> Result<Range<usize>, String> {
    let held = tensor.storage;
    let Some((first, numel)) = held.part else { return Ok(storage) };
    let size = held.dtype.size() as u64;
    let bytes = |n: u64| n.checked_mul(size).and_then(|bytes| usize::try_from(bytes).ok());
    let range = bytes(first).zip(bytes(numel)).and_then(|(first, len)| {
        let start = storage.start.checked_add(first)?;
        Some(start..start.checked_add(len)?)
    });
    let inside = range.filter(|range| range.end <= storage.end);
    inside.ok_or_else(|| {
        format!("views elements {first} and on, {numel} of them, of a storage of {} elements", held.numel)
    })
}

/// The numbers of a strided view in row-major order. `span` reaches from the first to the last of them; no dimension is
/// empty.
pub(crate) fn gather(span: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let (Some((&row, outer)), Some((&step, outer_strides))) = (shape.split_last(), strides.split_last())
    else {
        return span.to_vec();
    };
    let rows: usize = outer.iter().product();
    let mut out = Vec::with_capacity(rows * row * size);
    let mut index = vec![0; outer.len()];
    let mut start = 0;
    for _ in 0..rows {
        if step == 1 {
            out.extend_from_slice(&span[start * size..(start + row) * size]);
        } else {
            for i in 0..row {
                let at = (start + i * step) * size;
                out.extend_from_slice(&span[at..at + size]);
            }
        }
        // The next row: the last index that does not run over goes up, those behind it go back to 0.
        for d in (0..outer.len()).rev() {
            index[d] += 1;
            start += outer_strides[d];
            if index[d] < outer[d] {
                break;
            }
            start -= outer_strides[d] * outer[d];
            index[d] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_gathered() {
        let span: Vec<u8> = (0..12).collect();
        // [3, 4] transposed: rows become columns.
        assert_eq!(gather(&span, 1, &[4, 3], &[1, 4]), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        // Every second of three numbers of two bytes, in two rows.
        assert_eq!(gather(&span, 2, &[2, 2], &[2, 1]), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(gather(&span, 2, &[3], &[2]), [0, 1, 4, 5, 8, 9]);
        // One number for all.
        assert_eq!(gather(&span[..1], 1, &[2, 2], &[0, 0]), [0; 4]);
        // Three dimensions against the plain formula.
        let (shape, strides) = ([2, 3, 2], [1, 4, 2]);
        let mut expected = Vec::new();
        for i in 0..2 {
            for j in 0..3 {
                expected.extend((0..2).map(|k| span[i + 4 * j + 2 * k]));
            }
        }
        assert_eq!(gather(&span, 1, &shape, &strides), expected);
    }
}
