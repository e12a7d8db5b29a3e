//! Where the bits of the K types are: readers and writers of each field.
//!
//! Source: ggml-org/ggml, `src/ggml-common.h` and `src/ggml-quants.c`.

use super::types::SUPER;

/// Code `i` of 256 codes of 2 bits: byte `32 (i/128) + i%32`, pair of bits `(i%128)/32`.
pub(super) fn two_bits(codes: &[u8], i: usize) -> u8 {
    codes[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3
}

/// Writes what [`two_bits`] reads, into 64 bytes.
pub(super) fn put_two_bits(codes: impl Fn(usize) -> u8, out: &mut [u8]) {
    out.fill(0);
    for i in 0..SUPER {
        out[32 * (i / 128) + i % 32] |= (codes(i) & 3) << (2 * (i % 128 / 32));
    }
}

/// Scale `j` of 16 scales of 6 bits in 12 bytes: low nibbles first, then pairs of high bits.
pub(super) fn six_bits(scales: &[u8], j: usize) -> u8 {
    let low = if j < 8 { scales[j] & 15 } else { scales[j - 8] >> 4 };
    let high = scales[8 + j % 4] >> (2 * (j / 4)) & 3;
    low | high << 4
}

/// Writes what [`six_bits`] reads, into 12 bytes.
pub(super) fn put_six_bits(values: &[u8; 16], out: &mut [u8]) {
    out.fill(0);
    for (j, &value) in values.iter().enumerate() {
        out[j % 8] |= (value & 15) << (4 * (j / 8));
        out[8 + j % 4] |= (value >> 4) << (2 * (j / 4));
    }
}

/// Scale and minimum `s` of 8 pairs of 6 bits in 12 bytes.
pub(super) fn pair(b: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        (b[s] & 63, b[s + 4] & 63)
    } else {
        (b[s + 4] & 15 | (b[s - 4] >> 6) << 4, b[s + 4] >> 4 | (b[s] >> 6) << 4)
    }
}

/// Writes what [`pair`] reads, into 12 bytes.
pub(super) fn put_pairs(scales: &[u8; 8], mins: &[u8; 8], out: &mut [u8]) {
    for s in 0..4 {
        out[s] = scales[s] & 63 | (scales[s + 4] >> 4) << 6;
        out[s + 4] = mins[s] & 63 | (mins[s + 4] >> 4) << 6;
        out[s + 8] = scales[s + 4] & 15 | (mins[s + 4] & 15) << 4;
    }
}

/// Nibble `i` of group `group` of 32: two groups share 32 bytes.
pub(super) fn nibble(codes: &[u8], group: usize, i: usize) -> u8 {
    codes[32 * (group / 2) + i] >> (4 * (group % 2)) & 15
}

/// Writes what [`nibble`] reads, into 128 bytes.
pub(super) fn put_nibbles(codes: &[u8; SUPER], out: &mut [u8]) {
    for (half, bytes) in out.chunks_exact_mut(32).enumerate() {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[64 * half + i] & 15 | (codes[64 * half + 32 + i] & 15) << 4;
        }
    }
}

/// Low four bits of code `i` of 256 codes of 6 bits.
pub(super) fn low_nibble_of_six(low: &[u8], i: usize) -> u8 {
    let quarter = i % 128 / 32;
    low[64 * (i / 128) + 32 * (quarter % 2) + i % 32] >> (4 * (quarter / 2)) & 15
}

/// Writes what [`low_nibble_of_six`] reads, into 128 bytes.
pub(super) fn put_low_nibbles_of_six(codes: &[u8; SUPER], out: &mut [u8]) {
    out.fill(0);
    for (i, &code) in codes.iter().enumerate() {
        let quarter = i % 128 / 32;
        out[64 * (i / 128) + 32 * (quarter % 2) + i % 32] |= (code & 15) << (4 * (quarter / 2));
    }
}

/// Bit `i/32` of byte `i%32` for each code with `bit` set: the high bits of the 3- and 5-bit types.
pub(super) fn put_high_bits(codes: &[u8; SUPER], bit: u8, out: &mut [u8]) {
    out.fill(0);
    for (i, &code) in codes.iter().enumerate() {
        out[i % 32] |= (code >> bit & 1) << (i / 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read_as_it_was_written() {
        let codes: [u8; SUPER] = std::array::from_fn(|i| (i * 37 % 64) as u8);
        let mut out = [0; 128];
        put_two_bits(|i| codes[i] >> 4, &mut out[..64]);
        assert!((0..SUPER).all(|i| two_bits(&out[..64], i) == codes[i] >> 4));
        put_nibbles(&codes, &mut out);
        assert!((0..SUPER).all(|i| nibble(&out, i / 32, i % 32) == codes[i] & 15));
        put_low_nibbles_of_six(&codes, &mut out);
        assert!((0..SUPER).all(|i| low_nibble_of_six(&out, i) == codes[i] & 15));
        put_high_bits(&codes, 4, &mut out[..32]);
        assert!((0..SUPER).all(|i| out[i % 32] >> (i / 32) & 1 == codes[i] >> 4 & 1));
        let scales: [u8; 16] = std::array::from_fn(|i| codes[i]);
        put_six_bits(&scales, &mut out[..12]);
        assert!((0..16).all(|i| six_bits(&out[..12], i) == scales[i]));
        let (a, b): ([u8; 8], [u8; 8]) =
            (std::array::from_fn(|i| codes[i]), std::array::from_fn(|i| codes[i + 50]));
        put_pairs(&a, &b, &mut out[..12]);
        assert!((0..8).all(|i| pair(&out[..12], i) == (a[i], b[i])));
    }
}
