//! Calibration data to batches: from a file, or, where none is given, what the model itself tells (`without_data`).

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use trimtab_calibrate::Batch;
use trimtab_eval::Windows;
use trimtab_io::{ImageSet, read_pairs, read_text};
use trimtab_math::random::Stream;
use trimtab_models::{Model, Normalization, pico};
use trimtab_nn::{Flow, Task};

use crate::branching::FisherCell;
use crate::error::{Error, Result};
use crate::judge::{ENCODER_WINDOW, Judge};
use crate::monitor::{Monitor, Quiet};
use crate::without_data;

/// Tokens (or images) in one batch of the stream.
const BATCH_TOKENS: usize = 512;
const BATCH_IMAGES: usize = 64;
/// Windows, texts or images to calibrate on: of a file, and of the built-in stories, which are all alike.
const SAMPLES: usize = 128;
const STORY_SAMPLES: usize = 64;
/// Tokens of a window where nothing else is said.
pub const DEFAULT_WINDOW: usize = 256;

/// What to calibrate on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
pub struct CalibrationSettings {
    /// A text, sentence pairs (`.csv`) or images (`.safetensors`). Without one, models of the built-in grammar and encoders take its
    /// stories, language models what they write themselves, and convolutional networks what their batch norms remember.
    pub source: Option<PathBuf>,
    /// Windows, texts or images.
    pub samples: Option<usize>,
    /// Tokens of a window.
    pub window: Option<usize>,
    /// The first samples in order instead of a random choice.
    pub sequential: bool,
    /// Seed of the choice.
    pub seed: u64,
    /// Copies of every window of a text, each rolled by a part of its length: what stands late in one stands early in another
    /// (RSQ, arXiv:2503.01820, section 4.3). `None` is one, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expansion: Option<usize>,
    /// Side of the images that are made where none are given; that of the model otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
}

/// Calibration batches and what they are.
pub struct Calibration {
    /// The batches.
    pub batches: Vec<Batch>,
    /// Windows, texts or images in them.
    pub samples: usize,
    /// Tokens or images in them.
    pub rows: usize,
    /// One line for reports.
    pub description: String,
    /// What was not calibrated on, to prove the result with; absent where nothing is left.
    pub rest: Option<Judge>,
    /// What single windows say of single weights, once somebody asked ([`Calibration::fisher`]).
    pub fisher: FisherCell,
    /// What that is, for reports.
    pub rest_is: &'static str,
}

impl Calibration {
    /// Reads, tokenizes, chooses and packs.
    pub fn load(model: &Model, settings: &CalibrationSettings) -> Result<Self> {
        Self::load_with(model, settings, &mut Quiet::default())
    }

    /// [`Self::load`], telling what is calibrated on. What has to be made first may take a while.
    pub fn load_with(
        model: &Model,
        settings: &CalibrationSettings,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        if settings.samples == Some(0) {
            return Err(Error::Setting { what: "--samples", message: "must be at least 1".into() });
        }
        let images = |path: &PathBuf| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
        let sees = match &settings.source {
            Some(path) => images(path),
            None => model.image_side().is_some() && model.checkpoint().side_file("tokenizer.json")?.is_none(),
        };
        let found = match model.task() {
            Task::Language => Self::windows(model, settings, monitor),
            // A transformer of images is an encoder by what it gives.
            Task::Encoder if sees => Self::images(model, settings, monitor),
            Task::Encoder => Self::sentences(model, settings),
            Task::Images => Self::images(model, settings, monitor),
            Task::Pairs => Err(Error::Setting {
                what: "--calibration",
                message: "models with two inputs are calibrated through the library, with batches of pairs"
                    .into(),
            }),
        }?;
        monitor.note(&match settings.source {
            Some(_) => format!("calibrating on {}", found.description),
            None => format!("no calibration data given: {}", found.description),
        });
        Ok(found)
    }

