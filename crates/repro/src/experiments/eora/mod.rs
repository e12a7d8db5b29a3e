//! Paper 87: EoRA, low-rank compensation in the eigenspace of the inputs (Liu et al., arXiv:2410.21271).

mod checks;
mod judge;
mod layers;
mod run;

use trimtab::floors::mend::eora::Variant;

use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use judge::Found;
use run::{Arm, Compressor, Lm};

/// Ranks of the branches.
const RANKS: [usize; 4] = [4, 8, 16, 32];
/// Rank at which single layers are compared.
const LAYER_RANK: usize = 8;
/// Rank at which data of the task and other data are compared.
const TASK_RANK: usize = 16;
/// Seeds of the calibration sample.
const SEEDS: u64 = 3;

/// The experiment.
pub struct Eora;

impl Eora {
    fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(step: &'static str) -> impl Fn(E) -> Error {
        move |source| Error::Experiment { number: 87, name: "eora", step, source: source.into() }
    }
}

/// What is trained on nothing but the sample of one seed.
fn arms(scale: Scale) -> Vec<Arm> {
    let (compressors, ranks): (&[Compressor], &[usize]) = match scale {
        Scale::Quick => (&[Compressor::Gptq(2)], &[8]),
        Scale::Full => (&Compressor::ALL, &RANKS),
    };
    let mut arms = Vec::new();
    for &compressor in compressors {
        arms.push(Arm { compressor, branch: None });
        for &rank in ranks {
            let variants = [Variant::Svd, Variant::ActScale, Variant::Eora];
            arms.extend(variants.map(|variant| Arm { compressor, branch: Some((variant, rank)) }));
        }
    }
    arms
}

impl Experiment for Eora {
    fn paper(&self) -> u8 {
        87
    }

    fn rule(&self) -> &'static str {
        "A llama of 6 blocks and width 256 (wikilm), compressed to 2 bits by rounding and by GPTQ, to 3 bits by GPTQ (groups of 64), and to half of its weights \
         by magnitude (2:4); branches of rank 4, 8, 16, 32 in bfloat16 by the plain decomposition of the error (SVD), by the strength of inputs (act-scale), and by \
         EoRA; calibrated on 8 windows of film reviews with 3 seeds, judged on reviews that no seed has seen. Reproduced if EoRA's perplexity is below that of SVD \
         at every rank, compressor and seed, and its output error on held-out inputs, summed over the maps of every second block at rank 8, is at most 1.1 times that of a \
         branch trained with AdamW; partly if EoRA is below SVD in the mean over seeds for at least three quarters of the pairs of rank and compressor. Beside it, \
         without a say in the verdict: the same bytes spent on finer groups or more bits, and a branch calibrated on the task against one calibrated on other text."
    }

    fn check(&self) -> Result<Vec<Check>> {
        checks::all().map_err(Self::failed("identities"))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let lm = Lm::open(lab)?;
        let seeds = if scale == Scale::Quick { 1 } else { SEEDS };
        let (mut found, mut layers) = (Found::default(), Vec::new());
        for seed in 0..seeds {
            let reviews = lm.on_task(seed, lab)?;
            let mut arms = arms(scale);
            if scale == Scale::Full {
                arms.extend(Compressor::SAME_BYTES.map(|compressor| Arm { compressor, branch: None }));
            }
            found.take(seed, lm.measure(&arms, &reviews, lab, &format!("seed {seed}"))?);
            if scale == Scale::Full {
                let task = [Arm { compressor: Compressor::Rtn(3), branch: Some((Variant::Eora, TASK_RANK)) }];
                found.on_task.extend(lm.measure(&task, &reviews, lab, "calibrated on the task")?);
                let other = lm.on_other(seed, lab)?;
                found.on_other.extend(lm.measure(&task, &other, lab, "calibrated on other text")?);
            }
            if seed == 0 {
                layers = lm.layers(LAYER_RANK, &reviews, scale, lab)?;
            }
        }
        Ok(judge::judge(&found, &layers, seeds, &lm.describe()))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "EoRA below SVD in 26 of 48 runs; GPTQ-2, rank 8: perplexity 71.1 (70.4 .. 71.4) against 71.2 \
                      (71.1 .. 71.4), without a branch 71.8 (70.6 .. 72.5); output error on held-out inputs at most \
                      0.999 times that of a trained branch";
        let scale = "wikilm: llama of 6 blocks, width 256, 4718592 weights in 42 maps; 8 windows of 256 tokens to \
                      calibrate on, 16 to judge on; 3 seeds";
        Some(Measurement::new(Verdict::NotReproduced, figure, scale))
    }
}
