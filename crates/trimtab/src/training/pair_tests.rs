//! An encoder and a decoder: the loss and the gradients are those of transformers, and a whole run at the smallest size.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor, TensorData};
use serde::Deserialize;
use trimtab_models::Model;
use trimtab_models::init;
use trimtab_models::pico::tokenizer::{END_OF_TEXT, PADDING};
use trimtab_nn::Task;
use trimtab_sample::{Generation, Sampling};
use trimtab_train::denoise::{DenoisePairs, Example, Mode, PairBatch, Vocabulary};
use trimtab_train::{Objective, Pass};

use super::language::{Ends, config, pair_logits, trainable};
use super::tests::StopAfter;
use super::*;
use crate::monitor::Quiet;

/// Largest difference to the loss of transformers, both about 5 nats; f32 here, f64 there.
const LOSS: f64 = 1e-5;
/// Largest difference of the length of a gradient and of its sum, relative to the length.
const GRADIENT: f64 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    padding: u32,
    end: u32,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    examples: Vec<Row>,
    loss: f64,
    loss_without_mask: f64,
    /// Length and sum.
    gradients: BTreeMap<String, [f64; 2]>,
}

#[derive(Deserialize)]
struct Row {
    inputs: Vec<u32>,
    targets: Vec<u32>,
}

impl Golden {
    fn read() -> Self {
        serde_json::from_str(include_str!("../../tests/fixtures/t5_loss.json")).unwrap()
    }

    fn batch(&self, case: &Case, least: [usize; 2]) -> PairBatch {
        let vocabulary = Vocabulary::numbered(40, 4, None, self.end, self.padding).unwrap();
        let example = |row: &Row| Example {
            mode: Mode::R,
            tokens: 0,
            inputs: row.inputs.clone(),
            targets: row.targets.clone(),
        };
        let examples: Vec<Example> = case.examples.iter().map(example).collect();
        PairBatch::of(&examples, least, &vocabulary, &device()).unwrap()
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// A parity fixture.
fn open(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name);
    let model = Model::open(&folder.display().to_string(), None).unwrap();
    assert_eq!(model.task(), Task::Pairs);
    model
}

/// A parity fixture, to be trained.
fn fixture(name: &str) -> Network {
    open(name).trainable(&device()).unwrap()
}

/// The loss, and the gradient of every tensor.
fn slopes(network: &Network, batch: &PairBatch) -> (f64, BTreeMap<String, Vec<f32>>) {
    let loss = DenoisePairs(pair_logits).loss(network, batch, &mut Pass::default()).unwrap();
    let value = f64::from(loss.mean.clone().into_scalar::<f32>());
    let mut collect =
        Collect { gradients: loss.mean.backward(), path: String::new(), found: BTreeMap::new() };
    network.visit(&mut collect);
    (value, collect.found)
}

struct Collect {
    gradients: burn::tensor::Gradients,
    path: String,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path = name.into();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(&self.gradients).map(|gradient| gradient.into_data());
        let values = gradient.map_or_else(Vec::new, |data| data.iter::<f32>().collect());
        self.found.insert(self.path.clone(), values);
    }
}

#[test]
fn loss_and_gradients_of_a_padded_batch_are_those_of_transformers() {
    let golden = Golden::read();
    assert_eq!(golden.cases.len(), 2);
    for (name, case) in &golden.cases {
        let network = fixture(name);
        let batch = golden.batch(case, [0, 0]);
        let (loss, gradients) = slopes(&network, &batch);
        assert!((loss - case.loss).abs() < LOSS, "{name}: {loss}, expected {}", case.loss);
        // Encoder, decoder, attention across, both tables of positions, and the embedding that three places share.
        assert_eq!(gradients.keys().collect::<Vec<_>>(), case.gradients.keys().collect::<Vec<_>>());
        for (tensor, values) in &gradients {
            let [length, sum] = case.gradients[tensor];
            let norm = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let total: f64 = values.iter().map(|&v| f64::from(v)).sum();
            assert!(length > 1e-3, "{name}, {tensor}: there is a gradient");
            assert!((norm - length).abs() < GRADIENT * length, "{name}, {tensor}: {norm}, expected {length}");
            assert!((total - sum).abs() < GRADIENT * length, "{name}, {tensor}: {total}, expected {sum}");
        }
    }
}

