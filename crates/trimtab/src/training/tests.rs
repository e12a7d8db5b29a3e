//! A whole run at the smallest size, and the gradient of the real architecture.

use burn::tensor::{Tensor, TensorData};
use trimtab_io::augment::{Mixer, Normalize};
use trimtab_io::{ImageSet, Tokenizer};
use trimtab_models::pico::checkpoint as pico_checkpoint;
use trimtab_models::pico::tokenizer::END_OF_TEXT;
use trimtab_models::{Model, init};
use trimtab_nn::{StageSource, Weight};
use trimtab_train::distil::{DistilledSet, Replay, SoftLabels};
use trimtab_train::{Item, NextToken, Objective, Pass, TokenWindows};

use super::language::{Ends, config, documents, logits, split};
use super::*;
use crate::monitor::Quiet;

const TINY: &str = r#"
version = 1
window = 32

[model]
architectures = ["LlamaForCausalLM"]
model_type = "llama"
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
intermediate_size = 24
max_position_embeddings = 32
rms_norm_eps = 1e-5
tie_word_embeddings = true

[tokenizer]
vocab = 300

[data.stories]
count = 12
heldout = 2

[training]
batch = 4

[[training.phases]]
steps = 6
rate = 0.01
"#;

fn config_of(recipe: &Recipe, end: u32) -> Value {
    let vocab = recipe.tokenizer.as_ref().unwrap().vocab;
    let ends = Ends { end, padding: None };
    config(recipe.model.as_ref().unwrap(), vocab, ends, recipe.dtype.name())
}

fn tiny() -> Recipe {
    Recipe::parse(TINY, "tiny.toml").unwrap()
}

fn run(recipe: &Recipe, output: &Path, monitor: &mut dyn Monitor) -> Result<Summary> {
    train(recipe, Path::new("."), output, false, &Device::flex(), monitor)
}

/// Asks to stop after a number of steps of training.
pub(super) struct StopAfter(pub usize);

impl Monitor for StopAfter {
    fn begin(&mut self, _: &str, _: usize) {}
    fn advance(&mut self, done: usize, detail: &str) {
        if detail.starts_with("loss") && done == 4 * self.0 {
            self.0 = 0;
        }
    }
    fn note(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
    fn interrupted(&self) -> bool {
        self.0 == 0
    }
}

#[test]
fn a_run_writes_a_model_that_opens_and_an_interrupted_one_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let summary = run(&tiny(), &whole, &mut Quiet::default()).unwrap();
    assert_eq!(summary.steps, 6);
    assert!((summary.perplexity.unwrap() - summary.heldout_loss.exp()).abs() < 1e-9);
    // An untrained model spreads over 300 tokens: 5.7 nats.
    assert!(summary.heldout_loss < 5.6, "{summary:?}");
    let model = Model::open(&whole.display().to_string(), None).unwrap();
    assert_eq!((model.vocab(), model.tied()), (Some(300), true));
    assert_eq!(model.stages().iter().map(|stage| stage.numel).sum::<usize>(), summary.params);
    assert_eq!(model.tokenizer().unwrap().vocab_size(), 300);

    let error = run(&tiny(), &stopped, &mut StopAfter(3)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }) && !stopped.exists(), "{error}");
    assert_eq!(run(&tiny(), &stopped, &mut Quiet::default()).unwrap().heldout_loss, summary.heldout_loss);
    for entry in std::fs::read_dir(&whole).unwrap() {
        let name = entry.unwrap().file_name();
        let bytes = |dir: &Path| std::fs::read(dir.join(&name)).unwrap();
        assert!(bytes(&whole) == bytes(&stopped), "{name:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "both, and their metrics");
    assert!(run(&tiny(), &whole, &mut Quiet::default()).is_err(), "an existing output is kept");
    let other = Recipe { seed: 1, ..tiny() };
    run(&other, &dir.path().join("other"), &mut Quiet::default()).unwrap();
    let weights = |dir: &str| std::fs::read(dir_of(&whole).join(dir).join("model.safetensors")).unwrap();
    assert!(weights("other") != weights("whole"), "the seed matters");
}

/// The metrics of an output, without times.
fn metrics(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(metrics_of(output)).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let times = ["terms_per_s", "seconds_left"].map(|name| line.as_object_mut().unwrap().remove(name));
        assert!(times.iter().all(Option::is_some));
        line
    };
    text.lines().map(line).collect()
}

