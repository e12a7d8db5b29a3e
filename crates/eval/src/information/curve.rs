//! Estimates over the epochs of a training run, and how much of its information a layer gave up.

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};

use super::{Estimate, Result};

/// Share of the recorded epochs whose mean is the final value.
const FINAL_SHARE: f64 = 0.05;

/// One estimate of one layer at one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Epoch of training.
    pub epoch: u64,
    /// Path of the layer.
    pub layer: String,
    /// Name of the estimator.
    pub estimator: String,
    /// The bins or the noise that make the numbers what they are.
    pub assumption: String,
    /// `I(T;X)` in bits, if the estimator has one.
    #[serde(rename = "I_TX")]
    pub i_tx: Option<f64>,
    /// `I(T;Y)` in bits.
    #[serde(rename = "I_TY")]
    pub i_ty: f64,
}

/// How far `I(T;X)` of a layer fell from its largest value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compression {
    /// Path of the layer.
    pub layer: String,
    /// Name of the estimator.
    pub estimator: String,
    /// What it assumes.
    pub assumption: String,
    /// `(max − final) / max`, where final is the mean of the last 5% of the recorded epochs; `None` if there never was any
    /// information. The paper does not state its own measure.
    pub score: Option<f64>,
}

/// Records in the order they were made. As JSON it is the list of its records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Curve {
    /// The records.
    pub records: Vec<Record>,
}

impl Curve {
    /// Adds an estimate.
    pub fn push(&mut self, epoch: u64, layer: &str, estimate: &Estimate) {
        self.records.push(Record {
            epoch,
            layer: layer.into(),
            estimator: estimate.estimator.into(),
            assumption: estimate.assumption.clone(),
            i_tx: estimate.i_tx,
            i_ty: estimate.i_ty,
        });
    }

    /// The scores of all layers under all assumptions that have an `I(T;X)`, ordered by layer, estimator, assumption.
    pub fn compression(&self) -> Vec<Compression> {
        let mut groups = BTreeMap::<(&str, &str, &str), Vec<(u64, f64)>>::new();
        for record in &self.records {
            if let Some(i_tx) = record.i_tx {
                let name = (record.layer.as_str(), record.estimator.as_str(), record.assumption.as_str());
                groups.entry(name).or_default().push((record.epoch, i_tx));
            }
        }
        let mut found = Vec::with_capacity(groups.len());
        for ((layer, estimator, assumption), mut points) in groups {
            points.sort_by_key(|point| point.0);
            let values: Vec<f64> = points.iter().map(|point| point.1).collect();
            found.push(Compression {
                layer: layer.into(),
                estimator: estimator.into(),
                assumption: assumption.into(),
                score: score(&values),
            });
        }
        found
    }

    /// Writes the columns epoch, layer, estimator, assumption, I_TX and I_TY with a header.
    ///
    /// # Errors
    /// [`super::Error::Csv`].
    pub fn write_csv(&self, to: impl Write) -> Result<()> {
        let mut writer = csv::Writer::from_writer(to);
        for record in &self.records {
            writer.serialize(record)?;
        }
        writer.flush().map_err(csv::Error::from)?;
        Ok(())
    }
}

fn score(values: &[f64]) -> Option<f64> {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !(max > 0.0 && max.is_finite()) {
        return None;
    }
    let last = ((values.len() as f64 * FINAL_SHARE) as usize).max(1);
    let last = &values[values.len() - last..];
    Some((max - last.iter().sum::<f64>() / last.len() as f64) / max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(values: &[f64]) -> Curve {
        let mut curve = Curve::default();
        for (epoch, &value) in values.iter().enumerate() {
            let estimate =
                Estimate { estimator: "ebab", assumption: "30, bins".into(), i_tx: Some(value), i_ty: 0.5 };
            curve.push(epoch as u64, "layers.0", &estimate);
        }
        curve
    }

    #[test]
    fn scores_by_hand() {
        // 40 records: the last two, 2 and 4, are final; the largest is 6: (6 - 3) / 6.
        let mut values = vec![5.0; 37];
        values.extend([6.0, 2.0, 4.0]);
        let mut found = curve(&values);
        assert_eq!(found.compression()[0].score, Some(0.5));
        found.records.reverse();
        assert_eq!(found.compression()[0].score, Some(0.5), "epochs order records");
        assert_eq!(curve(&[1.0, 2.0, 3.0]).compression()[0].score, Some(0.0), "no fall, no compression");
        assert_eq!(curve(&[0.0]).compression()[0].score, None);
        let mut two = curve(&[1.0, 0.5]);
        two.records[1].assumption = "another".into();
        assert_eq!(two.compression().len(), 2, "numbers of two assumptions are never compared");
    }

    #[test]
    fn tables_and_json() {
        let mut curve = curve(&[1.5]);
        curve.push(3, "out", &Estimate { estimator: "knn", assumption: "k".into(), i_tx: None, i_ty: 0.25 });
        let mut bytes = Vec::new();
        curve.write_csv(&mut bytes).unwrap();
        let expected = "epoch,layer,estimator,assumption,I_TX,I_TY\n0,layers.0,ebab,\"30, bins\",1.5,0.5\n\
                        3,out,knn,k,,0.25\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        let json = serde_json::to_string(&curve).unwrap();
        assert_eq!(serde_json::from_str::<Curve>(&json).unwrap(), curve);
    }
}