    fn windows(model: &Model, settings: &CalibrationSettings, monitor: &mut dyn Monitor) -> Result<Self> {
        if settings.source.is_none() && !without_data::tells_stories(model)? {
            return without_data::texts(model, settings, monitor);
        }
        let (text, name) = match &settings.source {
            Some(path) => (sentences_or_text(path)?.join("\n"), path.display().to_string()),
            None => (pico::calibration_text(settings.seed), "stories of the built-in grammar".into()),
        };
        let tokens = model.tokenizer()?.encode(&text, false)?;
        let vocab = model.vocab().unwrap_or(0);
        let window = window_of(model, settings.window);
        let windows = Windows::cut(&tokens, window, window, vocab)?;
        let all = windows.as_slices();
        let chosen = choose(all.len(), settings);
        let chosen_windows: Vec<&[u32]> = chosen.iter().map(|&i| all[i]).collect();
        let (batches, samples) = window_batches(model, settings, &chosen_windows, window)?;
        let rest: Vec<u32> = (0..all.len())
            .filter(|i| chosen.binary_search(i).is_err())
            .flat_map(|i| all[i].to_vec())
            .collect();
        let rest = match &settings.source {
            None => Some(heldout_stories(model, window)?),
            Some(_) => {
                (!rest.is_empty()).then_some(Judge::Text { tokens: rest, window, stride: window, limit: 256 })
            }
        };
        Ok(Self {
            batches,
            samples,
            rows: samples * window,
            description: format!("{} windows of {window} tokens of {name}", chosen.len()) + &rolled(settings),
            rest,
            fisher: FisherCell::default(),
            rest_is: match settings.source {
                None => "stories that neither training nor calibration has seen",
                Some(_) => "the part of the calibration text that was not calibrated on",
            },
        })
    }

    fn sentences(model: &Model, settings: &CalibrationSettings) -> Result<Self> {
        let (texts, name) = match &settings.source {
            Some(path) => (sentences_or_text(path)?, path.display().to_string()),
            None => (vec![pico::calibration_text(settings.seed)], "stories of the built-in grammar".into()),
        };
        let lines = texts.iter().flat_map(|text| text.lines());
        let texts: Vec<&str> = lines.map(str::trim).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            return Err(Error::EmptyCalibration { source_name: name });
        }
        let chosen = choose(texts.len(), settings);
        let picked: Vec<&str> = chosen.iter().map(|&i| texts[i]).collect();
        let window = settings.window.unwrap_or(ENCODER_WINDOW);
        let ids = model.tokenizer()?.encode_batch(&picked, true, window)?;
        check_ids(&ids, model.vocab().unwrap_or(0))?;
        let batches = ids
            .chunks(32)
            .map(|part| Batch::padded(&part.iter().map(Vec::as_slice).collect::<Vec<_>>(), 0, model.device()))
            .collect();
        Ok(Self {
            batches,
            samples: ids.len(),
            rows: ids.iter().map(Vec::len).sum(),
            description: format!("{} texts of {name}", ids.len()),
            rest: None,
            fisher: FisherCell::default(),
            rest_is: "",
        })
    }

    fn images(model: &Model, settings: &CalibrationSettings, monitor: &mut dyn Monitor) -> Result<Self> {
        let Some(path) = &settings.source else { return without_data::images(model, settings, monitor) };
        let set = ImageSet::read(path, "train")?;
        let normalization = model.normalization()?;
        let chosen = choose(set.len(), settings);
        let picked = set.select(&chosen);
        let batches = (0..picked.len())
            .step_by(BATCH_IMAGES)
            .map(|i| {
                image_batch(&picked, &normalization, i..(i + BATCH_IMAGES).min(picked.len()), model.device())
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            batches,
            samples: chosen.len(),
            rows: chosen.len(),
            description: format!("{} images of {}", chosen.len(), path.display()),
            rest: None,
            fisher: FisherCell::default(),
            rest_is: "",
        })
    }
}

/// Batches of windows, each rolled as often as the settings ask, and how many windows they hold.
pub(crate) fn window_batches(
    model: &Model,
    settings: &CalibrationSettings,
    windows: &[&[u32]],
    window: usize,
) -> Result<(Vec<Batch>, usize)> {
    let copies = settings.expansion.unwrap_or(1);
    if !(1..=window).contains(&copies) {
        let message = format!("{copies} copies of a window of {window} tokens; expected 1 to {window}");
        return Err(Error::Setting { what: "--expansion", message });
    }
    let roll = |tokens: &[u32], by: usize| {
        let mut tokens = tokens.to_vec();
        tokens.rotate_right(by);
        tokens
    };
    let rolled: Vec<Vec<u32>> =
        windows.iter().flat_map(|w| (0..copies).map(move |k| roll(w, k * window / copies))).collect();
    let batch = |part: &[Vec<u32>]| {
        Batch::windows(&part.iter().map(Vec::as_slice).collect::<Vec<_>>(), model.device())
    };
    Ok((rolled.chunks((BATCH_TOKENS / window).max(1)).map(batch).collect(), rolled.len()))
}

/// What a description says of [`CalibrationSettings::expansion`].
pub(crate) fn rolled(settings: &CalibrationSettings) -> String {
    settings.expansion.filter(|&n| n > 1).map_or(String::new(), |n| format!(", each rolled {n} times"))
}

