//! How small the crops may be while images are recovered.

use serde::{Deserialize, Serialize};

/// The least share of an image that a crop takes, over the steps of a recovery: from all of it down to `least`.
///
/// The first steps fix the outline of an image; small crops at that time give patchwork (CDA, arXiv:2311.18838).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curriculum {
    /// Half a cosine.
    #[default]
    Cosine,
    /// A line.
    Linear,
    /// The whole image up to the milestone.
    Step,
}

impl Curriculum {
    /// The least share of the area at `step` of `steps`; `milestone` is the share of the steps after which it is `least`
    /// (0: from the start, which is the method without a curriculum).
    pub fn least_area(self, step: usize, steps: usize, milestone: f64, least: f64) -> f64 {
        let end = milestone * steps as f64;
        let step = step as f64;
        if step >= end {
            return least;
        }
        let left = match self {
            Self::Step => 1.0,
            Self::Linear => 1.0 - step / end,
            Self::Cosine => (1.0 + (std::f64::consts::PI * step / end).cos()) / 2.0,
        };
        least + (1.0 - least) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_and_the_middle_are_those_of_the_paper() {
        let area =
            |curriculum: Curriculum, step, milestone| curriculum.least_area(step, 1000, milestone, 0.08);
        for curriculum in [Curriculum::Cosine, Curriculum::Linear, Curriculum::Step] {
            assert_eq!(
                [area(curriculum, 0, 1.0), area(curriculum, 1000, 1.0)],
                [1.0, 0.08],
                "{curriculum:?}"
            );
            assert_eq!(area(curriculum, 0, 0.0), 0.08, "without a milestone there is no curriculum");
            assert_eq!(area(curriculum, 500, 0.5), 0.08);
        }
        assert!((area(Curriculum::Cosine, 500, 1.0) - 0.54).abs() < 1e-12);
        assert!((area(Curriculum::Linear, 250, 1.0) - 0.77).abs() < 1e-12);
        assert_eq!(area(Curriculum::Step, 999, 1.0), 1.0);
    }
}
