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
    /// Adds the output on one batch.
    pub fn add(&mut self, output: Flow, labels: &[i64]) -> Result<()> {
        let Flow::Vector(x) = output else {
            return Err(Error::Output { expected: "one vector an image", found: output.kind() });
        };
        let [_, classes] = x.dims();
        let values: Vec<f32> = host(x);
        for (i, (row, &label)) in values.chunks(classes).zip(labels).enumerate() {
            let image = self.images + i;
            if row.iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite { row: image });
            }
            if label < 0 || label as usize >= classes {
                return Err(Error::Label { label, image, classes });
            }
            self.correct += usize::from(argmax(row) == Some(label as usize));
        }
        self.images += labels.len();
        self.accuracy = 100.0 * self.correct as f64 / self.images as f64;
        Ok(())
    }
}
