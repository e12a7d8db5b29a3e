//! Rows and numbers that lie differently in the two formats.

/// For each row of the GGUF tensor, the row of the Hugging Face tensor: rotary pairs become neighbours in each head.
///
/// New row `2j + p` of a head is old row `p*h/2 + j`. Source: ggml-org/llama.cpp, `conversion/llama.py`, `permute`.
pub(super) fn pairs(rows: usize, heads: usize) -> Option<Vec<usize>> {
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        return None;
    }
    let size = rows / heads;
    Some((0..rows).map(|row| row - row % size + row % 2 * (size / 2) + row % size / 2).collect())
}

/// The same for the fused matrix of falcon: groups of queries with their key and value become all queries, all keys,
/// all values. Source: ggml-org/llama.cpp, `conversion/falcon.py`.
pub(super) fn falcon(rows: usize, heads: usize, kv_heads: usize) -> Option<Vec<usize>> {
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !rows.is_multiple_of(heads + 2 * kv_heads) {
        return None;
    }
    if rows == 0 {
        return Some(Vec::new());
    }
    let (size, queries) = (rows / (heads + 2 * kv_heads), heads / kv_heads);
    let members = [(0, queries), (queries, queries + 1), (queries + 1, queries + 2)];
    let mut source = Vec::with_capacity(rows);
    for (first, end) in members {
        for group in 0..kv_heads {
            let start = group * (queries + 2);
            source.extend((start + first) * size..(start + end) * size);
        }
    }
    Some(source)
}

/// The other direction of a reordering.
pub(super) fn inverse(source: &[usize]) -> Vec<usize> {
    let mut back = vec![0; source.len()];
    for (new, &old) in source.iter().enumerate() {
        back[old] = new;
    }
    back
}

/// Moves whole rows: row `i` of the result is row `source[i]`.
pub(super) fn select_rows(data: &[u8], source: &[usize]) -> Vec<u8> {
    let row = data.len() / source.len().max(1);
    source.iter().flat_map(|&from| &data[from * row..(from + 1) * row]).copied().collect()
}

/// Turns a matrix of elements of `size` bytes around.
pub(super) fn transpose(data: &[u8], rows: usize, cols: usize, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    for col in 0..cols {
        for row in 0..rows {
            let at = (row * cols + col) * size;
            out.extend_from_slice(&data[at..at + size]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_two_heads() {
        assert_eq!(pairs(8, 2).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(pairs(6, 1).unwrap(), [0, 3, 1, 4, 2, 5]);
        assert_eq!((pairs(6, 4), pairs(6, 0)), (None, None));
        let source = pairs(24, 3).unwrap();
        let data: Vec<u8> = (0..48).collect();
        let back = select_rows(&select_rows(&data, &source), &inverse(&source));
        assert_eq!(back, data);
        assert_ne!(select_rows(&data, &source), data);
    }

    #[test]
    fn falcon_groups_of_two_queries() {
        // Two groups of (q, q, k, v), one row a head.
        assert_eq!(falcon(8, 4, 2).unwrap(), [0, 1, 4, 5, 2, 6, 3, 7]);
        assert_eq!(falcon(6, 1, 1).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!((falcon(8, 3, 2), falcon(9, 4, 2)), (None, None));
    }

    #[test]
    fn matrices_turn_around() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 2, 3, 1), [1, 4, 2, 5, 3, 6]);
        assert_eq!(transpose(&[1, 2, 3, 4], 1, 2, 2), [1, 2, 3, 4]);
    }
}
