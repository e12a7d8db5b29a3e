//! The parity fixtures of the families, as models to be rewritten.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};
use trimtab_io::Checkpoint;
use trimtab_math::random::Stream;
use trimtab_models::Model;
use trimtab_nn::{Ctx, Flow, SecondInput, Wiring};
use trimtab_rewrite::{Applied, Draft, Pass, PassSettings, Ranges, Result, apply_passes, compare};

pub struct Fixture {
    pub name: String,
    pub model: Model,
    expected: Checkpoint,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures")
}

/// Folders of all families: transformers, then convolutional networks.
pub fn all() -> Vec<String> {
    let list = |folder: &str| {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        let folders = entries.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders
            .map(|entry| format!("{folder}{}", entry.file_name().into_string().unwrap()))
            .filter(|name| name != "conv")
            .collect();
        names.sort();
        names
    };
    [list(""), list("conv/")].concat()
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        let folder = root().join(name);
        let names =
            ["config.json", "model.safetensors"].into_iter().filter(|name| folder.join(name).exists());
        let files = names.map(|name| (name.to_string(), std::fs::read(folder.join(name)).unwrap().into()));
        let checkpoint = Checkpoint::from_bytes(files.collect()).unwrap();
        let model = Model::from_checkpoint(checkpoint, None, Device::flex());
        Self {
            name: name.into(),
            model: model.unwrap_or_else(|e| panic!("{name}: {e}")),
            expected: Checkpoint::open(folder.join("expected.safetensors")).unwrap(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.expected.contains(name)
    }

    fn ids(&self, name: &str) -> Flow {
        let tensor = self.expected.tensor(name).unwrap();
        let data = TensorData::new(tensor.to_i64().unwrap(), tensor.shape);
        Flow::Tokens(Tensor::from_data(data, &Device::flex()))
    }

    fn image(&self, name: &str) -> Flow {
        let tensor = self.expected.tensor(name).unwrap();
        let shape: [usize; 4] = match tensor.shape[..] {
            [b, mels, frames] => [b, mels, 1, frames],
            [b, c, h, w] => [b, c, h, w],
            _ => panic!("{name}: {:?}", tensor.shape),
        };
        Flow::Image(Tensor::from_data(TensorData::new(tensor.to_f32().unwrap(), shape), &Device::flex()))
    }

    pub fn input(&self) -> Flow {
        let image = ["images", "pixel_values", "input_features"].into_iter().find(|name| self.has(name));
        let ids = self.has("input_ids").then(|| self.ids("input_ids"));
        let decoder = self.has("decoder_input_ids").then(|| self.ids("decoder_input_ids"));
        match (image.map(|name| self.image(name)), ids, decoder) {
            (Some(image), _, Some(ids)) => Flow::both(image, ids),
            (None, Some(first), Some(second)) => Flow::both(first, second),
            // A decoder that reads images takes the text first, a pair of towers the images.
            (Some(image), Some(ids), None) if self.model.family() == "llava" => Flow::both(ids, image),
            (Some(image), Some(ids), None) => Flow::both(image, ids),
            (Some(only), None, None) | (None, Some(only), None) => only,
            _ => panic!("{}: no input", self.name),
        }
    }

    pub fn ctx(&self) -> Ctx<'static> {
        let device = Device::flex();
        let mask = self.has("attention_mask").then(|| {
            let tensor = self.expected.tensor("attention_mask").unwrap();
            let keep: Vec<bool> = tensor.to_i64().unwrap().into_iter().map(|m| m == 1).collect();
            Tensor::<2, Bool>::from_data(TensorData::new(keep, tensor.shape), &device)
        });
        let pair = self.has("pixel_values") && mask.is_some();
        match pair {
            true => Ctx { second: SecondInput { mask, row_weights: None }, ..Ctx::default() },
            false => Ctx { mask, ..Ctx::default() },
        }
    }

    pub fn wiring(&self) -> Wiring {
        self.model.wiring()
    }

    pub fn draft(&self) -> Draft<'_> {
        Draft::new(self.model.checkpoint(), self.wiring())
    }

    /// Ranges as if some data had been seen.
    pub fn ranges(&self) -> Arc<Ranges> {
        let range = |norm: &trimtab_nn::NormEdge| {
            let mut random = Stream::new(7, &norm.name, 0, 0);
            let values: Vec<f64> = (0..norm.axis.size()).map(|_| (2.0 * random.normal()).exp()).collect();
            (norm.name.clone(), values)
        };
        Arc::new(self.wiring().norms.iter().map(range).collect::<BTreeMap<_, _>>())
    }

    pub fn rewrite(&self, passes: &[Pass], settings: &PassSettings) -> Result<(Draft<'_>, Vec<Applied>)> {
        let mut draft = self.draft();
        let settings = PassSettings { ranges: Some(self.ranges()), ..settings.clone() };
        let applied = apply_passes(&mut draft, passes, &settings)?;
        Ok((draft, applied))
    }

    /// Largest difference of what the network gives before and after.
    pub fn change(&self, draft: &Draft<'_>) -> f64 {
        let model = Model::from_checkpoint(draft.to_checkpoint().unwrap(), None, Device::flex())
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        assert_eq!(model.family(), self.model.family());
        assert_eq!(model.unclaimed(), self.model.unclaimed(), "{}", self.name);
        compare(&self.model, &model, &self.input(), || self.ctx()).unwrap().largest
    }
}
