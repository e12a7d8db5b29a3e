//! Positions as numbers that are added to the scores.

use burn::tensor::{Int, Tensor, TensorData};
use trimtab_nn::Table;

use super::RelativePositions;

/// What is added to the scores of `t` queries, the last ones of `s` positions: `[H, T, S]`.
pub(super) fn bias(
    table: &Table,
    positions: RelativePositions,
    causal: bool,
    [t, s]: [usize; 2],
) -> Tensor<3> {
    let rows = table.rows();
    let [_, heads] = rows.dims();
    let bucket = |i: usize, j: usize| positions.bucket(j as i64 - (s - t + i) as i64, causal) as i64;
    let index: Vec<i64> = (0..t).flat_map(|i| (0..s).map(move |j| bucket(i, j))).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [t * s]), &rows.device());
    rows.select(0, index).transpose().reshape([heads, t, s])
}

impl RelativePositions {
    /// Row for a key that stands `distance` after the query: one each for near keys, wider and wider ones beyond. Without
    /// causality the rows are shared between both sides.
    fn bucket(&self, distance: i64, causal: bool) -> usize {
        let (rows, first, far) = match (causal, distance > 0) {
            (true, _) => (self.buckets, 0, (-distance).max(0) as usize),
            (false, after) => {
                let half = self.buckets / 2;
                (half, if after { half } else { 0 }, distance.unsigned_abs() as usize)
            }
        };
        let exact = rows / 2;
        if far < exact {
            return first + far;
        }
        let share = (far as f32 / exact as f32).ln() / (self.max_distance as f32 / exact as f32).ln();
        first + (exact + (share * (rows - exact) as f32) as usize).min(rows - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_keys_have_rows_of_their_own_and_far_ones_share() {
        let positions = RelativePositions { buckets: 32, max_distance: 128 };
        let both = |distance| positions.bucket(distance, false);
        assert_eq!([0, -1, -7, 1, 7].map(both), [0, 1, 7, 17, 23]);
        assert_eq!([-8, -127, -128, -5000].map(both), [8, 15, 15, 15]);
        let before = |distance| positions.bucket(distance, true);
        assert_eq!([5, 0, -15, -16, -5000].map(before), [0, 0, 15, 16, 31]);
    }
}