#[test]
fn every_step_has_one_line_of_metrics_however_often_a_run_was_stopped() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let recipe =
        Recipe::parse(&TINY.replace("batch = 4", "batch = 4\nheldout_every = 2"), "tiny.toml").unwrap();
    run(&recipe, &whole, &mut Quiet::default()).unwrap();
    let expected = metrics(&whole);
    let steps: Vec<u64> = expected.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    let measured = |line: &&Value| line["heldout"]["loss"].is_f64();
    assert_eq!(expected.iter().filter(measured).count(), 3);
    // What a kill leaves after a saved state: lines of later steps, the last one torn.
    run(&recipe, &killed, &mut StopAfter(2)).unwrap_err();
    let path = metrics_of(&killed);
    assert_eq!(metrics(&killed), expected[..2]);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let later = std::fs::read_to_string(metrics_of(&whole)).unwrap();
    let later: Vec<&str> = later.lines().skip(2).collect();
    write!(file, "{}\n{}\n{}", later[0], later[1], &later[2][..20]).unwrap();
    drop(file);
    run(&recipe, &killed, &mut StopAfter(5)).unwrap_err();
    assert_eq!(metrics(&killed), expected[..5]);
    // Another number of batches ahead is the same run.
    let mut other = recipe.clone();
    other.training.prefetch = 3;
    run(&other, &killed, &mut Quiet::default()).unwrap();
    assert_eq!(metrics(&killed), expected);
    let is_metrics = |path: &Path| path.extension().is_some_and(|extension| extension == "jsonl");
    assert!(std::fs::read_dir(&killed).unwrap().all(|file| !is_metrics(&file.unwrap().path())));
    // A file that is gone is not made up again, and that is said.
    let gone = dir.path().join("gone");
    run(&recipe, &gone, &mut StopAfter(2)).unwrap_err();
    std::fs::remove_file(metrics_of(&gone)).unwrap();
    let mut quiet = Quiet::default();
    run(&recipe, &gone, &mut quiet).unwrap();
    assert!(metrics(&gone) == expected[2..] && quiet.warnings[0].contains("2 of the 2 steps"));
    // Somebody else's file stays.
    let taken = dir.path().join("taken");
    std::fs::write(metrics_of(&taken), "notes\n").unwrap();
    let error = run(&recipe, &taken, &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("already exists") && !taken.exists(), "{error}");
}

#[test]
fn metrics_that_cannot_be_written_end_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    std::fs::create_dir(metrics_of(&output)).unwrap();
    let error = run(&tiny(), &output, &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("out.metrics.jsonl") && !output.exists(), "{error}");
}

fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap()
}

