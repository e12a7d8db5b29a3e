//! Networks that are trained for few bits, from the recipe to the file that runs.

use trimtab_io::ImageSet;
use trimtab_models::Model;
use trimtab_nn::Weight;
use trimtab_train::{NextToken, TokenWindows};

use super::tests::{PICTURES, Place, StopAt, labelled};
use super::*;
use crate::judge::Judge;
use crate::monitor::Quiet;
use crate::switching::{WIDTHS, switch};

impl Place {
    /// Share of the test images that the model in a folder gets right.
    fn accuracy(&self, name: &str) -> f64 {
        let model = Model::open(&self.path(name).display().to_string(), None).unwrap();
        let set = ImageSet::read(self.path("pictures.safetensors"), "test").unwrap();
        let judge = Judge::Images { set };
        let quality = judge.score(&model, &model.network().unwrap(), &mut Quiet::default()).unwrap();
        quality.accuracy.unwrap() / 100.0
    }
}

fn with(quantization: &str) -> String {
    format!("{PICTURES}\n[quantization]\n{quantization}\n")
}

#[test]
fn one_code_serves_all_widths_and_every_file_does_what_was_measured() {
    let place = Place::new();
    let recipe = with("method = \"double_rounding\"").replace("rate = 0.1", "rate = 0.03");
    let summary = place.train(&recipe, "whole", &mut Quiet::default()).unwrap();
    let bits: Vec<u8> = summary.widths.iter().map(|at| at.bits).collect();
    assert_eq!(bits, [8, 6, 4, 2]);
    let right: Vec<f64> = summary.widths.iter().map(|at| at.accuracy.unwrap()).collect();
    assert!(right[..3].iter().all(|share| *share > 0.6), "{right:?}");
    assert_eq!(summary.accuracy, summary.widths[0].accuracy, "what is measured is the highest width");
    // As it lies there, it runs at 8 bits.
    let model = Model::open(&place.path("whole").display().to_string(), None).unwrap();
    let network = model.network().unwrap();
    let packed = |site: &&trimtab_nn::Site| matches!(site.weight, Weight::Packed(_)) && site.input.len() == 1;
    assert_eq!(
        (network.sites().filter(packed).count(), network.sites().count()),
        (6, 8),
        "all but the first and the last"
    );
    assert!((place.accuracy("whole") - right[0]).abs() < 1e-9);
    let mut sizes = Vec::new();
    for (bits, right) in [8, 6, 4, 2].into_iter().zip(&right) {
        let name = format!("at{bits}");
        let switched = switch(&place.path("whole"), bits, &place.path(&name), false).unwrap();
        assert_eq!((switched.bits, switched.sites), (bits, 6));
        assert!(
            (place.accuracy(&name) - right).abs() < 1e-9,
            "{bits} bits: {} {right}",
            place.accuracy(&name)
        );
        sizes.push(switched.bytes);
        assert!(!place.path(&name).join(WIDTHS).exists());
    }
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    assert_ne!(place.bytes("at8", "model.safetensors"), place.bytes("at6", "model.safetensors"));
    let refused = |from: &str, bits: u8| {
        switch(&place.path(from), bits, &place.path("no"), false).unwrap_err().to_string()
    };
    assert!(refused("whole", 3).contains("[8, 6, 4, 2], not 3"));
    assert!(refused("at4", 2).contains(WIDTHS), "{}", refused("at4", 2));
    // A run that was stopped ends in the same bytes, norms and steps of all widths included.
    let error = place.train(&recipe, "stopped", &mut StopAt(7 * 12)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    place.train(&recipe, "stopped", &mut Quiet::default()).unwrap();
    for file in ["model.safetensors", WIDTHS, "config.json"] {
        assert!(place.bytes("whole", file) == place.bytes("stopped", file), "{file}");
    }
}

#[test]
fn a_trained_network_can_be_begun_with() {
    let place = Place::new();
    place.train(PICTURES, "plain", &mut Quiet::default()).unwrap();
    // One step of nearly no rate: what comes out is what went in, on few bits.
    let little = PICTURES.replace("epochs = 12", "steps = 1").replace("rate = 0.1", "rate = 1e-9");
    let recipe = |start: &str| {
        format!("{start}\n{little}\n[quantization]\nmethod = \"double_rounding\"\nwidths = [8, 4]\n")
    };
    let begun = place.train(&recipe("start = \"plain\""), "begun", &mut Quiet::default()).unwrap();
    let fresh = place.train(&recipe(""), "fresh", &mut Quiet::default()).unwrap();
    // Both have seen one batch's statistics; the weights tell them apart.
    assert_ne!(place.bytes("begun", "model.safetensors"), place.bytes("fresh", "model.safetensors"));
    assert!(begun.heldout_loss != fresh.heldout_loss);
    let wide = recipe("start = \"plain\"").replace("width = 8", "width = 16");
    let error = place.train(&wide, "wide", &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("start: plain") && error.contains("of the shape of this network"), "{error}");
}

/// Stories, and a model that they are too many for.
const STORIES: &str = r#"
version = 1
window = 24
dtype = "f32"

[data.stories]
count = 40
heldout = 4

[training]
batch = 4

[[training.phases]]
steps = 300
rate = 1e-2
groups = [{ paths = ["steps."], rate = 1e-5 }]
"#;

const LLAMA: &str = r#"
[tokenizer]
vocab = 300

[model]
model_type = "llama"
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
intermediate_size = 24
max_position_embeddings = 32
rms_norm_eps = 1e-5
tie_word_embeddings = true
"#;

/// Widths of weights alone.
const WEIGHTS: &str =
    "\n[quantization]\nmethod = \"double_rounding\"\nwidths = [8, 4, 3]\ninputs = false\nalrs = false\n";

#[test]
fn texts_go_on_from_a_model_and_one_code_serves_all_widths_of_it() {
    let place = Place::new();
    let quiet = &mut Quiet::default();
    let plain = place.train(&format!("{STORIES}{LLAMA}"), "plain", quiet).unwrap();
    let stories = STORIES.replace("steps = 300", "steps = 60").replace("1e-2", "3e-3");
    let start = |rest: &str| format!("start = \"plain\"\n{stories}{rest}");
    // A step of nearly no rate gives back what it began with, tokenizer and all.
    let little = start("").replace("steps = 60", "steps = 1").replace("3e-3", "1e-12");
    let same = place.train(&little, "same", quiet).unwrap();
    assert!((same.heldout_loss - plain.heldout_loss).abs() < 1e-6, "{same:?} {plain:?}");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(place.bytes("same", file), place.bytes("plain", file), "{file}");
    }
    let longer = place.train(&start(""), "longer", quiet).unwrap();
    assert!(longer.heldout_loss < plain.heldout_loss, "{longer:?} {plain:?}");
    let summary = place.train(&start(WEIGHTS), "whole", quiet).unwrap();
    let losses: Vec<f64> = summary.widths.iter().map(|at| at.loss).collect();
    assert_eq!(summary.heldout_loss, losses[0]);
    assert!(losses[0] < plain.heldout_loss + 0.05 && losses[2] > losses[0], "{losses:?} {plain:?}");
    let untuned = place.train(&format!("{little}{WEIGHTS}"), "untuned", quiet).unwrap();
    assert!(losses[2] < untuned.widths[2].loss - 0.01, "tuning is of use at 3 bits: {losses:?} {untuned:?}");
    assert_eq!(summary.perplexity, Some(losses[0].exp()));
    // Every file does what was measured.
    let loss = |name: &str| {
        let model = Model::open(&place.path(name).display().to_string(), None).unwrap();
        let recipe = Recipe::parse(&start(""), "recipe.toml").unwrap();
        let [_, rest] = language::documents(&recipe, Path::new(".")).unwrap();
        let ids: Vec<u32> =
            rest.iter().flat_map(|text| model.tokenizer().unwrap().encode(text, false).unwrap()).collect();
        let data = TokenWindows::new(ids, 24, 300, "stories").unwrap();
        let objective = NextToken(language::logits);
        let trainer = Trainer::new(&data, &objective, &recipe.training, Device::flex());
        (trainer.heldout_loss(&model.network().unwrap(), &data).unwrap().loss, model)
    };
    for (bits, expected) in [8, 4, 3].into_iter().zip(&losses) {
        let name = format!("at{bits}");
        let switched = switch(&place.path("whole"), bits, &place.path(&name), false).unwrap();
        assert_eq!(switched.sites, 14, "all maps of both blocks");
        let (found, model) = loss(&name);
        assert!((found - expected).abs() < 1e-6, "{bits} bits: {found} {expected}");
        assert!(model.network().unwrap().sites().all(|site| site.input.is_empty()));
        // No other program has to know of widths.
        let config: Value = serde_json::from_slice(&place.bytes(&name, "config.json")).unwrap();
        assert_eq!(config["quantization_config"]["quant_method"], "compressed-tensors");
        assert_eq!(config["quantization_config"]["ignore"], serde_json::json!(["lm_head"]));
    }
    let error = place.train(&start(WEIGHTS), "stopped", &mut StopAt(4 * 12)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    place.train(&start(WEIGHTS), "stopped", quiet).unwrap();
    for file in ["model.safetensors", WIDTHS, "config.json", "tokenizer.json"] {
        assert!(place.bytes("whole", file) == place.bytes("stopped", file), "{file}");
    }
    let refused = |recipe: &str| place.train(recipe, "no", &mut Quiet::default()).unwrap_err().to_string();
    let both = refused(&format!("{}{LLAMA}", start("")));
    assert!(both.contains("leave out [model] and [tokenizer]"), "{both}");
    let quantized = refused(&start("").replace("\"plain\"", "\"at4\""));
    assert!(quantized.contains("trimtab convert"), "{quantized}");
    let bits = refused(&start("[quantization]\nmethod = \"bivit\"\n"));
    assert!(bits.contains("quantization.method"), "{bits}");
    let images = refused(&format!("{}\n[objective]\nsmoothing = 0.1\n", start(WEIGHTS)));
    assert!(images.contains("objective") && images.contains("[data.images]"), "{images}");
    let short = refused(&start(WEIGHTS).replace("window = 24", "window = 100000"));
    assert!(short.contains("one window takes"), "{short}");
    assert!(!place.path("no.partial").exists(), "nothing is begun on data that will not do");
    let masked = refused(&format!("{}[denoise]\n", start(WEIGHTS)));
    assert!(masked.contains("denoise"), "{masked}");
}

#[test]
fn formats_change_are_resumed_and_the_file_runs_in_them() {
    let place = Place::new();
    let recipe = with("method = \"adapt\"\nlookback = [4, 10]\nl1 = 1e-6");
    let summary = place.train(&recipe, "whole", &mut Quiet::default()).unwrap();
    let right = summary.accuracy.unwrap();
    assert!(right > 0.5, "{summary:?}");
    assert!(summary.word_bits.unwrap() > 8.5, "formats changed: {summary:?}");
    assert!((place.accuracy("whole") - right).abs() < 1e-9, "{} {right}", place.accuracy("whole"));
    // Every weight is a number of its format.
    let formats: Value = serde_json::from_slice(&place.bytes("whole", "formats.json")).unwrap();
    let model = Model::open(&place.path("whole").display().to_string(), None).unwrap();
    let network = model.network().unwrap();
    for site in network.sites() {
        let of = &formats[site.name()];
        let fraction = of["fraction"].as_i64().unwrap() as i32;
        assert!(site.to_f32().iter().all(|w| (w * 2f32.powi(fraction)).fract() == 0.0), "{}", site.name());
        assert!(
            site.to_f32().iter().any(|w| (w * 2f32.powi(fraction - 1)).fract() != 0.0),
            "and of no coarser one"
        );
        assert_eq!((of["weights"].as_u64().unwrap() as usize, site.input.len()), (site.meta().numel(), 1));
    }
    let error = place.train(&recipe, "stopped", &mut StopAt(7 * 12)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    place.train(&recipe, "stopped", &mut Quiet::default()).unwrap();
    for file in ["model.safetensors", "config.json", "formats.json"] {
        assert!(place.bytes("whole", file) == place.bytes("stopped", file), "{file}");
    }
    let fixed = with("method = \"adapt\"\nswitching = false\nstart = { word = 16, fraction = 8 }\nl1 = 0.0");
    assert_eq!(place.train(&fixed, "fixed", &mut Quiet::default()).unwrap().word_bits, Some(16.0));
    let average = recipe.replace("batch = 12", "batch = 12\naverage = 0.9");
    let error = place.train(&average, "average", &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("training.average"), "{error}");
}

const BITS: &str = r#"
version = 1
dtype = "f32"

[network]
kind = "vit"
image = 8
patch = 4
width = 32
blocks = 2
heads = 2
hidden = 48
classes = 3

[quantization]
method = "bivit"

[data.images]
path = "pictures.safetensors"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[training]
batch = 12

[[training.phases]]
name = "attention"
epochs = 12
rate = 3e-3
optimizer = { kind = "adamw", weight_decay = 0.0 }

[[training.phases]]
name = "all"
epochs = 12
rate = 3e-3
optimizer = { kind = "adamw", weight_decay = 0.0 }
schedule = { kind = "cosine" }
"#;

/// Labels that are all wrong do not matter to what listens to a teacher alone.
#[test]
fn networks_for_few_bits_listen_to_a_teacher_by_every_method() {
    let place = Place::new();
    place.train(PICTURES, "plain", &mut Quiet::default()).unwrap();
    labelled(&place.path("wrong.safetensors"), 1);
    let rate = |recipe: String| recipe.replace("rate = 0.1", "rate = 0.03");
    for (recipe, name) in [
        (rate(with("method = \"double_rounding\"\nwidths = [8, 4]")), "double_rounding"),
        (with("method = \"adapt\"\nlookback = [4, 10]\nl1 = 1e-6"), "adapt"),
        (BITS.to_string(), "bivit"),
    ] {
        let recipe = recipe.replace("pictures.safetensors", "wrong.safetensors");
        let right = |recipe: &str, name: &str| {
            place.train(recipe, name, &mut Quiet::default()).unwrap().accuracy.unwrap()
        };
        let taught = format!("{recipe}\n[objective]\nteacher = {{ path = \"plain\", share = 1.0 }}\n");
        let [by_labels, by_teacher] = [right(&recipe, name), right(&taught, &format!("{name}_taught"))];
        assert!(
            by_labels > 0.5 && by_teacher < 0.3,
            "{name}: {by_labels} right by wrong labels, {by_teacher}"
        );
    }
}

#[test]
fn a_transformer_becomes_one_bit_by_phases_and_its_file_counts_bits() {
    let place = Place::new();
    let summary = place.train(BITS, "whole", &mut Quiet::default()).unwrap();
    let right = summary.accuracy.unwrap();
    assert!(right > 0.5, "{summary:?}");
    assert!((place.accuracy("whole") - right).abs() < 1e-9, "the same bits are counted");
    let model = Model::open(&place.path("whole").display().to_string(), None).unwrap();
    assert_eq!(model.binary_attention(), Some(trimtab_nn::BinaryAttention::of_share(0.25)));
    let network = model.network().unwrap();
    let bits = |site: &&trimtab_nn::Site| matches!(site.weight, Weight::Coded(_)) && site.input.len() == 1;
    assert_eq!(
        network.sites().filter(bits).count(),
        12,
        "six matrices a block; patches and the classifier stay"
    );
    // Control: with attention in full precision the same file says something else.
    let mut other = model.network().unwrap();
    other.set_attention(None);
    let set = ImageSet::read(place.path("pictures.safetensors"), "test").unwrap();
    let images = model.normalization().unwrap().apply(set.pixels(0..60), set.shape, &Device::flex());
    let said = |network: &Network| {
        trimtab_nn::host(
            network
                .forward(trimtab_nn::Flow::Image(images.clone()), &mut Default::default())
                .unwrap()
                .vector("test")
                .unwrap(),
        )
    };
    assert_ne!(said(&network), said(&other));
    // After the first phase alone, attention is binary, and the rest is not.
    let first = BITS.split("[[training.phases]]\nname = \"all\"").next().unwrap();
    place.train(first, "first", &mut Quiet::default()).unwrap();
    let model = Model::open(&place.path("first").display().to_string(), None).unwrap();
    assert_eq!(model.network().unwrap().sites().filter(bits).count(), 8);
    let error = place.train(BITS, "stopped", &mut StopAt(14 * 60)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    place.train(BITS, "stopped", &mut Quiet::default()).unwrap();
    assert!(place.bytes("whole", "model.safetensors") == place.bytes("stopped", "model.safetensors"));
    let conv = with("method = \"bivit\"");
    let error = place.train(&conv, "conv", &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("transformers"), "{error}");
}

#[test]
fn an_average_is_kept_of_what_is_binary_from_the_first_phase_on() {
    let place = Place::new();
    let recipe = BITS.replace("batch = 12", "batch = 12\naverage = 0.5").replace("epochs = 12", "epochs = 1");
    let error = place.train(&recipe, "phases", &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("training.average") && error.contains("hint"), "{error}");
    let together = recipe.replace("method = \"bivit\"", "method = \"bivit\"\nstages = \"together\"");
    let right = place.train(&together, "together", &mut Quiet::default()).unwrap().accuracy.unwrap();
    assert!((place.accuracy("together") - right).abs() < 1e-9, "what was measured is what is written");
    let network =
        Model::open(&place.path("together").display().to_string(), None).unwrap().network().unwrap();
    let bits = |site: &&trimtab_nn::Site| matches!(site.weight, Weight::Coded(_)) && site.input.len() == 1;
    assert_eq!(network.sites().filter(bits).count(), 12, "all of them");
}

#[test]
fn senseless_settings_are_refused_by_name() {
    let place = Place::new();
    let refused = |recipe: String| place.train(&recipe, "no", &mut Quiet::default()).unwrap_err().to_string();
    let ascending = with("method = \"double_rounding\"\nwidths = [4, 8]");
    assert!(refused(ascending).contains("quantization.widths"));
    let truncated = with("method = \"double_rounding\"\nrounding = \"truncate\"");
    assert!(refused(truncated).contains("quantization.rounding"));
    let half = with("method = \"double_rounding\"").replace("dtype = \"f32\"", "dtype = \"bf16\"");
    assert!(refused(half).contains("dtype"));
    let all = with("method = \"double_rounding\"\nkeep = [\"conv\", \"linear\"]");
    assert!(refused(all).contains("quantization.keep"));
    let error = Recipe::parse(&with("method = \"triple_rounding\""), "recipe.toml").unwrap_err().to_string();
    assert!(error.contains("triple_rounding"), "{error}");
}
