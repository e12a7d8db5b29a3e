//! What the form of an output can hold of a job, and what its configuration says.

use trimtab_io::{AffineGroup, AffineScheme, GroupScheme, PackedConfig, QuantizationConfig};
use trimtab_nn::{SiteKind, StageSource, Task};

use crate::convert;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::TreatedSite;
use crate::scheme::Scheme;
use crate::treating::Job;

/// Whether a tensor holds statistics of a batch norm.
pub(super) fn is_norm_buffer(name: &str) -> bool {
    name.ends_with(".running_mean") || name.ends_with(".running_var")
}

/// What of the tuning makes no sense for the model.
pub(super) fn check_tuning(job: &Job<'_>) -> Result<()> {
    let refused = |what: &'static str, message: &str| Err(Error::Setting { what, message: message.into() });
    let mut tensors = job.model.stages().iter().flat_map(|stage| &stage.tensors);
    if job.quantizer.tune_batch_norms && !tensors.any(|name| is_norm_buffer(name)) {
        return refused("--tune-batch-norm", "the model has no batch norm");
    }
    if job.quantizer.tune_biases.is_some() && job.model.task() != Task::Images {
        return refused("--tune-bias", "biases are tuned for classifiers of images only");
    }
    let rewrites = job.quantizer.activations.is_some_and(|activations| activations.rewrites());
    if job.quantizer.tune_biases.is_some() && rewrites {
        return refused(
            "--tune-bias",
            "biases that are rewritten for quantized activations are not tuned\nhint: leave out \
             --scale-reparameterization and --absorb-activations",
        );
    }
    let found = job.quantizer.activations.is_some_and(|activations| activations.needs_data());
    if job.quantizer.tune_biases.is_some() && found {
        return refused(
            "--tune-bias",
            "steps of activations are found before biases are tuned, and would not fit them any more\nhint: leave out \
             --tune-bias, or take steps that are found as activations come: --activations 'int8 token', without --softmax",
        );
    }
    let made = job.quantizer.activations.is_some_and(|a| a.rewrites() || a.clip_search.is_some());
    if job.quantizer.tune_batch_norms && made {
        return refused(
            "--tune-batch-norm",
            "ranges are found once more when batch norms are tuned, and what was rewritten or searched for the first ones would not \
             fit\nhint: leave out --scale-reparameterization, --absorb-activations and --clip-search",
        );
    }
    match job.quantizer.tunes_vectors() && job.form == Form::Gguf {
        true => {
            refused("--tune-batch-norm, --tune-bias", "a GGUF file takes norms and biases from the original")
        }
        false => Ok(()),
    }
}

/// What the format cannot hold.
pub(super) fn check_format(job: &Job<'_>) -> Result<()> {
    if job.form == Form::Gguf {
        convert::gguf::overhead(job.model)?;
    }
    for site in &job.inventory.sites {
        let Some(choice) = job.assignment.get(&site.meta.name) else { continue };
        if let Err(why) = choice.fits(site, job.form, None) {
            let hint = match job.form {
                Form::Packed => "leave it out, choose another scheme, or write --format safetensors or gguf",
                Form::Dense | Form::Gguf => "leave it out, or choose another scheme or --format",
            };
            return Err(Error::Format {
                format: job.form.format(),
                what: format!("\"{}\" as {choice}: {why}", site.meta.name),
                hint,
            });
        }
    }
    Ok(())
}

/// How the output is quantized, where it holds codes in tensors of their own.
pub(super) fn quantization(job: Job<'_>) -> Result<PackedConfig> {
    let Job { assignment, inventory, quantizer, .. } = job;
    let codes = |site: &TreatedSite| -> Option<GroupScheme> {
        match &assignment.get(&site.meta.name)?.scheme {
            Scheme::Affine(scheme) => Some(integers(*scheme)),
            Scheme::Real(scheme) => Some(integers(scheme.codes())),
            Scheme::Float(scheme) => Some((*scheme).into()),
            Scheme::NormalFloat(_) | Scheme::Blocks(_) | Scheme::Dense => None,
        }
    };
    let scheme = |name: &String| assignment.get(name).map(|choice| choice.scheme);
    let packed = inventory.sites.iter().filter_map(|site| Some((site.meta.name.as_str(), codes(site)?)));
    let dense =
        inventory.sites.iter().filter(|site| codes(site).is_none()).map(|site| site.meta.name.clone());
    let ignore: Vec<String> = inventory.untouched.iter().cloned().chain(dense).collect();
    let names = || inventory.sites.iter().map(|site| site.meta.name.clone());
    let real = names().filter(|name| matches!(scheme(name), Some(Scheme::Real(_))));
    let normal = names().filter_map(|name| match scheme(&name) {
        Some(Scheme::NormalFloat(scheme)) => Some((name, scheme)),
        _ => None,
    });
    let config =
        PackedConfig::new(QuantizationConfig::of_codes(packed, &ignore)?, real).with_normal_floats(normal);
    let Some(activations) = quantizer.activations else { return Ok(config) };
    let sites = inventory.sites.iter().map(|site| &site.meta);
    let sites = sites.filter(|meta| meta.kind != SiteKind::Embedding).map(|meta| meta.name.as_str());
    Ok(config.with_inputs(activations.inputs, sites)?)
}

fn integers(scheme: AffineScheme) -> GroupScheme {
    GroupScheme::Affine(AffineGroup { scheme, per_tensor: false, act_order: false })
}

#[cfg(test)]
mod tests {
    use trimtab_models::{Model, Normalization, Zoo};
    use trimtab_plan::Selection;

    use super::*;
    use crate::activations::Activations;
    use crate::inventory::Inventory;
    use crate::quantizer::Quantizer;
    use crate::treating::Assignment;
    use crate::tune_bias::BiasTuning;

    #[test]
    fn biases_are_not_tuned_under_steps_of_activations_that_were_found_before() {
        let normalization = Normalization { mean: vec![0.5; 3], std: vec![0.25; 3] };
        let zoo = Zoo::ResnetCifar { depth: 8, width: 4, classes: 4, channels: 3 };
        let checkpoint = zoo.checkpoint(3, &normalization).unwrap();
        let model = Model::from_checkpoint(checkpoint, None, burn::tensor::Device::flex()).unwrap();
        let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
        let check = |activations: Option<&str>, tuned: bool| {
            let quantizer = &Quantizer {
                tune_biases: tuned.then(BiasTuning::default),
                activations: activations.map(|inputs| Activations::of(inputs.parse().unwrap())),
                ..Quantizer::default()
            };
            let (model, inventory, assignment) = (&model, &inventory, &Assignment::new());
            check_tuning(&Job { model, inventory, assignment, quantizer, form: Form::Packed })
        };
        for inputs in ["int8 tensor", "int8 channel"] {
            let message = check(Some(inputs), true).unwrap_err().to_string();
            assert!(message.contains("found before biases") && message.contains("int8 token"), "{message}");
            assert!(check(Some(inputs), false).is_ok(), "control: it is the tuning");
        }
        for inputs in [None, Some("int8 token"), Some("int8 tensor dynamic")] {
            assert!(check(inputs, true).is_ok(), "control: {inputs:?}");
        }
    }
}