#[test]
fn a_recipe_asks_for_denoisers() {
    let dir = tempfile::tempdir().unwrap();
    let denoise = "[denoise]\nsentinels = 6\nmixture = { s_share = 0.25 }\n\n[training]";
    let recipe = Recipe::parse(&TINY.replace("[training]", denoise), "tiny.toml").unwrap();
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let summary = run(&recipe, &whole, &mut Quiet::default()).unwrap();
    assert!(summary.steps == 6 && summary.heldout_loss < 5.7, "{summary:?}");
    let tokenizer = Model::open(&whole.display().to_string(), None).unwrap().tokenizer().unwrap();
    for name in ["<extra_id_0>", "<extra_id_5>", "[NLU]", "[S2S]", "[NLG]"] {
        assert!(tokenizer.token_id(name).is_some(), "{name}");
    }
    assert_eq!((tokenizer.token_id("<extra_id_6>"), tokenizer.vocab_size()), (None, 300));
    let error = run(&recipe, &stopped, &mut StopAfter(3)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert_eq!(run(&recipe, &stopped, &mut Quiet::default()).unwrap().heldout_loss, summary.heldout_loss);
    // Settings that make no sense are named.
    let wrong = |change: &str| {
        let output = dir.path().join(change.split(' ').nth(2).unwrap_or_default());
        let text = TINY.replace("[training]", &format!("[denoise]\n{change}\n\n[training]"));
        run(&Recipe::parse(&text, "wrong.toml").unwrap(), &output, &mut Quiet::default())
            .unwrap_err()
            .to_string()
    };
    assert!(wrong("mixture = { s_share = 2.0 }").contains("s_share"));
    assert!(wrong("sentinels = 0").contains("<extra_id_0>"));
    assert!(wrong("sentinels = 50").contains("53 more special tokens"));
}

#[test]
fn the_recipe_of_ul2_is_one() {
    let recipe = Recipe::parse(include_str!("../../../../recipes/ul2.toml"), "ul2.toml").unwrap();
    recipe.training.check().unwrap();
    let MixtureConfig { mode_tokens, denoisers, .. } = recipe.denoise.unwrap().mixture;
    assert_eq!((mode_tokens, denoisers.len()), (true, 6));
}

#[test]
fn text_files_are_cut_at_a_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "one line\nzwei Zeilen\ntrois\n").unwrap();
    let data = DataSource::Text { files: vec!["a.txt".into()], heldout: 0.3 };
    let recipe = Recipe { data, ..tiny() };
    let [train, heldout] = documents(&recipe, dir.path()).unwrap();
    assert_eq!(train, ["one line\n</s>"]);
    assert_eq!(heldout, ["zwei Zeilen\ntrois\n</s>"]);
    assert_eq!(split("äöü", 0.5), ("ä</s>".into(), "öü</s>".into()), "never inside a character");
    let nonsense = Recipe { data: DataSource::Text { files: Vec::new(), heldout: 1.0 }, ..tiny() };
    assert!(documents(&nonsense, dir.path()).unwrap_err().to_string().contains("heldout"));
}

#[test]
fn recipes_are_checked() {
    let error = |text: &str| Recipe::parse(text, "r.toml").unwrap_err().to_string();
    assert!(error(&TINY.replace("version = 1", "version = 2")).contains("version 2"));
    assert!(error(&TINY.replace("batch = 4", "batches = 4")).contains("batches"));
    assert!(error(&TINY.replace("rate = 0.01", "")).contains("rate"));
}

#[test]
fn the_recipe_of_the_embedded_model_describes_it() {
    let recipe = Recipe::parse(include_str!("../../../../recipes/pico.toml"), "pico.toml").unwrap();
    let checkpoint = pico_checkpoint().unwrap();
    let end = Tokenizer::of(&checkpoint).unwrap().token_id(END_OF_TEXT).unwrap();
    assert_eq!(checkpoint.config(), Some(&config_of(&recipe, end)));
    recipe.training.check().unwrap();
}

#[test]
fn the_gradient_of_the_tied_embedding_is_the_slope_of_the_loss() {
    let recipe = tiny();
    let (device, config) = (Device::flex(), config_of(&recipe, 0));
    let checkpoint = init::checkpoint(&config, 1, Dtype::F32).unwrap();
    let model = Model::from_checkpoint(checkpoint, None, device.clone()).unwrap();
    let module = model.trainable(&device.clone().autodiff()).unwrap();
    let data = TokenWindows::new((0..65).map(|i| (i * 11) % 29).collect(), 16, 300, "text").unwrap();
    let items = [0, 1, 2, 3].map(|index| Item { index, epoch: 0 });
    let loss = |module: &Network, device: &Device| {
        let batch = data.batch(&items, device).unwrap();
        NextToken(logits).loss(module, &batch, &mut Pass::default()).unwrap().mean
    };
    let backward = loss(&module, &device.clone().autodiff()).backward();
    let site = module.sites().next().unwrap();
    let Weight::Dense(param) = &site.weight else { panic!("a trainable weight is dense") };
    let gradient: Vec<f32> = param.val().grad(&backward).unwrap().into_data().try_into_vec().unwrap();
    let base: Vec<f32> = param.val().into_data().try_into_vec().unwrap();
    let at = |index: usize, step: f32| {
        let mut changed = base.clone();
        changed[index] += step;
        let mut module = burn::module::Module::valid(&module);
        let tensor = Tensor::from_data(TensorData::new(changed, [300, 16]), &device);
        module.stage_mut(0).sites_mut().remove(0).set_weight(Weight::dense(tensor)).unwrap();
        f64::from(loss(&module, &device).into_scalar::<f32>())
    };
    // Inputs are below 29: the third row is only a candidate of the head.
    for index in [3, 11 * 16 + 5, 200 * 16 + 9] {
        let step = 2e-3;
        let difference = (at(index, step) - at(index, -step)) / (2.0 * f64::from(step));
        // The loss (5.7) is rounded to 5e-7: a difference to 2e-4. Curvature (embeddings of size 0.02) adds less.
        let error = (difference - f64::from(gradient[index])).abs();
        assert!(error < 5e-4, "{index}: {difference} {}", gradient[index]);
    }
    let largest = gradient.iter().fold(0.0f32, |a, g| a.max(g.abs()));
    assert!(largest > 5e-3, "there is something to compare: {largest}");
}

