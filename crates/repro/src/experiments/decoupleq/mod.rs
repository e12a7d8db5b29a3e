//! Paper 15: decoupleQ (Guo et al., arXiv:2404.12759).

mod identities;
mod verdict;

use trimtab::calibration::{Calibration, CalibrationSettings};
use trimtab::floors::calibrate::stream::reading_groups;
use trimtab::floors::calibrate::{Inputs, ReconstructSettings, SiteEvidence, Stream, StreamSettings};
use trimtab::floors::io::{RealScheme, read_text};
use trimtab::floors::models::Model;
use trimtab::floors::nn::Network;
use trimtab::floors::plan::Selection;
use trimtab::form::Form;
use trimtab::inventory::Inventory;
use trimtab::judge::{Judge, Quality};
use trimtab::measure;
use trimtab::monitor::Quiet;
use trimtab::quantizer::{Method, Quantizer, Range};
use trimtab::scheme::Scheme;
use trimtab::treating::{Assignment, Collected, Job, treat};

use self::verdict::{Found, judge};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale};
use crate::lab::Lab;

/// Choices of calibration windows.
const SEEDS: u64 = 3;
/// Windows of calibration.
const SAMPLES: usize = 64;
/// Tokens of a window.
const WINDOW: usize = 256;
/// Windows of the held-out text.
const HELD_OUT: usize = 64;
/// Widths.
const BITS: [u8; 3] = [2, 3, 4];

/// The experiment.
pub struct Decoupleq;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Rtn,
    GptqMinMax,
    GptqShrink,
    Layer,
    Block,
}

impl Arm {
    const ALL: [Self; 5] = [Self::Rtn, Self::GptqMinMax, Self::GptqShrink, Self::Layer, Self::Block];

    /// What is compared at this width: blocks are refined at 2 bits.
    fn at(bits: u8) -> &'static [Self] {
        match bits {
            2 => &Self::ALL,
            _ => &[Self::Rtn, Self::GptqMinMax, Self::GptqShrink, Self::Layer],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rtn => "round-to-nearest",
            Self::GptqMinMax => "GPTQ, min-max",
            Self::GptqShrink => "GPTQ, shrunk ranges",
            Self::Layer => "decoupleQ, layers",
            Self::Block => "decoupleQ, layers and blocks",
        }
    }

    /// All columns in the order of their power, as decoupleQ has them.
    fn quantizer(self) -> Quantizer {
        let (method, range) = match self {
            Self::Rtn => (Method::Rtn, Range::MinMax),
            Self::GptqMinMax => (Method::Gptq, Range::MinMax),
            Self::GptqShrink => (Method::Gptq, Range::Mse),
            Self::Layer | Self::Block => (Method::Decoupleq, Range::MinMax),
        };
        Quantizer {
            method,
            range,
            act_order: true,
            tuning: (self == Self::Block).then(ReconstructSettings::default),
            ..Quantizer::default()
        }
    }
}

impl Decoupleq {
    fn failed(&self, step: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "decoupleq", step, source }
    }
}

impl Experiment for Decoupleq {
    fn paper(&self) -> u8 {
        15
    }

