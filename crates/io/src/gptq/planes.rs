//! The bit planes of `gptq_p`.

use super::config::BLOCK;
use crate::bits;

/// Widths of the planes of a code, low bits first.
fn planes(width: u8) -> &'static [u8] {
    match width {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        8 => &[8],
        _ => panic!("codes in planes have 2 to 8 bits, not {width}"),
    }
}

/// Codes of planar words: every 32 codes are `width` words, those of the low plane first.
///
/// # Panics
/// If `width` is not in `2..=8`, or `out` has not 32 codes for every `width` words.
pub(super) fn unpack_planes(words: &[u32], width: u8, out: &mut [u8]) {
    assert_eq!(words.len() * BLOCK, out.len() * usize::from(width), "32 codes are {width} words");
    for (words, codes) in words.chunks_exact(width.into()).zip(out.chunks_exact_mut(BLOCK)) {
        codes.fill(0);
        let (mut first, mut shift) = (0, 0);
        for &plane in planes(width) {
            let mut part = [0; BLOCK];
            let n_words = usize::from(plane);
            bits::unpack(bytemuck::cast_slice(&words[first..first + n_words]), plane, &mut part);
            codes.iter_mut().zip(part).for_each(|(code, part)| *code |= part << shift);
            first += n_words;
            shift += plane;
        }
    }
}

/// Turns planar words into the dense stream of the same codes, in place.
pub(super) fn flatten_planes(words: &mut [u32], width: u8) {
    let mut codes = [0; BLOCK];
    for block in words.chunks_exact_mut(width.into()) {
        unpack_planes(block, width, &mut codes);
        bits::pack(&codes, width, bytemuck::cast_slice_mut(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_by_hand() {
        // Codes i % 32 of 5 bits: the low plane is 4 bits of each, the high one bit 4 of each.
        let words = [0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98, 0xffff_0000];
        let mut codes = [0; 32];
        unpack_planes(&words, 5, &mut codes);
        assert_eq!(codes.to_vec(), (0..32).collect::<Vec<u8>>());
        let mut flat = words;
        flatten_planes(&mut flat, 5);
        let mut back = [0; 32];
        bits::unpack(bytemuck::cast_slice(&flat), 5, &mut back);
        assert_eq!(back, codes);
        // Widths of one plane are the dense stream already.
        let mut same = [0x1234_5678, 0x9abc_def0, 3, 4];
        flatten_planes(&mut same, 4);
        assert_eq!(same, [0x1234_5678, 0x9abc_def0, 3, 4]);
    }
}