pub(super) const PICTURES: &str = r#"
version = 1
dtype = "f32"

[network]
kind = "resnet_cifar"
depth = 8
width = 8
classes = 3

[data.images]
path = "pictures.safetensors"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
augment = [{ kind = "random_crop", padding = 1 }, { kind = "horizontal_flip" }]

[training]
batch = 12

[[training.phases]]
epochs = 12
rate = 0.1
optimizer = { kind = "sgd", momentum = 0.9, weight_decay = 1e-4 }
schedule = { kind = "cosine" }
"#;

/// A folder with images, and recipes that are trained there.
pub(super) struct Place(tempfile::TempDir);

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        pictures(&dir.path().join("pictures.safetensors"));
        Self(dir)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn train(&self, recipe: &str, name: &str, monitor: &mut dyn Monitor) -> Result<Summary> {
        let recipe = Recipe::parse(recipe, "recipe.toml").unwrap();
        train(&recipe, self.0.path(), &self.path(name), false, &Device::flex(), monitor)
    }

    pub(super) fn bytes(&self, name: &str, file: &str) -> Vec<u8> {
        std::fs::read(self.path(name).join(file)).unwrap()
    }
}

/// Images of three classes, told apart by their brightest colour.
pub(super) fn pictures(path: &Path) {
    labelled(path, 0);
}

/// [`pictures`] whose labels are so many classes further on.
pub(super) fn labelled(path: &Path, further: i64) {
    let (n, size) = (60usize, 8usize);
    let mut stream = trimtab_math::random::Stream::new(1, "pictures", 0, 0);
    let mut tensors = Vec::new();
    for split in ["train", "test"] {
        let labels: Vec<i64> = (0..n as i64).map(|i| i % 3).collect();
        let mut pixels = Vec::new();
        for label in &labels {
            for channel in 0..3 {
                let base = if channel == *label { 110 } else { 60 };
                pixels.extend((0..size * size).map(|_| (base + stream.below(90)) as u8));
            }
        }
        let images = RawTensor::new(Dtype::U8, vec![n, 3, size, size], pixels.into()).unwrap();
        let labels: Vec<u8> = labels.iter().flat_map(|label| ((label + further) % 3).to_le_bytes()).collect();
        let labels = RawTensor::new(Dtype::I64, vec![n], labels.into()).unwrap();
        tensors.push((format!("{split}.images"), images));
        tensors.push((format!("{split}.labels"), labels));
    }
    std::fs::write(path, trimtab_io::to_safetensors(&tensors, &Default::default()).unwrap()).unwrap();
}