    fn rule(&self) -> &'static str {
        "wikilm (a llama of 6 blocks, width 256), 2, 3 and 4 bits, one step and one real zero a row for every arm, so that bytes are equal; 64 windows of 256 \
         tokens of reviews, 3 seeds of their choice; perplexity and KL to the original on held-out reviews. Baselines: round-to-nearest, GPTQ with min-max and with \
         shrunk ranges weighted by the power of the inputs, both in activation order. Layer errors are summed over sites on the inputs of the original network, on which \
         decoupleQ's were found. At 2 bits: (i) decoupleQ's summed layer error is at most 0.95 times that of GPTQ with shrunk ranges, on every seed, and its perplexity lower, on every seed; \
         (ii) refining blocks lowers the perplexity further, on every seed; (iii) the gap of perplexity between GPTQ with shrunk ranges and decoupleQ shrinks from 2 to 3 to 4 \
         bits. Reproduced if all hold, partly if (i) does and refining blocks does not raise the mean perplexity, else not reproduced."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::all().map_err(|error| self.failed("identities")(Box::new(error)))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let (seeds, held_out, bits) = match scale {
            Scale::Quick => (1, 32, &BITS[..1]),
            Scale::Full => (SEEDS, HELD_OUT, &BITS[..]),
        };
        let folder = lab.file("lm/wikilm")?;
        let [calibration, test] =
            [lab.file("text/reviews/calibration.txt")?, lab.file("text/reviews/test.txt")?];
        let failed = |error: trimtab::Error| self.failed("measuring")(Box::new(error));
        let model = Model::open(&folder.display().to_string(), None)
            .map_err(|error| self.failed("opening wikilm")(Box::new(error)))?;
        let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).map_err(failed)?;
        let original = model.network().map_err(|error| self.failed("loading wikilm")(Box::new(error)))?;
        let text = read_text(&test).map_err(|error| self.failed("reading")(Box::new(error)))?;
        let tokens = model.tokenizer().and_then(|tokenizer| Ok(tokenizer.encode(&text, false)?));
        let tokens = tokens.map_err(|error| self.failed("tokenizing")(Box::new(error)))?;
        let proof = Judge::Text { tokens, window: WINDOW, stride: WINDOW, limit: held_out };
        let mut found = Vec::new();
        for seed in 0..seeds {
            let settings = CalibrationSettings {
                source: Some(calibration.clone()),
                samples: Some(SAMPLES),
                window: Some(WINDOW),
                seed,
                ..CalibrationSettings::default()
            };
            let data = Calibration::load(&model, &settings).map_err(failed)?;
            let run = Run { model: &model, inventory: &inventory, data: &data };
            let errors = run.layer_errors(bits).map_err(failed)?;
            lab.tell(&format!("seed {seed}: layers on the inputs of the original"))?;
            for (&bits, errors) in bits.iter().zip(errors) {
                let mut networks = Vec::new();
                for &arm in Arm::at(bits) {
                    networks.push(run.network(arm, bits).map_err(failed)?);
                    lab.tell(&format!("seed {seed}, {bits} bits: {}", arm.name()))?;
                }
                let networks: Vec<&Network> = networks.iter().collect();
                let quality =
                    proof.compare(&model, &networks, &original, &mut Quiet::default()).map_err(failed)?;
                for ((&arm, quality), error) in Arm::at(bits).iter().zip(quality).zip(errors) {
                    let Quality { perplexity: Some(perplexity), kl: Some(kl), .. } = quality else {
                        continue;
                    };
                    lab.tell(&format!(
                        "seed {seed}, {bits} bits: {}: {perplexity:.3}, KL {kl:.4}",
                        arm.name()
                    ))?;
                    found.push(Found { arm, bits, seed, perplexity, kl, error });
                }
            }
        }
        let score = proof.score(&model, &original, &mut Quiet::default()).map_err(failed)?;
        let bytes = |bits| -> f64 {
            let scheme = scheme(bits);
            let treated = inventory.sites.iter().map(|site| scheme.bytes(&site.meta, site.dtype)).sum();
            inventory.totals.bits_per_weight(treated).unwrap_or(f64::NAN)
        };
        let sizes: Vec<(u8, f64)> = bits.iter().map(|&bits| (bits, bytes(bits))).collect();
        Ok(judge(&found, seeds, &sizes, score.perplexity.unwrap_or(f64::NAN), held_out))
    }

    fn recorded(&self) -> Option<Measurement> {
        None
    }
}

fn scheme(bits: u8) -> Scheme {
    Scheme::Real(RealScheme { bits, group_size: None })
}

/// The model with one choice of calibration windows.
struct Run<'a> {
    model: &'a Model,
    inventory: &'a Inventory,
    data: &'a Calibration,
}

impl Run<'_> {
    /// The model as an arm makes it.
    fn network(&self, arm: Arm, bits: u8) -> trimtab::Result<Network> {
        let name = |site: &trimtab::inventory::TreatedSite| (site.meta.name.clone(), scheme(bits).into());
        let assignment: Assignment = self.inventory.sites.iter().map(name).collect();
        let (quantizer, mut treated) = (&arm.quantizer(), Collected::default());
        let (model, inventory, form) = (self.model, self.inventory, Form::Packed);
        let job = Job { model, inventory, assignment: &assignment, quantizer, form };
        treat(job, Some(self.data), &mut treated, &mut Quiet::default())?;
        let mut network = model.network()?;
        measure::put(&mut network, &treated.overlay(inventory)?)?;
        Ok(network)
    }

    /// Summed output errors of all sites on the inputs of the original network, arm by arm for each width.
    fn layer_errors(&self, bits: &[u8]) -> trimtab::Result<Vec<[f64; 5]>> {
        let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
        let mut sums = vec![[0.0; 5]; bits.len()];
        let stream = Stream::new(self.model, &self.data.batches, self.model.device().clone(), settings);
        stream.run(|block| -> trimtab::Result<()> {
            let sites = self.inventory.sites.iter().filter(|site| site.stage == block.index());
            for group in reading_groups(sites.map(|site| &site.meta)) {
                let moments = block.second_moments(&group)?;
                for meta in group {
                    let site = self.inventory.sites.iter().find(|site| site.meta.name == meta.name);
                    let dtype = site.map_or(trimtab::floors::io::Dtype::F32, |site| site.dtype);
                    let weight = block.site(&meta.name)?.weight.to_f32();
                    let second_moment = moments.get(&meta.name).map(|h| h.as_ref());
                    for (&bits, sums) in bits.iter().zip(&mut sums) {
                        // Refined blocks have the codes of their layers.
                        for (arm, sum) in Arm::ALL[..4].iter().zip(sums) {
                            let quantizer = arm.quantizer();
                            let Some(treatment) = quantizer.treatment(scheme(bits), dtype, true) else {
                                continue;
                            };
                            let outcome =
                                treatment.treat(meta, &weight, SiteEvidence { second_moment, fisher: None });
                            let failed = |message| trimtab::Error::Site { site: meta.name.clone(), message };
                            *sum += outcome.map_err(failed)?.damage;
                        }
                    }
                }
            }
            Ok(())
        })?;
        Ok(sums)
    }
}
