//! Rows of logits of which only the largest are kept: the other classes share what is left of the probability.
//!
//! Hundreds of passes over a small set make its labels larger than its images, and nearly all of the bytes are classes that the
//! teacher holds for impossible. Of a row `z` of `C` logits the `k` largest stay, and each of the others becomes
//! `ln(sum of their exp(z)) - ln(C - k)`: the kept classes have the probabilities that they had, all the others one and the same.
//! (Exactly so at temperature 1; a softened row is softened from there.)

use trimtab_io::{Bytes, Dtype, RawTensor};

use crate::error::{Error, Result};

/// Indices of the `k` largest logits, largest first, equal ones in the order of their classes; of the rest only that they are the rest.
pub(crate) fn order(row: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    let by = |&a: &usize, &b: &usize| row[b].total_cmp(&row[a]).then(a.cmp(&b));
    // Of a large vocabulary only those that are kept are sorted.
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, by);
    }
    order.truncate(k);
    order.sort_unstable_by(by);
    order
}

/// Gives all but the `k` largest logits of a row the one value with which they share their probability.
pub(super) fn cut(row: &mut [f32], k: usize) {
    let mut kept = vec![false; row.len()];
    order(row, k).into_iter().for_each(|class| kept[class] = true);
    let rest = || row.iter().zip(&kept).filter(|(_, kept)| !**kept).map(|(&z, _)| f64::from(z));
    let (largest, count) = rest().fold((f64::NEG_INFINITY, 0.0), |(most, n), z| (most.max(z), n + 1.0));
    if count == 0.0 || largest == f64::NEG_INFINITY {
        return;
    }
    let shared = largest + (rest().map(|z| (z - largest).exp()).sum::<f64>() / count).ln();
    row.iter_mut().zip(&kept).filter(|(_, kept)| !**kept).for_each(|(z, _)| *z = shared as f32);
}

/// Refuses a number of logits that leaves no class to share, or keeps none.
pub(super) fn check(k: usize, classes: usize) -> Result<()> {
    match (1..classes).contains(&k) {
        true => Ok(()),
        false => Err(Error::setting("top_k", format!("must lie between 1 and {}, found {k}", classes - 1))),
    }
}

/// Type of the number of a class in a file.
fn index_type(classes: usize) -> Dtype {
    match classes {
        ..=0x100 => Dtype::U8,
        0x101..=0x8000 => Dtype::I16,
        _ => Dtype::I32,
    }
}

/// Bytes of a row in a file: the kept logits and their classes, and the shared one.
pub(super) fn row_bytes(k: usize, classes: usize) -> usize {
    2 * (k + 1) + k * index_type(classes).size()
}

/// Cut rows as a file holds them: F16 `[.., k + 1]`, the shared logit last, and classes `[.., k]`.
pub(super) fn pack(logits: &[f32], shape: [usize; 3], k: usize) -> Result<[RawTensor; 2]> {
    let [epochs, images, classes] = shape;
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in logits.chunks_exact(classes) {
        let kept = order(row, k);
        let shared =
            (0..classes).find(|class| !kept.contains(class)).map_or(f32::NEG_INFINITY, |class| row[class]);
        values.extend(kept.iter().map(|&class| row[class]).chain([shared]));
        indices.extend(kept);
    }
    let dtype = index_type(classes);
    let bytes = match dtype {
        Dtype::U8 => Bytes::from(indices.iter().map(|&class| class as u8).collect::<Vec<_>>()),
        Dtype::I16 => Bytes::from_numbers(indices.iter().map(|&class| class as i16).collect()),
        _ => Bytes::from_numbers(indices.iter().map(|&class| class as i32).collect()),
    };
    Ok([
        RawTensor::from_f32(vec![epochs, images, k + 1], &values, Dtype::F16)?,
        RawTensor::new(dtype, vec![epochs, images, k], bytes)?,
    ])
}

/// The rows that [`pack`] was given; `None` if a class is none of `classes`, or shapes do not fit.
pub(super) fn unpack([values, indices]: [&RawTensor; 2], classes: usize) -> Result<Option<Vec<f32>>> {
    let (&[epochs, images, wide], &[e, n, k]) = (&values.shape[..], &indices.shape[..]) else {
        return Ok(None);
    };
    if [epochs, images, wide] != [e, n, k + 1] || k == 0 || k >= classes {
        return Ok(None);
    }
    let (numbers, indices) = (values.to_f32()?, indices.to_i64()?);
    let mut logits = Vec::new();
    for (values, indices) in numbers.chunks_exact(wide).zip(indices.chunks_exact(k)) {
        let row = logits.len();
        logits.resize(row + classes, values[k]);
        for (&class, &value) in indices.iter().zip(values) {
            let Some(class) = usize::try_from(class).ok().filter(|&class| class < classes) else {
                return Ok(None);
            };
            logits[row + class] = value;
        }
    }
    Ok(Some(logits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probabilities(row: &[f32]) -> Vec<f64> {
        let weights: Vec<f64> = row.iter().map(|&z| f64::from(z).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / sum).collect()
    }

    #[test]
    fn kept_classes_keep_their_probability_and_the_rest_share_theirs() {
        let row = [0.5, 3.0, -2.0, 2.5, 0.0, -1.0f32];
        let before = probabilities(&row);
        for k in 1..6 {
            let mut after = row;
            cut(&mut after, k);
            let kept = order(&row, k);
            let found = probabilities(&after);
            let rest: f64 = (0..6).filter(|class| !kept.contains(class)).map(|class| before[class]).sum();
            for class in 0..6 {
                let expected = if kept.contains(&class) { before[class] } else { rest / (6 - k) as f64 };
                assert!((found[class] - expected).abs() < 1e-6, "{k}, {class}: {}, {expected}", found[class]);
            }
            let again = after;
            cut(&mut after, k);
            assert!(again.iter().zip(after).all(|(a, b)| (a - b).abs() < 1e-6), "a cut row stays what it is");
        }
        // Control: what is cut was not there before.
        let mut after = row;
        cut(&mut after, 2);
        assert!((probabilities(&after)[2] - before[2]).abs() > 1e-2);
    }

    #[test]
    fn rows_come_back_from_their_tensors() {
        for classes in [5usize, 300, 40_000] {
            let mut logits = vec![0.0f32; 2 * 3 * classes];
            for (at, z) in logits.iter_mut().enumerate() {
                *z = ((at * 7919) % 64) as f32 / 8.0 - 4.0;
            }
            logits.chunks_exact_mut(classes).for_each(|row| cut(row, 3));
            let rounded =
                RawTensor::from_f32(vec![logits.len()], &logits, Dtype::F16).unwrap().to_f32().unwrap();
            let [values, indices] = pack(&rounded, [2, 3, classes], 3).unwrap();
            assert_eq!(values.bytes.len() + indices.bytes.len(), 6 * row_bytes(3, classes));
            assert_eq!(unpack([&values, &indices], classes).unwrap(), Some(rounded), "{classes}");
            assert_eq!(unpack([&values, &indices], 3).unwrap(), None, "fewer classes than are named");
            assert_eq!(unpack([&indices, &values], classes).ok().flatten(), None);
        }
        assert_eq!([row_bytes(3, 10), row_bytes(3, 1000), row_bytes(3, 40_000)], [11, 14, 20]);
        assert!(check(3, 4).is_ok() && check(4, 4).is_err() && check(0, 4).is_err());
    }
}
