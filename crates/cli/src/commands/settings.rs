//! From what was typed to what the pipeline takes.

use anyhow::Context;
use trimtab::activations::Activations;
use trimtab::calibration::CalibrationSettings;
use trimtab::engine::Engine;
use trimtab::floors::calibrate::{Importance, RangeRule, ReconstructSettings, Strategy};
use trimtab::floors::plan::Selection;
use trimtab::floors::quantize::repquant::ClippingSettings;
use trimtab::form::Form;
use trimtab::planning::PlanningSettings;
use trimtab::pricing::Metric;
use trimtab::quantizer::{Method, Quantizer, Range};
use trimtab::scheme::{Choices, Scheme};

use crate::args::{
    self, ActivationArgs, CalibrationArgs, Format, Global, ImportanceArgs, ImportanceName, PlanningArgs,
    QuantizerArgs, RangeName,
};

pub fn calibration(args: &CalibrationArgs, global: &Global) -> CalibrationSettings {
    CalibrationSettings {
        source: args.calibration.clone(),
        samples: args.samples,
        window: args.window,
        sequential: args.sequential,
        expansion: args.expansion,
        seed: global.seed,
    }
}

pub fn importance(args: &ImportanceArgs) -> anyhow::Result<Option<Importance>> {
    let strategy = args.importance.map(|name| match name {
        ImportanceName::Uniform => Strategy::Uniform,
        ImportanceName::Attention => Strategy::Attention,
        ImportanceName::Norm => Strategy::Norm,
        ImportanceName::Change => Strategy::Change,
        ImportanceName::Distance => Strategy::Distance,
        ImportanceName::Rarity => Strategy::Rarity,
        ImportanceName::First => Strategy::First,
        ImportanceName::FirstAndLast => Strategy::FirstAndLast,
    });
    let Some(strategy) = strategy else { return Ok(None) };
    let (r_min, power) = (args.r_min, args.importance_power);
    let importance = Importance { strategy, r_min, power, ..Importance::default() };
    match importance.problem() {
        Some(problem) => anyhow::bail!("--importance: {problem}"),
        None => Ok(Some(importance)),
    }
}

pub fn activations(args: &ActivationArgs, seed: u64) -> anyhow::Result<Option<Activations>> {
    let Some(inputs) = &args.activations else { return Ok(None) };
    let inputs = inputs.parse().context("--activations")?;
    Ok(Some(Activations {
        inputs,
        range: match args.activation_range {
            RangeName::MinMax => RangeRule::MinMax,
            RangeName::Percentile => RangeRule::Percentile,
        },
        operands: args
            .attention_operands
            .as_deref()
            .map(str::parse)
            .transpose()
            .context("--attention-operands")?,
        softmax: args.softmax.as_deref().map(str::parse).transpose().context("--softmax")?,
        reparameterize: args.scale_reparameterization,
        clipping: args.learn_clipping.then(|| ClippingSettings { seed, ..ClippingSettings::default() }),
        absorb: args.absorb_activations,
    }))
}

pub fn quantizer(args: &QuantizerArgs, method: args::Method, seed: u64) -> Quantizer {
    Quantizer {
        method: match method {
            args::Method::Rtn => Method::Rtn,
            args::Method::Gptq => Method::Gptq,
            args::Method::Decoupleq => Method::Decoupleq,
        },
        range: match args.range {
            args::Range::MinMax => Range::MinMax,
            args::Range::Mse => Range::Mse,
        },
        damping: args.damping,
        act_order: args.act_order,
        tuning: args.tune_blocks.then(|| ReconstructSettings {
            rate: args.tune_rate,
            epochs: args.tune_epochs,
            seed,
            ..ReconstructSettings::default()
        }),
        ..Quantizer::default()
    }
}

/// The form of the output: what was asked for, else what the engine or the scheme needs.
pub fn form(format: Option<Format>, engine: Option<Engine>, scheme: Option<Scheme>) -> Form {
    match format {
        Some(Format::CompressedTensors) => Form::Packed,
        Some(Format::Safetensors) => Form::Dense,
        Some(Format::Gguf) => Form::Gguf,
        None if engine == Some(Engine::LlamaCpp) => Form::Gguf,
        None if matches!(scheme, Some(Scheme::Blocks(_))) => Form::Gguf,
        None => Form::Packed,
    }
}

pub fn planning(
    budget: &str,
    args: &PlanningArgs,
    calibration: CalibrationSettings,
    quantizer: Quantizer,
    format: Option<Format>,
) -> anyhow::Result<PlanningSettings> {
    let groups = args.groups.iter().map(|group| match group.as_str() {
        "row" => Ok(None),
        text => {
            let size = text.parse().ok().filter(|&g: &usize| g > 0);
            Ok(Some(
                size.with_context(|| format!("--groups: \"{text}\" is none; expected a size or \"row\""))?,
            ))
        }
    });
    let engine = args.engine.map(super::verify::engine);
    let types: Vec<Scheme> = args.types.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let pins = args.pin.iter().map(|pin| pin.parse()).collect::<Result<_, _>>()?;
    Ok(PlanningSettings {
        budget: budget.parse()?,
        calibration,
        choices: Choices {
            bits: args.bits.clone(),
            groups: groups.collect::<anyhow::Result<_>>()?,
            symmetric: args.symmetric,
            // Where nothing else has to read the result, what the method is made for.
            real: quantizer.method == Method::Decoupleq && engine.is_none(),
            form: form(format, engine, types.first().copied()),
            types,
            engine,
            ranks: args.eora_ranks.clone(),
        },
        metric: match args.metric {
            args::Metric::Kl => Metric::Kl,
            args::Metric::OutputError => Metric::OutputError,
        },
        rounds: args.rounds,
        selection: Selection { include: args.include.clone(), exclude: args.exclude.clone(), pins },
        fused: args.fused || engine.is_some_and(Engine::fuses),
        quantizer,
    })
}
