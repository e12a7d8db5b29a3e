//! A whole run at the smallest size, and the gradient of the real architecture.

use burn::tensor::TensorData;
use trimtab_models::pico::checkpoint as pico_checkpoint;
use trimtab_nn::{StageSource, Weight};
use trimtab_train::{Item, Objective, Pass};

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

fn tiny() -> Recipe {
    Recipe::parse(TINY, "tiny.toml").unwrap()
}

fn run(recipe: &Recipe, output: &Path, monitor: &mut dyn Monitor) -> Result<Summary> {
    train(recipe, Path::new("."), output, false, &Device::flex(), monitor)
}

/// Asks to stop after a number of steps of training.
struct StopAfter(usize);

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
    assert!((summary.perplexity - summary.heldout_loss.exp()).abs() < 1e-9);
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
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    assert!(run(&tiny(), &whole, &mut Quiet::default()).is_err(), "an existing output is kept");
    let other = Recipe { seed: 1, ..tiny() };
    run(&other, &dir.path().join("other"), &mut Quiet::default()).unwrap();
    let weights = |dir: &str| std::fs::read(dir_of(&whole).join(dir).join("model.safetensors")).unwrap();
    assert!(weights("other") != weights("whole"), "the seed matters");
}

fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap()
}

#[test]
fn text_files_are_cut_at_a_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "one line\nzwei Zeilen\ntrois\n").unwrap();
    let data = DataSource::Text { files: vec!["a.txt".into()], heldout: 0.3 };
    let recipe = Recipe { data, ..tiny() };
    let [train, heldout] = recipe.documents(dir.path()).unwrap();
    assert_eq!(train, ["one line\n</s>"]);
    assert_eq!(heldout, ["zwei Zeilen\ntrois\n</s>"]);
    assert_eq!(split("äöü", 0.5), ("ä</s>".into(), "öü</s>".into()), "never inside a character");
    let nonsense = Recipe { data: DataSource::Text { files: Vec::new(), heldout: 1.0 }, ..tiny() };
    assert!(nonsense.documents(dir.path()).unwrap_err().to_string().contains("heldout"));
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
    assert_eq!(checkpoint.config(), Some(&recipe.config(end)));
    recipe.training.check().unwrap();
}

#[test]
fn the_gradient_of_the_tied_embedding_is_the_slope_of_the_loss() {
    let recipe = tiny();
    let (device, config) = (Device::flex(), recipe.config(0));
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
