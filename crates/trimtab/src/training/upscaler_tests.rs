//! A network that makes pictures larger, from the recipe of its search to the file that runs.

use burn::tensor::Device;
use trimtab_io::{Checkpoint, ImageSet};
use trimtab_nn::Ctx;
use trimtab_train::search::{Cut, Patches, Upscaler, psnr};

use super::tests::{Place, StopAt};
use super::upscaler::{GENOTYPE, read_genotype};
use super::*;
use crate::monitor::Quiet;

const SEARCH: &str = r#"
version = 1
dtype = "f32"

[upscaler.search]
channels = 6
cells = 1
ops = ["conv1", "conv3"]

[data.patches]
path = "pictures.safetensors"
side = 8

[training]
batch = 10
save_every = 1

[[training.phases]]
name = "weights"
epochs = 2
rate = 1e-3
trainable = ["network"]
optimizer = { kind = "adam" }

[[training.phases]]
name = "search"
epochs = 3
rate = 1e-3
optimizer = { kind = "adam" }
groups = [{ paths = ["logits"], rate = 0.1, optimizer = { kind = "adam", beta_1 = 0.5 } }]
"#;

const TRAIN: &str = r#"
version = 1
dtype = "f32"

[upscaler]
genotype = "found"

[data.patches]
path = "pictures.safetensors"
side = 8

[training]
batch = 10

[[training.phases]]
epochs = 6
rate = 3e-3
optimizer = { kind = "adam" }
"#;

impl Place {
    fn refused(&self, recipe: &str) -> String {
        let error = self.train(recipe, "refused", &mut Quiet::default()).unwrap_err().to_string();
        assert!(!self.path("refused").exists() && !self.path("refused.partial").exists(), "{error}");
        error
    }
}

#[test]
fn what_a_search_finds_is_trained_in_its_bits_and_runs_from_its_file() {
    let place = Place::new();
    let summary = place.train(SEARCH, "found", &mut Quiet::default()).unwrap();
    let genotype = read_genotype(&place.path("found")).unwrap();
    assert_eq!(summary.bit_ops, Some(genotype.bit_ops().unwrap()));
    assert!(summary.certainty.unwrap() > 0.25 && summary.psnr.is_none(), "{summary:?}");
    assert!(summary.heldout_loss < 0.5, "a mixture is measured by the batch: {summary:?}");
    let told: Value = serde_json::from_slice(&place.bytes("found", "coefficients.json")).unwrap();
    let sum: f64 = told["tail"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{told}");
    // A search that was stopped finds the same.
    place.train(SEARCH, "stopped", &mut StopAt(10 * 7)).unwrap_err();
    place.train(SEARCH, "stopped", &mut Quiet::default()).unwrap();
    for file in ["model.safetensors", GENOTYPE, "coefficients.json"] {
        assert!(place.bytes("found", file) == place.bytes("stopped", file), "{file}");
    }
    let trained = place.train(TRAIN, "net", &mut Quiet::default()).unwrap();
    assert_eq!(place.bytes("net", GENOTYPE), place.bytes("found", GENOTYPE));
    // The file does what was measured.
    let device = Device::flex();
    let checkpoint = Checkpoint::open(place.path("net")).unwrap();
    let network = Upscaler::read(&genotype, &checkpoint, &device).unwrap();
    let set = ImageSet::read(place.path("pictures.safetensors"), "test").unwrap();
    let test = Patches::new(set, [8, 2], Cut::Middle, 0).unwrap();
    let measure = |network: &Upscaler| {
        psnr(&test, 16, &device, |small| network.forward(small, &mut Ctx::default())).unwrap()
    };
    assert!((measure(&network) - trained.psnr.unwrap()).abs() < 1e-3, "{trained:?}");
    let fresh = Upscaler::of(&genotype, 0, &device).unwrap();
    assert!(measure(&fresh) < trained.psnr.unwrap() - 1.0, "control: training is what made it good");
    // It can be gone on with.
    let little = TRAIN.replace("epochs = 6", "steps = 1").replace("rate = 3e-3", "rate = 1e-9");
    let again = place.train(&format!("start = \"net\"\n{little}"), "again", &mut Quiet::default()).unwrap();
    assert!((again.psnr.unwrap() - trained.psnr.unwrap()).abs() < 1.0, "{again:?} {trained:?}");
}

#[test]
fn recipes_that_do_not_hold_together_leave_nothing_behind() {
    let place = Place::new();
    let without =
        SEARCH.replace("\n[upscaler.search]\nchannels = 6\ncells = 1\nops = [\"conv1\", \"conv3\"]\n", "");
    assert!(place.refused(&without).contains("upscaler"));
    assert!(place.refused(&SEARCH.replace("\"f32\"", "\"bf16\"")).contains("dtype"));
    assert!(place.refused(&SEARCH.replace("cells = 1", "bits = [5]")).contains("found 5"));
    assert!(place.refused(&SEARCH.replace("save_every = 1", "rounds = 2")).contains("rounds"));
    assert!(place.refused(&SEARCH.replace("side = 8", "side = 9")).contains("side"));
    let weights = SEARCH.replace("name = \"search\"", "trainable = [\"network\"]");
    assert!(place.refused(&weights).contains("nothing would be chosen"));
    assert!(place.refused(TRAIN).contains("found"), "there is no genotype yet");
    std::fs::write(place.path("found"), "{\"version\": 1}").unwrap();
    assert!(place.refused(TRAIN).contains("skeleton"));
    let classes = super::tests::PICTURES.replace("[data.images]", "[upscaler.search]\n[data.images]");
    assert!(place.refused(&classes).contains("data.patches"));
    let unknown = SEARCH.replace("cells = 1", "cell = 1");
    assert!(Recipe::parse(&unknown, "recipe.toml").unwrap_err().to_string().contains("cell"));
}
