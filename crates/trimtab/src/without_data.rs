//! Calibration where there are no data: images that a network's batch norms agree with, texts that a model writes itself.

use burn::tensor::Tensor;
use trimtab_calibrate::Batch;
use trimtab_models::{Model, pico};
use trimtab_nn::{Flow, Network};
use trimtab_sample::OwnText;
use trimtab_train::distil::{Remembered, Zeroq};

use crate::calibration::{Calibration, CalibrationSettings, check_ids, rolled, window_batches, window_of};
use crate::error::{Error, Result};
use crate::judge::Judge;
use crate::memory;
use crate::monitor::Monitor;

/// Windows of own text to calibrate on, and those to prove the result with.
const OWN_TEXTS: usize = 64;
const OWN_PROOF: usize = 16;
/// Share of the first loss above which images agree too badly for ranges to be taken from them.
const SOUND: f64 = 0.05;
/// Images of a batch of the stream: two threads have something to do.
const BATCH: usize = 16;

/// Whether a model has the tokenizer of the built-in grammar: then stories are what it was trained on.
pub(crate) fn tells_stories(model: &Model) -> Result<bool> {
    let tokenizer = |checkpoint: &trimtab_io::Checkpoint| checkpoint.side_file("tokenizer.json");
    let (own, known) = (tokenizer(model.checkpoint())?, tokenizer(&pico::checkpoint()?)?);
    Ok(own.zip(known).is_some_and(|(own, known)| own[..] == known[..]))
}

/// A token that `config.json` names, of several the first; with towers in it, by the part that is about text.
pub(crate) fn token_id(config: &serde_json::Value, name: &str) -> Option<u32> {
    let of = |table: &serde_json::Value| {
        let value = table.get(name)?;
        value.as_u64().or_else(|| value.get(0)?.as_u64())
    };
    of(config).or_else(|| of(config.get("text_config")?)).and_then(|id| u32::try_from(id).ok())
}

/// Texts that a language model writes itself.
pub(crate) fn texts(
    model: &Model,
    settings: &CalibrationSettings,
    monitor: &mut dyn Monitor,
) -> Result<Calibration> {
    let network = model.network()?;
    let window = window_of(model, settings.window);
    let n = settings.samples.unwrap_or(OWN_TEXTS);
    let id = |name: &str| token_id(model.checkpoint().config()?, name);
    let vocab = model.vocab().unwrap_or(0);
    // A tokenizer may know less than the table has rows for.
    let known = model.tokenizer().map_or(vocab, |tokenizer| tokenizer.vocab_size().min(vocab));
    let within = |id: &u32| (*id as usize) < known;
    let how = OwnText {
        start: id("bos_token_id").filter(within),
        end: id("eos_token_id").filter(within),
        ..OwnText::new(n + OWN_PROOF, window, known, settings.seed)
    };
    monitor.begin("own text", how.texts * window);
    let mut go_on = |done: usize, _: usize| {
        monitor.advance(done, "");
        !monitor.interrupted()
    };
    let written = how.write(&network, &mut go_on)?.ok_or(Error::Stopped)?;
    check_ids(&written, vocab)?;
    let (chosen, rest) = written.split_at(n);
    let windows: Vec<&[u32]> = chosen.iter().map(Vec::as_slice).collect();
    let (batches, samples) = window_batches(model, settings, &windows, window)?;
    let description = format!("{n} windows of {window} tokens that the model wrote itself");
    Ok(Calibration {
        batches,
        samples,
        rows: samples * window,
        description: description + &rolled(settings),
        rest: Some(Judge::Text { tokens: rest.concat(), window, stride: window, limit: OWN_PROOF }),
        rest_is: "text that the original wrote itself, and that was not calibrated on",
        fisher: Default::default(),
    })
}

/// Images that the batch norms of a network agree with.
pub(crate) fn images(
    model: &Model,
    settings: &CalibrationSettings,
    monitor: &mut dyn Monitor,
) -> Result<Calibration> {
    let how = Zeroq { seed: settings.seed, ..Zeroq::default() };
    let how = Zeroq { images: settings.samples.unwrap_or(how.images), ..how };
    let made = remembered(model, &model.network()?, &how, settings.image_size, monitor)?;
    let left = made.share_left();
    if left > SOUND {
        monitor.warn(&format!(
            "the distilled images agree badly with what the batch norms remember: {:.0} % of the first loss are left, expected \
             less than {:.0} %\nhint: pass --calibration FILE, or another --image-size",
            100.0 * left,
            100.0 * SOUND
        ));
    }
    let batch = |images: Tensor<4>| Batch { input: Flow::Image(images), mask: None, row_weights: None };
    Ok(Calibration {
        batches: made.images.split(BATCH, 0).into_iter().map(batch).collect(),
        samples: how.images,
        rows: how.images,
        description: format!("{} images distilled from batch-norm statistics (ZeroQ)", how.images),
        rest: None,
        rest_is: "",
        fisher: Default::default(),
    })
}

