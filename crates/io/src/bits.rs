//! The packer of the house: codes of 1 to 8 bits as one dense bit stream.
//!
//! Code `i` occupies bits `i*b .. i*b + b - 1` of the stream, lowest bit first, and bit `k` is bit `k % 8` of byte
//! `k / 8`. Read as little-endian 32-bit words this is the row layout of compressed-tensors and the column layout of
//! GPTQ. Eight codes, which are exactly `b` bytes, move through one 64-bit word at a time.

/// Bytes of `n` codes, without padding.
pub const fn packed_len(n: usize, bits: u8) -> usize {
    (n * bits as usize).div_ceil(8)
}

/// 32-bit words of `n` codes: the length of a row in compressed-tensors.
pub const fn packed_words(n: usize, bits: u8) -> usize {
    (n * bits as usize).div_ceil(32)
}

/// Packs `codes` into the front of `out` and clears the rest of it.
///
/// Bits of a code above `bits` are dropped.
///
/// # Panics
/// If `bits` is not in `1..=8`, or `out` is shorter than [`packed_len`].
pub fn pack(codes: &[u8], bits: u8, out: &mut [u8]) {
    let len = packed_len(codes.len(), bits);
    let (front, rest) = out.split_at_mut(len);
    rest.fill(0);
    match bits {
        1 => pack_width::<1>(codes, front),
        2 => pack_width::<2>(codes, front),
        3 => pack_width::<3>(codes, front),
        4 => pack_width::<4>(codes, front),
        5 => pack_width::<5>(codes, front),
        6 => pack_width::<6>(codes, front),
        7 => pack_width::<7>(codes, front),
        8 => front.copy_from_slice(codes),
        _ => panic!("codes have 1 to 8 bits, not {bits}"),
    }
}

/// Unpacks the first `out.len()` codes of `stream`.
///
/// # Panics
/// If `bits` is not in `1..=8`, or `stream` is shorter than [`packed_len`].
pub fn unpack(stream: &[u8], bits: u8, out: &mut [u8]) {
    let stream = &stream[..packed_len(out.len(), bits)];
    match bits {
        1 => unpack_width::<1>(stream, out),
        2 => unpack_width::<2>(stream, out),
        3 => unpack_width::<3>(stream, out),
        4 => unpack_width::<4>(stream, out),
        5 => unpack_width::<5>(stream, out),
        6 => unpack_width::<6>(stream, out),
        7 => unpack_width::<7>(stream, out),
        8 => out.copy_from_slice(stream),
        _ => panic!("codes have 1 to 8 bits, not {bits}"),
    }
}

fn pack_width<const B: usize>(codes: &[u8], out: &mut [u8]) {
    let whole = codes.len() / 8;
    let (body, tail) = codes.split_at(whole * 8);
    let (out_body, out_tail) = out.split_at_mut(whole * B);
    for (codes, bytes) in body.chunks_exact(8).zip(out_body.chunks_exact_mut(B)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(codes);
        bytes.copy_from_slice(&gather::<B>(u64::from_le_bytes(eight)).to_le_bytes()[..B]);
    }
    let mut eight = [0; 8];
    eight[..tail.len()].copy_from_slice(tail);
    out_tail.copy_from_slice(&gather::<B>(u64::from_le_bytes(eight)).to_le_bytes()[..out_tail.len()]);
}

fn unpack_width<const B: usize>(stream: &[u8], out: &mut [u8]) {
    let whole = out.len() / 8;
    let (body, tail) = stream.split_at(whole * B);
    let (out_body, out_tail) = out.split_at_mut(whole * 8);
    for (bytes, eight) in body.chunks_exact(B).zip(out_body.chunks_exact_mut(8)) {
        let mut word = [0; 8];
        word[..B].copy_from_slice(bytes);
        eight.copy_from_slice(&spread::<B>(u64::from_le_bytes(word)).to_le_bytes());
    }
    let mut word = [0; 8];
    word[..tail.len()].copy_from_slice(tail);
    out_tail.copy_from_slice(&spread::<B>(u64::from_le_bytes(word)).to_le_bytes()[..out_tail.len()]);
}

/// The low `B` bits of each byte, side by side: pairs of codes, then pairs of pairs, then the two halves.
#[inline(always)]
fn gather<const B: usize>(bytes: u64) -> u64 {
    let step = |x: u64, n: usize, lane: usize| {
        let mask = low_bits(n, 2 * lane);
        x & mask | (x >> lane & mask) << n
    };
    step(step(step(bytes, B, 8), 2 * B, 16), 4 * B, 32)
}

/// The inverse of [`gather`].
#[inline(always)]
fn spread<const B: usize>(word: u64) -> u64 {
    let step = |x: u64, n: usize, lane: usize| {
        let mask = low_bits(n, 2 * lane);
        x & mask | (x >> n & mask) << lane
    };
    step(step(step(word, 4 * B, 32), 2 * B, 16), B, 8)
}

/// The low `n` bits of each lane of `lane` bits.
#[inline(always)]
const fn low_bits(n: usize, lane: usize) -> u64 {
    let mut mask = 0;
    let mut start = 0;
    while start < 64 {
        mask |= ((1 << n) - 1) << start;
        start += lane;
    }
    mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One bit at a time.
    fn pack_slowly(codes: &[u8], bits: u8, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        for (i, &code) in codes.iter().enumerate() {
            for k in 0..bits as usize {
                let bit = i * bits as usize + k;
                out[bit / 8] |= (code >> k & 1) << (bit % 8);
            }
        }
        out
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
    }

    proptest! {
        #[test]
        fn the_fast_path_is_the_bitwise_one(
            bits in 1u8..=8,
            codes in prop::collection::vec(any::<u8>(), 0..70),
            spare in 0usize..5,
        ) {
            let codes: Vec<u8> = codes.iter().map(|c| (u16::from(*c) & ((1 << bits) - 1)) as u8).collect();
            let mut packed = vec![0xaa; packed_len(codes.len(), bits) + spare];
            pack(&codes, bits, &mut packed);
            prop_assert_eq!(&packed, &pack_slowly(&codes, bits, packed.len()));
            let mut back = vec![0xaa; codes.len()];
            unpack(&packed, bits, &mut back);
            prop_assert_eq!(back, codes);
        }
    }

    #[test]
    fn golden_words() {
        let mut row = [0; 4];
        pack(&[0, 1, 2, 3, 4, 5, 6, 7], 4, &mut row);
        assert_eq!(words(&row), [0x7654_3210]);
        let codes: Vec<u8> = (0..32).map(|i| i % 8).collect();
        let mut row = [0; 12];
        pack(&codes, 3, &mut row);
        assert_eq!(words(&row), [0x88fa_c688, 0xc688_fac6, 0xfac6_88fa]);
    }

    #[test]
    fn codes_that_are_too_wide_do_not_disturb_their_neighbours() {
        let (mut wide, mut cut) = ([0; 3], [0; 3]);
        pack(&[0xff; 8], 3, &mut wide);
        pack(&[0x07; 8], 3, &mut cut);
        assert_eq!(wide, cut);
    }
}