#[test]
fn a_classifier_learns_resumes_and_is_evaluated_as_the_loop_measured_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pictures.safetensors");
    pictures(&file);
    let recipe = Recipe::parse(PICTURES, "pictures.toml").unwrap();
    let run = |recipe: &Recipe, name: &str, monitor: &mut dyn Monitor| {
        train(recipe, dir.path(), &dir.path().join(name), false, &Device::flex(), monitor)
    };
    let summary = run(&recipe, "whole", &mut Quiet::default()).unwrap();
    assert_eq!((summary.steps, summary.items, summary.tokens), (60, 60, None));
    assert!(summary.accuracy.unwrap() > 0.9, "{summary:?}");
    // What is written computes what was measured: running statistics and all.
    let model = Model::open(&dir.path().join("whole").display().to_string(), None).unwrap();
    assert_eq!(model.family(), "resnet_cifar");
    let test = ImageSet::read(&file, "test").unwrap();
    let images = model.normalization().unwrap().apply(test.pixels(0..60), test.shape, &Device::flex());
    let found = model.network().unwrap().forward(trimtab_nn::Flow::Image(images), &mut Default::default());
    let guesses = found.unwrap().vector("test").unwrap().argmax(1).into_data();
    let right = guesses.iter::<i64>().zip(&test.labels).filter(|(guess, label)| guess == *label).count();
    assert_eq!(right as f64 / 60.0, summary.accuracy.unwrap());
    // A run that was stopped in the middle of an epoch ends in the same bytes.
    let error = run(&recipe, "stopped", &mut StopAt(7 * 12)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    run(&recipe, "stopped", &mut Quiet::default()).unwrap();
    let weights = |name: &str| std::fs::read(dir.path().join(name).join("model.safetensors")).unwrap();
    assert!(weights("whole") == weights("stopped"));
    // Mixed images with the decoupled loss: another run, which learns, too.
    let mixed = format!(
        "{PICTURES}\n[objective]\nmix = {{ kind = \"mixup\", alpha = 1.0 }}\ndecoupled = {{ eta = 0.1 }}\n"
    );
    let mixed = Recipe::parse(&mixed, "mixed.toml").unwrap();
    let summary = run(&mixed, "mixed", &mut Quiet::default()).unwrap();
    assert!(summary.accuracy.unwrap() > 0.8 && weights("mixed") != weights("whole"), "{summary:?}");
    let few = Recipe::parse(&PICTURES.replace("classes = 3", "classes = 2"), "few.toml").unwrap();
    let error = run(&few, "few", &mut Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("label 2") && error.contains("2 classes"), "{error}");
    // Settings that make no sense are refused by their names, before anything is written.
    for (change, name) in [
        ("smoothing = 1.0", "objective.smoothing"),
        ("decoupled = { xi = 0.0 }", "objective.decoupled"),
        ("decoupled = { eta = nan }", "objective.decoupled"),
    ] {
        let wrong = Recipe::parse(&format!("{PICTURES}\n[objective]\n{change}\n"), "wrong.toml").unwrap();
        let error = run(&wrong, "wrong", &mut Quiet::default()).unwrap_err().to_string();
        assert!(error.contains(name) && !dir.path().join("wrong").exists(), "{error}");
    }
    let short = Recipe::parse(&PICTURES.replace("epochs = 12", "epochs = 0.001"), "short.toml").unwrap();
    assert!(run(&short, "short", &mut Quiet::default()).unwrap_err().to_string().contains("main.epochs"));
    let none = Recipe { network: None, ..recipe };
    assert!(run(&none, "none", &mut Quiet::default()).unwrap_err().to_string().contains("network"));
}