/// Images that the batch norms of `network`, which is that of `model`, agree with.
///
/// # Errors
/// [`Error::NeedsCalibration`] for a network without batch norms; [`Error::Setting`] where nothing tells the size of an image.
fn remembered(
    model: &Model,
    network: &Network,
    how: &Zeroq,
    side: Option<usize>,
    monitor: &mut dyn Monitor,
) -> Result<Remembered> {
    if !network.layers().any(|layer| matches!(layer, trimtab_nn::Layer::BatchNorm(_))) {
        return Err(Error::NeedsCalibration {
            what: "a model of images without batch norms (which remember statistics of its data)",
            example: "images.safetensors",
        });
    }
    let side = side.or_else(|| model.image_side()).ok_or_else(|| Error::Setting {
        what: "--image-size",
        message: "nothing tells the size of an image of this model\nhint: say it, or pass --calibration FILE"
            .into(),
    })?;
    if !(1..=1024).contains(&side) {
        let message = format!("expected 1 to 1024 pixels, found {side}");
        return Err(Error::Setting { what: "--image-size", message });
    }
    let channels = model.normalization()?.mean.len();
    // The images, their gradient and Adam's moments; activations are counted where they are calibrated on.
    memory::fits((how.images as u64).saturating_mul((16 * channels * side * side) as u64))?;
    monitor.begin("distilling images", how.iterations);
    let mut go_on = |step: usize, loss: f64| {
        monitor.advance(step, &format!("loss {loss:.4}"));
        !monitor.interrupted()
    };
    let made = how.run(network, [channels, side, side], model.device(), &mut go_on)?;
    made.ok_or(Error::Stopped)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use trimtab_io::Checkpoint;
    use trimtab_models::Zoo;
    use trimtab_nn::Task;

    use super::*;
    use crate::monitor::Quiet;

    /// `@pico` with another tokenizer beside it: as if nothing were known of its texts.
    fn stranger() -> (tempfile::TempDir, Model) {
        let pico = pico::checkpoint().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = pico.names().map(str::to_string).collect();
        let tensors: Vec<_> =
            names.into_iter().map(|name| (name.clone(), pico.tensor(&name).unwrap())).collect();
        let bytes = trimtab_io::to_safetensors(&tensors, &Default::default()).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        std::fs::write(dir.path().join("config.json"), pico.config().unwrap().to_string()).unwrap();
        let tokenizer =
            String::from_utf8(pico.side_file("tokenizer.json").unwrap().unwrap().to_vec()).unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer + "\n").unwrap();
        let model = Model::open(&dir.path().display().to_string(), None).unwrap();
        (dir, model)
    }

    fn tokens(calibration: &Calibration) -> Vec<i64> {
        let ids = calibration.batches.iter().flat_map(|batch| {
            let Flow::Tokens(ids) = batch.input.clone() else { panic!("tokens") };
            ids.into_data().iter::<i64>().collect::<Vec<_>>()
        });
        ids.collect()
    }

    #[test]
    fn a_model_of_unknown_texts_writes_its_own_and_the_same_again() {
        let (_dir, model) = stranger();
        assert!(!tells_stories(&model).unwrap());
        assert!(tells_stories(&Model::open("@pico", None).unwrap()).unwrap(), "control");
        let settings = CalibrationSettings { samples: Some(40), window: Some(48), ..Default::default() };
        let own = Calibration::load(&model, &settings).unwrap();
        assert!(own.description.contains("40 windows of 48 tokens that the model wrote itself"));
        let first = tokens(&own);
        assert_eq!((first.len(), own.samples), (40 * 48, 40));
        assert_eq!(first, tokens(&Calibration::load(&model, &settings).unwrap()));
        let other = CalibrationSettings { seed: 1, ..settings.clone() };
        assert_ne!(first, tokens(&Calibration::load(&model, &other).unwrap()));
        // A text does not depend on how many others there are.
        let few = CalibrationSettings { samples: Some(3), ..settings };
        assert_eq!(first[..3 * 48], tokens(&Calibration::load(&model, &few).unwrap()));
        // What it writes it also finds likely: far more so than the same tokens in another order.
        let network = model.network().unwrap();
        let perplexity = |tokens: Vec<u32>| {
            let judge = Judge::Text { tokens, window: 48, stride: 48, limit: 64 };
            judge.score(&model, &network, &mut Quiet::default()).unwrap().perplexity.unwrap()
        };
        let own: Vec<u32> = first.iter().map(|&id| id as u32).collect();
        let mut shuffled = own.clone();
        trimtab_math::random::Stream::new(0, "test/shuffle", 0, 0).shuffle(&mut shuffled);
        let (own, shuffled) = (perplexity(own), perplexity(shuffled));
        assert!(own < 0.2 * shuffled, "{own} {shuffled}");
    }

    fn zoo(norm: bool) -> Model {
        let normalization = trimtab_models::Normalization { mean: vec![0.5; 3], std: vec![0.25; 3] };
        let zoo = match norm {
            true => Zoo::ResnetCifar { depth: 20, width: 4, classes: 4, channels: 3 },
            false => Zoo::Mlp { hidden: vec![8], image: 8, classes: 4, channels: 3 },
        };
        let checkpoint: Checkpoint = zoo.checkpoint(3, &normalization).unwrap();
        Model::from_checkpoint(checkpoint, None, Device::flex()).unwrap()
    }

    #[test]
    fn a_network_with_batch_norms_gets_images_and_one_without_is_refused() {
        let model = zoo(true);
        assert_eq!((model.task(), model.image_side()), (Task::Images, Some(32)));
        let settings =
            CalibrationSettings { samples: Some(4), image_size: Some(8), ..CalibrationSettings::default() };
        let made = Calibration::load(&model, &settings).unwrap();
        assert_eq!(made.description, "4 images distilled from batch-norm statistics (ZeroQ)");
        assert_eq!((made.rows, made.batches.len()), (4, 1));
        let error = |model: &Model, settings: &CalibrationSettings| {
            Calibration::load(model, settings).map(|_| ()).unwrap_err().to_string()
        };
        let refused = error(&zoo(false), &settings);
        assert!(refused.contains("without batch norms") && refused.contains("--calibration"), "{refused}");
        let wrong = CalibrationSettings { image_size: Some(0), ..settings };
        assert!(error(&model, &wrong).contains("--image-size"));
    }
}
