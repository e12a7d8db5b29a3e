//! Zero points, packed along the rows: each column of groups is a bit stream.

use crate::bits;

/// `[rows, groups]` to words `[packed_words(rows), groups]`.
pub(super) fn pack_columns(values: &[u8], rows: usize, groups: usize, bits: u8) -> Vec<u32> {
    let height = bits::packed_words(rows, bits);
    let mut out = vec![0; height * groups];
    let mut stream = vec![0u32; height];
    for group in 0..groups {
        let column: Vec<u8> = (0..rows).map(|row| values[row * groups + group]).collect();
        bits::pack(&column, bits, bytemuck::cast_slice_mut(&mut stream));
        for (word, &packed) in stream.iter().enumerate() {
            out[word * groups + group] = packed;
        }
    }
    out
}

/// The inverse of [`pack_columns`].
pub(super) fn unpack_columns(words: &[u32], rows: usize, groups: usize, bits: u8) -> Vec<u8> {
    let height = bits::packed_words(rows, bits);
    let mut out = vec![0; rows * groups];
    let mut column = vec![0; rows];
    for group in 0..groups {
        let stream: Vec<u32> = (0..height).map(|word| words[word * groups + group]).collect();
        bits::unpack(bytemuck::cast_slice(&stream), bits, &mut column);
        for (row, &value) in column.iter().enumerate() {
            out[row * groups + group] = value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_are_streams_along_the_rows() {
        // Nine rows of two groups, 4 bits: one full word and one code each.
        let values: Vec<u8> = (0..9).flat_map(|row| [row, 15 - row]).collect();
        let packed = pack_columns(&values, 9, 2, 4);
        assert_eq!(packed, [0x7654_3210, 0x89ab_cdef, 0x8, 0x7]);
        assert_eq!(unpack_columns(&packed, 9, 2, 4), values);
    }
}