#[test]
fn a_teacher_is_listened_to_as_much_as_the_recipe_says_whatever_the_labels() {
    let place = Place::new();
    let quiet = &mut Quiet::default();
    place.train(PICTURES, "plain", quiet).unwrap();
    // All labels are wrong here: what is right by them is what the teacher did not teach.
    labelled(&place.path("wrong.safetensors"), 1);
    let listening = |settings: &str, more: &str| {
        let wrong = PICTURES.replace("pictures.safetensors", "wrong.safetensors");
        format!("{more}{wrong}\n[objective]\nteacher = {{ {settings} }}\n")
    };
    let right = |share: f64, name: &str| {
        let recipe = listening(&format!("path = \"plain\", share = {share}, temperature = 2.0"), "");
        place.train(&recipe, name, &mut Quiet::default()).unwrap().accuracy.unwrap()
    };
    let [all, none] = [right(1.0, "all"), right(0.0, "none")];
    assert!(all < 0.1 && none > 0.9, "right by wrong labels: {all} with a teacher alone, {none} without");
    // Beside labels it is another run than without; interrupted and resumed it ends in the same bytes.
    let half = listening("path = \"plain\"", "").replace("wrong.safetensors", "pictures.safetensors");
    let mixed = format!("{half}mix = {{ kind = \"mixup\", alpha = 1.0 }}\n");
    for (recipe, name) in [(&half, "half"), (&mixed, "mixed")] {
        assert!(place.train(recipe, name, quiet).unwrap().accuracy.unwrap() > 0.8, "{name}");
        let stopped = format!("{name}_stopped");
        assert!(matches!(place.train(recipe, &stopped, &mut StopAt(7 * 12)), Err(Error::Interrupted { .. })));
        place.train(recipe, &stopped, quiet).unwrap();
        assert!(
            place.bytes(name, "model.safetensors") == place.bytes(&stopped, "model.safetensors"),
            "{name}"
        );
        assert!(place.bytes(name, "model.safetensors") != place.bytes("plain", "model.safetensors"));
    }
    // Mixed images are asked about as they are mixed: labels that are all wrong do not matter then either.
    let mix = "mix = { kind = \"mixup\", alpha = 1.0 }\n";
    let mixed = format!("{}{mix}", listening("path = \"plain\", share = 1.0", ""));
    assert!(place.train(&mixed, "mixed_all", quiet).unwrap().accuracy.unwrap() < 0.1);
    // A network that starts from a checkpoint listens to that one.
    let own = listening("share = 1.0", "start = \"plain\"\n").replace("rate = 0.1", "rate = 1e-3");
    assert!(place.train(&own, "own", quiet).unwrap().accuracy.unwrap() < 0.1);
    let four = PICTURES.replace("classes = 3", "classes = 4");
    for (recipe, expected) in [
        (listening("share = 1.5, path = \"plain\"", ""), "share must lie in [0, 1], found 1.5"),
        (listening("temperature = 0.0, path = \"plain\"", ""), "temperature must be positive"),
        (listening("share = 0.5", ""), "starts from no checkpoint"),
        (listening("path = \"nowhere\"", ""), "nowhere"),
        (listening("path = \"plain\"", "").replace("0.25, 0.25, 0.25", "0.25, 0.25, 0.3"), "colours by mean"),
        (
            format!("{four}\n[objective]\nteacher = {{ path = \"plain\" }}\n"),
            "3 classes apart, the network 4",
        ),
    ] {
        let error = place.train(&recipe, "refused", quiet).unwrap_err().to_string();
        assert!(error.contains("objective.teacher") && error.contains(expected), "{error}");
        assert!(!place.path("refused").exists());
    }
}

const DISTILLED: &str = r#"
version = 1
dtype = "f32"

[network]
kind = "convnet"
widths = [4]
image = 8
classes = 3

[data.distilled]
path = "distilled.safetensors"
heldout = "pictures.safetensors"

[training]
batch = 24

[[training.phases]]
name = "first"
samples = 48
rate = 0.01

[[training.phases]]
name = "second"
samples = 72
rate = 0.01
"#;

