//! TopK: each rank sends its largest entries with their places; what it does not send, it keeps for later.
//!
//! Source: Stich, Cordonnier, Jaggi, arXiv:1809.07599; Alistarh et al., arXiv:1809.10505. Selections differ between
//! ranks, so they are gathered and not summed: the traffic grows with the number of ranks, and density times ranks
//! must stay well below one.
//!
//! Payload of a matrix: `k` places (`u32`), then `k` values (`f32`), little-endian, places ascending.

use crate::communicator::{Communicator, divide};
use crate::compressor::{Compressor, Input, Reduced, at_end, unless_out_of_range};
use crate::error::{Error, Result};
use crate::state::State;

/// Parts in which a density is given: level 100 keeps 1%.
pub const DENSITY_PARTS: usize = 10_000;

/// Bytes of one entry: place and value.
pub(crate) const ENTRY_BYTES: usize = 8;

/// Number of entries that `level` parts of 10,000 keep of `len`: rounded, at least 1, at most all.
pub fn kept(len: usize, level: usize) -> usize {
    let exact = len as u128 * level as u128 + DENSITY_PARTS as u128 / 2;
    ((exact / DENSITY_PARTS as u128) as usize).max(1).min(len)
}

/// Places of the `k` largest magnitudes, ascending. Equal magnitudes: the lower place is taken.
pub(crate) fn largest(values: &[f32], k: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    let k = k.min(places.len());
    if 0 < k && k < places.len() {
        let order =
            |a: &usize, b: &usize| values[*b].abs().total_cmp(&values[*a].abs()).then_with(|| a.cmp(b));
        places.select_nth_unstable_by(k - 1, order);
    }
    places.truncate(k);
    places.sort_unstable();
    places
}

/// The family; it has no state besides the residuals.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopK {
    /// Without error feedback if set: what is not sent is lost.
    forget: bool,
}

impl TopK {
    /// With error feedback, or without (a baseline: it does not converge in general).
    pub fn new(error_feedback: bool) -> Self {
        Self { forget: !error_feedback }
    }
}

fn encode(input: &Input<'_>, bytes: &mut Vec<u8>) -> Result<Vec<usize>> {
    if u32::try_from(input.values.len()).is_err() {
        return Err(Error::setting("top k: values in a tensor", input.values.len(), "fewer than 2^32"));
    }
    let places = largest(input.values, kept(input.values.len(), input.level));
    bytes.extend(places.iter().flat_map(|&place| (place as u32).to_le_bytes()));
    bytes.extend(places.iter().flat_map(|&place| input.values[place].to_le_bytes()));
    Ok(places)
}

/// Adds the entries of one payload to `sum`, and returns the rest of `bytes`.
fn add<'b>(input: &Input<'_>, bytes: &'b [u8], sum: &mut [f32]) -> Result<&'b [u8]> {
    let k = kept(input.values.len(), input.level);
    let bad = |found: String, expected: String| Error::Payload {
        what: "top k",
        name: input.name.to_string(),
        found,
        expected,
    };
    if bytes.len() < k * ENTRY_BYTES {
        return Err(bad(format!("{} bytes", bytes.len()), format!("at least {}", k * ENTRY_BYTES)));
    }
    let (own, rest) = bytes.split_at(k * ENTRY_BYTES);
    let (places, values) = own.split_at(k * 4);
    for (place, value) in places.chunks_exact(4).zip(values.chunks_exact(4)) {
        let place = u32::from_le_bytes([place[0], place[1], place[2], place[3]]) as usize;
        let value = f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        let len = sum.len();
        let slot = sum
            .get_mut(place)
            .ok_or_else(|| bad(format!("place {place}"), format!("a place below {len}")))?;
        *slot += value;
    }
    Ok(rest)
}

impl Compressor for TopK {
    fn reduce(&mut self, inputs: &[Input<'_>], comm: &dyn Communicator) -> Result<Option<Vec<Reduced>>> {
        let mut payload = Vec::new();
        let mut residuals = Vec::with_capacity(inputs.len());
        for input in inputs {
            let mut residual = input.values.to_vec();
            for place in encode(input, &mut payload)? {
                residual[place] = 0.0;
            }
            residuals.push(residual);
        }
        let gathered = comm.all_gather(&payload)?;
        let mut means: Vec<Vec<f32>> = inputs.iter().map(|i| vec![0.0; i.values.len()]).collect();
        for bytes in &gathered {
            let mut rest = bytes.as_slice();
            for (input, sum) in inputs.iter().zip(&mut means) {
                rest = add(input, rest, sum)?;
            }
            at_end(rest, "top k", inputs)?;
        }
        let reduced = means.into_iter().zip(residuals).map(|(mut mean, residual)| {
            divide(&mut mean, comm.size());
            Reduced { mean, residual: (!self.forget).then_some(residual) }
        });
        Ok(unless_out_of_range(reduced.collect()))
    }

    fn save(&self, _state: &mut State) {}

    fn load(&mut self, _state: &State) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_by_hand_with_ties() {
        let values = [1.0, -3.0, 3.0, 0.0, -1.0];
        assert_eq!(largest(&values, 1), [1]);
        assert_eq!(largest(&values, 2), [1, 2]);
        assert_eq!(largest(&values, 3), [0, 1, 2]); // 1 and -1 tie: the first
        assert_eq!(largest(&values, 9), [0, 1, 2, 3, 4]);
        assert!(largest(&values, 0).is_empty() && largest(&[], 3).is_empty());
        assert_eq!((kept(1000, 100), kept(10, 100), kept(149, 100), kept(7, 20_000)), (10, 1, 1, 7));
    }

    #[test]
    fn damaged_payloads_are_refused() {
        let input = Input { name: "w", n: 1, m: 3, level: 4000, values: &[1.0, 2.0, 3.0] };
        let mut bytes = Vec::new();
        assert_eq!(encode(&input, &mut bytes).unwrap(), [2]);
        let mut sum = [0.0; 3];
        assert!(add(&input, &bytes, &mut sum).unwrap().is_empty());
        assert_eq!(sum, [0.0, 0.0, 3.0]);
        assert!(add(&input, &bytes[1..], &mut sum).unwrap_err().to_string().contains("7 bytes"));
        bytes[0] = 3;
        assert!(add(&input, &bytes, &mut sum).unwrap_err().to_string().contains("place 3"));
    }
}
