//! Accuracy of a classifier.

use serde::Serialize;
use trimtab_math::stats::argmax;
use trimtab_nn::{Flow, host};

use crate::error::{Error, Result};

/// How often a classifier is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ImageScore {
    /// Share of images whose most likely class is the label, in percent.
    pub accuracy: f64,
    /// Images.
    pub images: usize,
    /// Images that were right.
    pub correct: usize,
}

impl ImageScore {
    /// Scores the output on one batch, whose first image has the index `first` (for messages).
    pub fn of(output: Flow, labels: &[i64], first: usize) -> Result<Self> {
        let Flow::Vector(x) = output else {
            return Err(Error::Output { expected: "one vector an image", found: output.kind() });
        };
        let [_, classes] = x.dims();
        let values: Vec<f32> = host(x);
        let mut score = Self::default();
        for (i, (row, &label)) in values.chunks(classes).zip(labels).enumerate() {
            let image = first + i;
            if row.iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite { row: image });
            }
            if label < 0 || label as usize >= classes {
                return Err(Error::Label { label, image, classes });
            }
            score.correct += usize::from(argmax(row) == Some(label as usize));
        }
        score.add(&Self { images: labels.len(), ..Self::default() });
        Ok(score)
    }

    /// Adds the score of other images.
    pub fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.correct += other.correct;
        self.accuracy = 100.0 * self.correct as f64 / self.images.max(1) as f64;
    }
}