#[test]
fn soft_labels_of_mixtures_are_trained_in_the_steps_that_they_were_made_for() {
    let place = Place::new();
    let recipe = Recipe::parse(DISTILLED, "distilled.toml").unwrap();
    let colours = trimtab_models::Normalization { mean: vec![0.5; 3], std: vec![0.25; 3] };
    let teacher = recipe.network.as_ref().unwrap().checkpoint(0, &colours).unwrap();
    let teacher = Model::from_checkpoint(teacher, None, Device::flex()).unwrap().network().unwrap();
    // Sixty images, of which two passes are five steps.
    let images = ImageSet::read(place.path("pictures.safetensors"), "train").unwrap();
    let write = |mix: Option<Mixer>| {
        let normalize = Normalize { mean: colours.mean.clone(), std: colours.std.clone() };
        let replay =
            Replay { seed: 0, batch: 24, epochs: 2, augment: Vec::new(), mix, normalize, top_k: None };
        let labels = SoftLabels::of(&teacher, &images, &replay, &Device::flex(), &mut |_, _| true);
        let set = DistilledSet { images: images.clone(), labels: labels.unwrap().unwrap() };
        set.write(&place.path("distilled.safetensors")).unwrap();
    };
    let refused =
        |recipe: &str, name: &str| place.train(recipe, name, &mut Quiet::default()).unwrap_err().to_string();
    write(Some(Mixer::CutMix { alpha: 1.0 }));
    assert_eq!(place.train(DISTILLED, "whole", &mut Quiet::default()).unwrap().steps, 5);
    // Each phase a pass: the first one ends with half of a step, and what follows is mixed otherwise.
    let cut = DISTILLED.replace("samples = 48", "epochs = 1").replace("samples = 72", "epochs = 1");
    let error = refused(&cut, "cut");
    assert!(error.contains("\"first\" ends after 60") && error.contains("hint"), "{error}");
    let short = DISTILLED.replace("samples = 72", "samples = 60");
    assert!(refused(&short, "short").contains("\"second\" ends after 108"));
    let group = trimtab_exchange::Threads::ranks(2).remove(0);
    let mut two = Ranks::new(group, ExchangeConfig::default()).unwrap();
    let (base, output) = (place.0.path(), place.path("two"));
    let found = train_among(&recipe, base, &output, false, &Device::flex(), &mut Quiet::default(), &mut two);
    let error = found.unwrap_err().to_string();
    assert!(error.contains("one process, found 2") && !output.exists(), "{error}");
    // Control: labels of single images belong to steps of any kind.
    write(None);
    assert_eq!(place.train(&cut, "single", &mut Quiet::default()).unwrap().steps, 6);
}

/// Asks to stop after so many samples.
pub(super) struct StopAt(pub usize);

impl Monitor for StopAt {
    fn begin(&mut self, _: &str, _: usize) {}
    fn advance(&mut self, done: usize, detail: &str) {
        if detail.starts_with("loss") && done >= self.0 {
            self.0 = 0;
        }
    }
    fn note(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
    fn interrupted(&self) -> bool {
        self.0 == 0
    }
}

#[test]
fn every_recipe_of_the_project_makes_its_network() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        let recipe = Recipe::parse(&std::fs::read_to_string(&path).unwrap(), &name).unwrap();
        // One that makes pictures larger has neither; a search can be begun, what it finds is not there yet.
        if let Some(upscaler) = &recipe.upscaler {
            if let UpscalerSettings::Search(search) = upscaler {
                trimtab_train::search::Supernet::new(search, 0, &Device::flex()).unwrap();
            }
            seen += 1;
            continue;
        }
        let grey = trimtab_models::Normalization { mean: vec![0.5], std: vec![0.25] };
        let colours = match &recipe.data {
            DataSource::Images(ImageSource { mean, std, .. }) => {
                trimtab_models::Normalization { mean: mean.clone(), std: std.clone() }
            }
            _ => grey,
        };
        let checkpoint = match (&recipe.network, &recipe.model, &recipe.tokenizer) {
            // All of it comes from the checkpoint.
            (None, None, None) if recipe.start.is_some() => {
                recipe.quantization.as_ref().map_or(Ok(()), |settings| settings.check(&recipe)).unwrap();
                seen += 1;
                continue;
            }
            (Some(zoo), None, None) => zoo.checkpoint(0, &colours),
            (None, Some(model), Some(tokenizer)) => {
                init::checkpoint(&config(model, tokenizer.vocab, Ends::default(), "float32"), 0, Dtype::F32)
            }
            _ => panic!("{name}: a network of the zoo, or a model and a tokenizer"),
        };
        let model = Model::from_checkpoint(checkpoint.unwrap(), None, Device::flex());
        model.unwrap().network().unwrap_or_else(|e| panic!("{name}: {e}"));
        seen += 1;
    }
    assert!(seen >= 12, "{seen}");
}