#[test]
fn padding_changes_nothing_unless_it_is_seen() {
    let golden = Golden::read();
    for (name, case) in &golden.cases {
        let network = fixture(name);
        let [(loss, gradients), (wide, same)] =
            [[0, 0], [17, 13]].map(|least| slopes(&network, &golden.batch(case, least)));
        assert!((loss - wide).abs() < LOSS, "{name}: {loss} {wide}");
        for (tensor, values) in &gradients {
            let length = case.gradients[tensor][0];
            let far = values.iter().zip(&same[tensor]).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            assert!(far.sqrt() < GRADIENT * length, "{name}, {tensor}: {}", far.sqrt());
        }
        // Control: without the mask it is another function, the one that transformers then computes, and far from it.
        let seen = |least| {
            let mut batch = golden.batch(case, least);
            batch.keep = batch.keep.clone().bool_or(batch.keep.bool_not());
            slopes(&network, &batch).0
        };
        assert!((seen([0, 0]) - case.loss_without_mask).abs() < LOSS, "{name}");
        assert!(
            (seen([0, 0]) - loss).abs() > 100.0 * LOSS && (seen([17, 13]) - loss).abs() > 100.0 * LOSS,
            "{name}"
        );
    }
}

#[test]
fn a_decoder_that_writes_one_token_at_a_time_says_what_the_whole_pass_says() {
    let (read, written) = ([5, 9, 30, 7, 1], [0u32, 33, 12, 40, 21, 8, 3]);
    for name in ["t5", "t5_gated"] {
        let model = open(name);
        let network = model.network().unwrap();
        let ids = |ids: &[u32]| {
            let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
            let n = ids.len();
            Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n]), &Device::flex())
        };
        let whole = pair_logits(&network, [ids(&read), ids(&written)], &mut Default::default()).unwrap();
        let whole: Vec<f32> = whole.into_data().iter::<f32>().collect();
        let decoder = model.decoder_stage().unwrap();
        let begin = |read: &[u32]| {
            Generation::reading(&network, decoder, read, Sampling { temperature: 0.0, ..Sampling::default() })
        };
        let mut generation = begin(&read).unwrap();
        let far = |found: &[f32], place: usize| {
            let expected = &whole[place * 48..(place + 1) * 48];
            found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        // Two at once, then one by one.
        assert!(far(&generation.feed(&written[..2]).unwrap(), 1) < 1e-4, "{name}");
        for (place, id) in written.iter().enumerate().skip(2) {
            assert!(far(&generation.feed(&[*id]).unwrap(), place) < 1e-4, "{name}, {place}");
        }
        assert_eq!(generation.position(), written.len());
        // Control: after another text it says something else.
        let other = begin(&[5, 9, 31, 7, 1]).unwrap().feed(&written).unwrap();
        assert!(far(&other, written.len() - 1) > 1e-2, "{name}");
    }
}

const TINY: &str = r#"
version = 1
window = 32
dtype = "f32"

[model]
architectures = ["T5ForConditionalGeneration"]
model_type = "t5"
d_model = 16
d_kv = 8
d_ff = 24
num_layers = 1
num_decoder_layers = 2
num_heads = 2
feed_forward_proj = "gated-gelu"
tie_word_embeddings = true

[tokenizer]
vocab = 300

[denoise]
sentinels = 6
mixture = { s_share = 0.25 }

[data.stories]
count = 12
heldout = 2

[training]
batch = 4

[[training.phases]]
steps = 30
rate = 0.02
"#;

fn run(recipe: &Recipe, output: &Path, monitor: &mut dyn Monitor) -> Result<Summary> {
    train(recipe, Path::new("."), output, false, &Device::flex(), monitor)
}

