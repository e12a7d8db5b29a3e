//! How the colours of images are normalized.

use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;
use trimtab_io::Checkpoint;

use crate::error::Error;

/// Mean and standard deviation of the colours.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Per channel.
    pub mean: Vec<f32>,
    /// Per channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// `normalize.mean` and `normalize.std` of the file's metadata, else `image_mean` and `image_std` of
    /// `preprocessor_config.json`, else `mean` and `std` of `pretrained_cfg` in `config.json` (timm), else those of the
    /// family.
    pub(crate) fn of(checkpoint: &Checkpoint, family: Option<&Self>) -> crate::Result<Self> {
        let keys = ["normalize.mean", "normalize.std"];
        let fail =
            |message: String| Error::Config { model: checkpoint.path().display().to_string(), message };
        let beside = match checkpoint.side_file("preprocessor_config.json")? {
            Some(bytes) if !keys.iter().any(|key| checkpoint.metadata().contains_key(*key)) => {
                let value: Value = serde_json::from_slice(&bytes)
                    .map_err(|e| fail(format!("preprocessor_config.json: {e}")))?;
                numbers(&value["image_mean"]).zip(numbers(&value["image_std"]))
            }
            _ => None,
        };
        let timm = checkpoint.config().and_then(|config| config.get("pretrained_cfg"));
        let timm = timm.and_then(|config| numbers(&config["mean"]).zip(numbers(&config["std"])));
        let beside = beside.or(timm);
        let stated = keys.map(|key| checkpoint.metadata().get(key).map(|text| (key, text)));
        let (mean, std) = match (stated, beside, family) {
            ([None, None], Some(beside), _) => beside,
            ([None, None], None, Some(family)) => (family.mean.clone(), family.std.clone()),
            (stated, ..) => {
                let read = |i: usize| {
                    let values = stated[i].and_then(|(_, text)| {
                        text.split(',').map(|v| v.trim().parse().ok()).collect::<Option<Vec<f32>>>()
                    });
                    let lacks = || {
                        fail(format!("the file's metadata lacks \"{}\" (numbers joined by commas)", keys[i]))
                    };
                    values.ok_or_else(lacks)
                };
                (read(0)?, read(1)?)
            }
        };
        let sound = mean.len() == std.len()
            && mean.iter().all(|v| v.is_finite())
            && std.iter().all(|v| v.is_finite() && *v > 0.0);
        match sound {
            true => Ok(Self { mean, std }),
            false => Err(fail(format!(
                "colours are normalized by {mean:?} and {std:?}: expected as many means as positive deviations"
            ))),
        }
    }

    /// Bytes of images (`[n, C, H, W]`) to what the network takes.
    pub fn apply(&self, pixels: &[u8], [n, c, h, w]: [usize; 4], device: &Device) -> Tensor<4> {
        let values = pixels.iter().enumerate().map(|(i, &p)| {
            let channel = i / (h * w) % c;
            (f32::from(p) / 255.0 - self.mean[channel]) / self.std[channel]
        });
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), [n, c, h, w]), device)
    }
}

fn numbers(value: &Value) -> Option<Vec<f32>> {
    value.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32)).collect()
}
