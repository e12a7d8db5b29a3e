//! From what was typed to what the pipeline takes.

use anyhow::Context;
use trimtab::activations::Activations;
use trimtab::calibration::CalibrationSettings;
use trimtab::effort::{Composition, Effort};
use trimtab::engine::Engine;
use trimtab::floors::calibrate::{Importance, RangeRule, ReconstructSettings, Strategy};
use trimtab::floors::io::NormalFloatScheme;
use trimtab::floors::mend::eora::Variant;
use trimtab::floors::mend::lq::LqSettings;
use trimtab::floors::plan::Selection;
use trimtab::floors::quantize::qvlm::{ClipSearch, Way};
use trimtab::floors::quantize::repquant::ClippingSettings;
use trimtab::form::Form;
use trimtab::planning::PlanningSettings;
use trimtab::pricing::Metric;
use trimtab::quantizer::{Method, Quantizer, Range};
use trimtab::scheme::{Choices, Scheme};
use trimtab::tune_bias::BiasTuning;

use crate::args::{
    self, ActivationArgs, BranchArgs, BranchName, CalibrationArgs, ClipSearchName, EffortName, Format,
    Global, ImportanceArgs, ImportanceName, PlanningArgs, QuantizerArgs, RangeName,
};

pub fn calibration(args: &CalibrationArgs, global: &Global) -> CalibrationSettings {
    CalibrationSettings {
        source: args.calibration.clone(),
        samples: args.samples,
        window: args.window,
        sequential: args.sequential,
        expansion: args.expansion,
        image_size: args.image_size,
        seed: global.seed,
    }
}

fn importance(args: &ImportanceArgs) -> anyhow::Result<Option<Importance>> {
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
        clip_search: args.clip_search.map(|how| match how {
            ClipSearchName::Layer => ClipSearch::layerwise(),
            ClipSearchName::Joint => ClipSearch::default(),
            ClipSearchName::Descend => ClipSearch { way: Way::Descend, ..ClipSearch::default() },
        }),
    }))
}

pub fn method(method: args::Method) -> Method {
    match method {
        args::Method::Rtn => Method::Rtn,
        args::Method::Gptq => Method::Gptq,
        args::Method::Decoupleq => Method::Decoupleq,
        args::Method::Adaquant => Method::Adaquant,
    }
}

/// What the effort says, where no flag says otherwise.
pub fn composition(planning: &PlanningArgs, seed: u64) -> Composition {
    let effort = match planning.effort {
        EffortName::Fast => Effort::Fast,
        EffortName::Normal => Effort::Normal,
        EffortName::Best => Effort::Best,
    };
    let says = effort.composition(seed);
    let metric = planning.metric.map(|metric| match metric {
        args::Metric::Kl => Metric::Kl,
        args::Metric::OutputError => Metric::OutputError,
        args::Metric::Fisher => Metric::Fisher,
        args::Metric::Sqnr => Metric::Sqnr,
    });
    Composition {
        method: planning.method.map_or(says.method, method),
        metric: metric.unwrap_or(says.metric),
        probe_rows: planning.probe_rows.map_or(says.probe_rows, |rows| rows as usize),
        rounds: planning.rounds.unwrap_or(says.rounds),
        ranks: planning.eora_ranks.clone().unwrap_or(says.ranks),
        ..says
    }
}

fn range(range: args::Range) -> Range {
    match range {
        args::Range::MinMax => Range::MinMax,
        args::Range::Mse => Range::Mse,
    }
}

/// `base` with what flags say otherwise; `seed` is that of the run.
pub fn quantizer(
    base: Quantizer,
    args: &QuantizerArgs,
    importance: &ImportanceArgs,
    branch: &BranchArgs,
    seed: u64,
) -> anyhow::Result<Quantizer> {
    let tuning = base.tuning.unwrap_or(ReconstructSettings { seed, ..ReconstructSettings::default() });
    let tuning = ReconstructSettings {
        rate: args.tune_rate.unwrap_or(tuning.rate),
        epochs: args.tune_epochs.unwrap_or(tuning.epochs),
        ..tuning
    };
    let (branches, turns) = branch.branches.map_or((base.branches, base.turns), branches);
    let biases = args.tune_bias.then(|| BiasTuning { seed, ..BiasTuning::default() });
    Ok(Quantizer {
        range: args.range.map_or(base.range, range),
        damping: args.damping.unwrap_or(base.damping),
        act_order: args.act_order.unwrap_or(base.act_order),
        branches,
        turns,
        importance: self::importance(importance)?.or(base.importance),
        tuning: args.tune_blocks.unwrap_or(base.tuning.is_some()).then_some(tuning),
        tune_batch_norms: args.tune_batch_norm || base.tune_batch_norms,
        tune_biases: biases.or(base.tune_biases),
        ..base
    })
}

/// The quantizer that an effort stands for.
pub fn composed(composition: &Composition) -> Quantizer {
    let Composition { method, act_order, tuning, .. } = *composition;
    Quantizer { method, act_order, tuning, ..Quantizer::default() }
}

/// What branches are fitted to, and in how many rounds at most they are found by turns with the codes.
pub fn branches(name: BranchName) -> (Variant, Option<usize>) {
    let by_turns = Some(LqSettings::default().rounds);
    match name {
        BranchName::Eora => (Variant::Eora, None),
        BranchName::Svd => (Variant::Svd, None),
        BranchName::ActScale => (Variant::ActScale, None),
        BranchName::Fisher => (Variant::Fisher, None),
        BranchName::Lq => (Variant::Svd, by_turns),
        BranchName::LqEora => (Variant::Eora, by_turns),
        BranchName::LqFisher => (Variant::Fisher, by_turns),
    }
}

/// Schemes by their names; `nf` stands for all configurations of NormalFloat codes.
fn types(names: &[String]) -> anyhow::Result<Vec<Scheme>> {
    let of = |name: &String| -> anyhow::Result<Vec<Scheme>> {
        Ok(match name.as_str() {
            "nf" => NormalFloatScheme::all().map(Scheme::NormalFloat).collect(),
            name => vec![name.parse()?],
        })
    };
    Ok(names.iter().map(of).collect::<anyhow::Result<Vec<_>>>()?.concat())
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
    budget: Option<&str>,
    args: &PlanningArgs,
    composition: &Composition,
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
    let types = types(&args.types)?;
    let pins = args.pin.iter().map(|pin| pin.parse()).collect::<Result<_, _>>()?;
    Ok(PlanningSettings {
        budget: budget.map(str::parse).transpose()?,
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
            ranks: composition.ranks.clone(),
        },
        metric: composition.metric,
        probe_rows: composition.probe_rows,
        rounds: composition.rounds,
        selection: Selection { include: args.include.clone(), exclude: args.exclude.clone(), pins },
        fused: args.fused || engine.is_some_and(Engine::fuses),
        quantizer,
    })
}