#[test]
fn a_run_learns_resumes_and_writes_what_transformers_calls_t5() {
    let recipe = Recipe::parse(TINY, "tiny.toml").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [whole, stopped, short] = ["whole", "stopped", "short"].map(|name| dir.path().join(name));
    let summary = run(&recipe, &whole, &mut Quiet::default()).unwrap();
    // A few steps take it below a uniform guess over 300 tokens (5.70 nats), where it does not start.
    let one = Recipe::parse(&TINY.replace("steps = 30", "steps = 1"), "one.toml").unwrap();
    let begun = run(&one, &short, &mut Quiet::default()).unwrap();
    assert!(
        summary.heldout_loss < 5.3 && summary.heldout_loss < begun.heldout_loss - 0.3,
        "{summary:?} {begun:?}"
    );

    let model = Model::open(&whole.display().to_string(), None).unwrap();
    assert_eq!(
        (model.task(), model.family(), model.vocab(), model.tied()),
        (Task::Pairs, "t5", Some(300), true)
    );
    assert_eq!(model.unclaimed(), Vec::<&str>::new());
    let tokenizer = model.tokenizer().unwrap();
    let id = |name: &str| u64::from(tokenizer.token_id(name).unwrap());
    for file in ["config.json", "generation_config.json"] {
        let text = std::fs::read_to_string(whole.join(file)).unwrap();
        let fields: Value = serde_json::from_str(&text).unwrap();
        let of = |name: &str| fields[name].as_u64();
        assert_eq!(of("decoder_start_token_id"), Some(id(PADDING)), "{file}");
        assert_eq!((of("pad_token_id"), of("eos_token_id")), (Some(id(PADDING)), Some(id(END_OF_TEXT))));
        assert!(fields.get("bos_token_id").is_none());
    }
    assert!(tokenizer.token_id("<extra_id_5>").is_some() && tokenizer.token_id("[NLG]").is_some());

    let error = run(&recipe, &stopped, &mut StopAfter(11)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }) && !stopped.exists(), "{error}");
    assert_eq!(run(&recipe, &stopped, &mut Quiet::default()).unwrap().heldout_loss, summary.heldout_loss);
    for entry in std::fs::read_dir(&whole).unwrap() {
        let name = entry.unwrap().file_name();
        let bytes = |dir: &Path| std::fs::read(dir.join(&name)).unwrap();
        assert!(bytes(&whole) == bytes(&stopped), "{name:?}");
    }
    assert!(
        std::fs::read(whole.join("model.safetensors")).unwrap()
            != std::fs::read(short.join("model.safetensors")).unwrap()
    );
}

#[test]
fn an_encoder_and_a_decoder_need_denoisers() {
    let text = TINY.replace("[denoise]\nsentinels = 6\nmixture = { s_share = 0.25 }\n", "");
    let recipe = Recipe::parse(&text, "plain.toml").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = run(&recipe, &dir.path().join("out"), &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("denoise") && error.contains("decoder"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "before anything is written");
}

#[test]
fn the_recipe_of_t5_starts_at_the_loss_of_a_guess() {
    let recipe = Recipe::parse(include_str!("../../../../recipes/t5.toml"), "t5.toml").unwrap();
    recipe.training.check().unwrap();
    assert!(recipe.denoise.as_ref().unwrap().mixture.mode_tokens);
    let vocab = recipe.tokenizer.as_ref().unwrap().vocab;
    let config = config(recipe.model.as_ref().unwrap(), vocab, Ends { end: 0, padding: Some(1) }, "float32");
    assert!(init::is_text_to_text(&config).unwrap());
    let network = trainable(init::checkpoint(&config, 0, Dtype::F32).unwrap(), &Device::flex()).unwrap();
    let vocabulary = Vocabulary::numbered(1000, 4, None, 0, 1).unwrap();
    let ids = |n: u32, step: u32| (0..n).map(|i| 2 + i * step % 990).collect::<Vec<u32>>();
    let example =
        |i: u32| Example { mode: Mode::R, tokens: 0, inputs: ids(60, 7 + i), targets: ids(40, 11 + i) };
    let examples: Vec<Example> = (0..4).map(example).collect();
    let batch = PairBatch::of(&examples, [0, 0], &vocabulary, &device()).unwrap();
    let (loss, gradients) = slopes(&network, &batch);
    // Logits have a spread of about 1: half a nat above ln 1024 = 6.93, and not the tens of nats of unscaled ones.
    assert!((6.7..8.2).contains(&loss), "{loss}");
    for (tensor, values) in gradients {
        assert!(values.iter().any(|v| *v != 0.0) && values.iter().all(|v| v.is_finite()), "{tensor}");
    }
}
