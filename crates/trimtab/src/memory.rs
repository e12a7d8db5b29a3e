//! What a run will need, said before it starts.

use trimtab_calibrate::MemoryPrediction;
use trimtab_calibrate::stream::reading_groups;
use trimtab_models::Model;
use trimtab_nn::{Flow, Role, StageSource};

use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::inventory::{Inventory, TreatedSite};
use crate::quantizer::{Method, Quantizer};
use crate::system::{MemoryLimit, memory_limit};

/// The program, its tables, its allocator and its report, measured on a run over next to nothing.
const PROGRAM: u64 = 5_500_000;
/// What runs on a text hold beyond the parts below: the remainder measured on wikilm and MiniLM (20 % apart), not traced to
/// its places.
const TEXT: u64 = 44_000_000;

/// Bytes for each weight of a block that is tuned: sixteen numbers. On wikilm all came to a tenth less than was used.
const TUNED: u64 = 64;

/// Predicts the peak of the memory, without pages of mapped files, that treating and writing a model takes.
///
/// Weights are borrowed from the mapped file: a block counts with what the sites that are treated at the same time
/// take as numbers (the weight, its codes, the decoded result, and what GPTQ works on; decoupleQ also on the product of the
/// weight with the second moment in double precision, and on the codes that it tries). Where a block is tuned, what it is to
/// give is kept, and its weights stand beside their integers, their gradients and what lies between. Without calibration data
/// nothing flows and nothing is observed.
pub fn predict(
    model: &Model,
    inventory: &Inventory,
    calibration: Option<&Calibration>,
    quantizer: &Quantizer,
) -> MemoryPrediction {
    let observe = calibration;
    let stages = model.stages();
    let of_role = |role: Role| (0..stages.len()).filter(move |&i| stages[i].role == role);
    let treating = |stage: usize| -> u64 {
        let working = if observe.is_some() { 17 } else { 12 };
        let beyond = if quantizer.method == Method::Decoupleq { 11 } else { 0 };
        (working + beyond) * at_once(inventory, stage)
    };
    let tuned = quantizer.tuning.filter(|_| observe.is_some());
    let tuning = |stage: usize| -> u64 {
        let sites = inventory.sites.iter().filter(|site| site.stage == stage && site.observed);
        tuned.map_or(0, |_| TUNED * sites.map(|site| site.meta.numel() as u64).sum::<u64>())
    };
    let statistics = |stage: usize| -> u64 {
        let sites = inventory.sites.iter().filter(|site| site.stage == stage && site.observed);
        // The accumulator, its mean, and the factor.
        let of = |site: &TreatedSite| (site.meta.conv_groups() * site.meta.cols * site.meta.cols) as u64;
        sites.map(|site| 3 * 8 * of(site)).max().unwrap_or(0)
    };
    let blocks: Vec<usize> = of_role(Role::Block).collect();
    let largest = |f: &dyn Fn(usize) -> u64| blocks.iter().map(|&stage| f(stage)).max().unwrap_or(0);
    MemoryPrediction {
        program: PROGRAM + observe.filter(|data| is_text(data)).map_or(0, |_| TEXT),
        block: (0..stages.len()).map(|stage| treating(stage).max(tuning(stage))).max().unwrap_or(0),
        statistics: if observe.is_some() { largest(&statistics) } else { 0 },
        hidden: observe.map_or(0, |data| hidden_bytes(model, data) * if tuned.is_some() { 2 } else { 1 }),
        activations: observe.map_or(0, |data| activation_bytes(model, inventory, data)),
    }
}

/// Numbers of the sites of a stage that are treated at the same time.
fn at_once(inventory: &Inventory, stage: usize) -> u64 {
    let sites = inventory.sites.iter().filter(|site| site.stage == stage).map(|site| &site.meta);
    let groups = reading_groups(sites);
    groups.iter().map(|group| group.iter().map(|s| s.numel() as u64).sum::<u64>()).max().unwrap_or(0)
}

/// Refuses a run that cannot fit into the memory that this process may have, before it starts.
///
/// # Errors
/// [`Error::Memory`] with both figures.
pub fn check(prediction: &MemoryPrediction) -> Result<()> {
    fits(prediction.total())
}

/// Refuses what needs so many bytes, if this process may not have them.
pub(crate) fn fits(needed: u64) -> Result<()> {
    within(needed, memory_limit())
}

fn within(needed: u64, limit: Option<MemoryLimit>) -> Result<()> {
    match limit.filter(|limit| limit.bytes < needed) {
        Some(MemoryLimit { bytes, set_by }) => Err(Error::Memory { needed, allowed: bytes, set_by }),
        None => Ok(()),
    }
}

/// Hidden states of the whole calibration set.
fn hidden_bytes(model: &Model, calibration: &Calibration) -> u64 {
    match calibration.batches.first().map(|batch| &batch.input) {
        Some(Flow::Tokens(_)) => 4 * calibration.rows as u64 * width(model),
        // The widest feature map of a convolutional network is that of its first stage.
        Some(Flow::Image(x)) => {
            let [_, _, h, w] = x.dims();
            let channels = model.stages()[0].sites.first().map_or(0, |site| site.rows);
            4 * (calibration.rows * channels * h * w) as u64
        }
        _ => 0,
    }
}

/// Channels of the embedding: a text passes by what stands before it.
fn width(model: &Model) -> u64 {
    let stages = model.stages();
    let embed = stages.iter().find(|stage| !stage.optional).and_then(|stage| stage.sites.first());
    embed.map_or(0, |site| site.cols as u64)
}

/// Whether the data are tokens.
fn is_text(calibration: &Calibration) -> bool {
    matches!(calibration.batches.first().map(|batch| &batch.input), Some(Flow::Tokens(_)))
}

/// Activations of the batches that run at once: the widest of them a few times over.
fn activation_bytes(model: &Model, inventory: &Inventory, calibration: &Calibration) -> u64 {
    let rows = calibration.batches.iter().map(|batch| batch.rows() as u64).max().unwrap_or(0);
    let widest =
        inventory.sites.iter().map(|site| site.meta.rows.max(site.meta.cols) as u64).max().unwrap_or(0);
    rayon::current_num_threads() as u64 * 4 * rows * 2 * (widest + width(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_cannot_fit_is_refused_with_both_figures() {
        let limit = MemoryLimit { bytes: 2_000_000_000, set_by: "control group" };
        let message = within(3_000_000_000, Some(limit)).unwrap_err().to_string();
        assert!(message.contains("3000 MB") && message.contains("2000 MB (control group)"), "{message}");
        within(2_000_000_000, Some(limit)).unwrap();
        within(u64::MAX, None).unwrap();
        let here = memory_limit();
        assert!(here.is_none_or(|limit| limit.bytes > 1_000_000), "{here:?}");
    }
}