/// The held-out stories that `@pico` (or any language model without a text of its own) is judged on.
pub fn heldout_stories(model: &Model, window: usize) -> Result<Judge> {
    let tokens = model.tokenizer()?.encode(&pico::heldout_text(), false)?;
    Ok(Judge::Text { tokens, window, stride: window, limit: 64 })
}

/// Tokens of a window: what was asked for, or the default within what the model can take.
pub fn window_of(model: &Model, asked: Option<usize>) -> usize {
    // The decoder of a model that also reads images has a table of its own.
    let tables = model.checkpoint().config().map(|config| [Some(config), config.get("text_config")]);
    let limit = tables.into_iter().flatten().flatten().find_map(|table| {
        ["max_position_embeddings", "n_positions"].iter().find_map(|key| table.get(key)?.as_u64())
    });
    asked.unwrap_or_else(|| limit.map_or(DEFAULT_WINDOW, |limit| DEFAULT_WINDOW.min(limit as usize)))
}

/// A batch of images, normalized.
pub fn image_batch(
    set: &ImageSet,
    normalization: &Normalization,
    range: Range<usize>,
    device: &Device,
) -> Result<Batch> {
    let [_, c, h, w] = set.shape;
    if normalization.mean.len() != c || normalization.std.len() != c {
        return Err(Error::Channels { images: c, model: normalization.mean.len() });
    }
    let pixels = set.pixels(range.clone());
    let input = Flow::Image(normalization.apply(pixels, [range.len(), c, h, w], device));
    Ok(Batch { input, mask: None, row_weights: None })
}

/// The sentences of a csv file of pairs, or the lines of a text.
fn sentences_or_text(path: &Path) -> Result<Vec<String>> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        let pairs = read_pairs(path)?;
        return Ok(pairs.into_iter().flat_map(|pair| [pair.first, pair.second]).collect());
    }
    Ok(vec![read_text(path)?])
}

/// Indices of the chosen samples, ascending.
fn choose(n: usize, settings: &CalibrationSettings) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    if !settings.sequential {
        Stream::new(settings.seed, "calibration", 0, 0).shuffle(&mut order);
    }
    let default = if settings.source.is_some() { SAMPLES } else { STORY_SAMPLES };
    order.truncate(settings.samples.unwrap_or(default));
    order.sort_unstable();
    order
}

pub(crate) fn check_ids(rows: &[Vec<u32>], vocab: usize) -> Result<()> {
    match rows.iter().flatten().find(|&&id| id as usize >= vocab) {
        Some(&id) => Err(trimtab_calibrate::Error::Vocabulary { id, vocab }.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use trimtab_models::{Normalization, Zoo};

    use super::*;

    #[test]
    fn rolled_windows_hold_the_same_tokens_in_turn() {
        let model = Model::open("@pico", None).unwrap();
        let load = |expansion| -> Result<Vec<i64>> {
            let settings =
                CalibrationSettings { samples: Some(2), window: Some(32), expansion, ..Default::default() };
            let batches = Calibration::load(&model, &settings)?.batches;
            let ids = batches.into_iter().flat_map(|batch| {
                let Flow::Tokens(ids) = batch.input else { panic!("tokens") };
                ids.into_data().iter::<i64>().collect::<Vec<_>>()
            });
            Ok(ids.collect())
        };
        let (plain, rolled) = (load(None).unwrap(), load(Some(4)).unwrap());
        assert_eq!(rolled.len(), 4 * plain.len());
        for (window, copies) in plain.chunks(32).zip(rolled.chunks(4 * 32)) {
            for (k, copy) in copies.chunks(32).enumerate() {
                let mut back = copy.to_vec();
                back.rotate_left(8 * k);
                assert_eq!(back, window);
                assert_eq!(copy == window, k == 0);
            }
        }
        assert!(load(Some(0)).is_err() && load(Some(33)).is_err());
    }

    #[test]
    fn a_transformer_of_images_asks_for_images_and_one_of_text_does_not() {
        let normalization = Normalization { mean: vec![0.5; 3], std: vec![0.25; 3] };
        let zoo = Zoo::Vit {
            image: 8,
            patch: 4,
            width: 16,
            blocks: 1,
            heads: 2,
            hidden: None,
            classes: 4,
            channels: 3,
        };
        let checkpoint = zoo.checkpoint(3, &normalization).unwrap();
        let model = Model::from_checkpoint(checkpoint, None, Device::flex()).unwrap();
        let Err(error) = Calibration::load(&model, &CalibrationSettings::default()) else {
            panic!("calibrated on nothing")
        };
        let message = error.to_string();
        assert!(message.contains("a model of images") && message.contains("--calibration"), "{message}");
        let text = Model::open("@pico", None).unwrap();
        assert!(Calibration::load(&text, &CalibrationSettings::default()).is_ok());
    }
}
