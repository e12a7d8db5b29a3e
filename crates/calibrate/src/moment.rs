//! The second moment of what a site reads, and the tap that sums it up.

use trimtab_math::gram::GramAccumulator;
use trimtab_math::linalg::Square;
use trimtab_nn::{SiteMeta, Tap, TapRows};

/// `H = sum w x x^T / sum w` over the rows that a site reads, `[in, in]`.
///
/// The groups of a convolution read different channels, and each has its own: the output error of a weight is the sum of those of its
/// groups of rows. For what can have but one, [`Self::mean`] is the mean over the groups.
#[derive(Clone, Debug)]
pub struct Moment {
    mean: Square,
    /// Empty where there is one group.
    groups: Vec<Square>,
}

impl From<Square> for Moment {
    fn from(mean: Square) -> Self {
        Self { mean, groups: Vec::new() }
    }
}

impl Moment {
    /// Of groups that saw as many rows each.
    ///
    /// # Errors
    /// Orders that differ.
    pub fn of_groups(mut groups: Vec<Square>) -> trimtab_math::Result<Self> {
        if groups.len() == 1 {
            return Ok(groups.remove(0).into());
        }
        let order = groups.first().map_or(0, Square::n);
        let mut mean = vec![0.0; order * order];
        for group in &groups {
            let (what, expected, found) = ("orders of the groups", order, group.n());
            if found != expected {
                return Err(trimtab_math::Error::Length { what, expected, found });
            }
            mean.iter_mut().zip(group.as_slice()).for_each(|(sum, x)| *sum += x / groups.len() as f64);
        }
        Ok(Self { mean: Square::new(order, mean)?, groups })
    }

    /// Of all groups together.
    pub fn mean(&self) -> &Square {
        &self.mean
    }

    /// Of each group: the rows of the weight are theirs in order, as many for each.
    pub fn groups(&self) -> &[Square] {
        match self.groups.is_empty() {
            true => std::slice::from_ref(&self.mean),
            false => &self.groups,
        }
    }
}

/// Accumulates `sum w x x^T`, `sum w x` and `sum w` in f64, group by group.
pub struct SecondMoment {
    sums: Vec<GramAccumulator>,
}

impl SecondMoment {
    /// For rows of `width` channels, of a convolution with so many groups (1 for anything else).
    pub fn new(width: usize, groups: usize) -> Self {
        Self { sums: vec![GramAccumulator::new(width); groups.max(1)] }
    }

    /// For what a site reads.
    pub fn of(site: &SiteMeta) -> Self {
        Self::new(site.cols, site.conv_groups())
    }

    /// `sum w`, over all groups.
    pub fn sum_w(&self) -> f64 {
        self.sums.iter().map(GramAccumulator::sum_w).sum()
    }

    /// The second moment.
    ///
    /// # Errors
    /// [`trimtab_math::Error::TooFew`] before a row of positive weight has been seen.
    pub fn moment(&self) -> trimtab_math::Result<Moment> {
        Moment::of_groups(self.sums.iter().map(GramAccumulator::mean).collect::<Result<_, _>>()?)
    }
}

impl Tap for SecondMoment {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> Result<(), String> {
        let (width, groups) = (self.sums[0].n(), self.sums.len());
        if rows.width != width {
            return Err(format!("its rows have {} channels, expected {width}", rows.width));
        }
        let count = rows.rows.len() / width.max(1);
        if let Some(weights) = rows.weights.filter(|weights| weights.len() != count) {
            return Err(format!("{} weights for {count} rows", weights.len()));
        }
        let run = if groups == 1 { count } else { rows.run };
        let parts = rows.rows.chunks((run * width).max(1)).enumerate();
        for (i, part) in parts {
            let weights = rows.weights.map(|weights| &weights[i * run..][..part.len() / width]);
            self.sums[i % groups].add(part, weights).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_summed_apart_and_their_mean_is_what_one_sum_gives() {
        // Two images, two groups, three patches of two numbers each: group by group within an image.
        let rows: Vec<f32> = (0..2 * 2 * 3 * 2).map(|i| ((i * 7) % 11) as f32 - 4.0).collect();
        let weights: Vec<f64> = [1.0; 6].into_iter().chain([0.5; 6]).collect();
        let meta = SiteMeta::linear("conv", 4, 2);
        let sum = |groups: usize, run: usize| {
            let mut tap = SecondMoment::new(2, groups);
            tap.input(&meta, TapRows { rows: &rows, width: 2, weights: Some(&weights), run }).unwrap();
            tap
        };
        let found = sum(2, 3).moment().unwrap();
        assert_eq!(found.groups().len(), 2);
        for (group, h) in found.groups().iter().enumerate() {
            let mut expected = [0.0; 4];
            for image in 0..2 {
                for patch in 0..3 {
                    let row = &rows[((image * 2 + group) * 3 + patch) * 2..][..2];
                    let w = weights[(image * 2 + group) * 3 + patch];
                    for (i, e) in expected.iter_mut().enumerate() {
                        *e += w * f64::from(row[i / 2]) * f64::from(row[i % 2]) / 4.5;
                    }
                }
            }
            let far = h.as_slice().iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(far < 1e-12, "group {group}: {far}");
        }
        assert_ne!(found.groups()[0].as_slice(), found.groups()[1].as_slice());
        let whole = sum(1, 12);
        assert_eq!(whole.sum_w(), 9.0);
        let whole = whole.moment().unwrap();
        let far = |a: &Square, b: &Square| {
            a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        assert!(far(whole.mean(), found.mean()) < 1e-12);
        assert_eq!(whole.groups().len(), 1);
        let short = TapRows { rows: &rows, width: 2, weights: Some(&weights[1..]), run: 3 };
        assert!(SecondMoment::new(2, 2).input(&meta, short).unwrap_err().contains("11 weights for 12 rows"));
        // Control: runs of another length mix the groups.
        assert!(far(&sum(2, 6).moment().unwrap().groups()[0], &found.groups()[0]) > 0.1);
    }
}
