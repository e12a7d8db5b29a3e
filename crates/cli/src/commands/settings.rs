//! From what was typed to what the pipeline takes.

use anyhow::Context;
use trimtab::calibration::CalibrationSettings;
use trimtab::engine::{Engine, plannable};
use trimtab::floors::plan::Selection;
use trimtab::planning::PlanningSettings;
use trimtab::pricing::Metric;
use trimtab::quantizer::{Method, Quantizer, Range};
use trimtab::scheme::Choices;
use trimtab::treating::Form;

use crate::args::{self, CalibrationArgs, Format, Global, PlanningArgs, QuantizerArgs};

pub fn calibration(args: &CalibrationArgs, global: &Global) -> CalibrationSettings {
    CalibrationSettings {
        source: args.calibration.clone(),
        samples: args.samples,
        window: args.window,
        sequential: args.sequential,
        seed: global.seed,
    }
}

pub fn quantizer(args: &QuantizerArgs, method: args::Method) -> Quantizer {
    Quantizer {
        method: match method {
            args::Method::Rtn => Method::Rtn,
            args::Method::Gptq => Method::Gptq,
        },
        range: match args.range {
            args::Range::MinMax => Range::MinMax,
            args::Range::Mse => Range::Mse,
        },
        damping: args.damping,
        act_order: args.act_order,
    }
}

pub fn form(format: Format) -> Form {
    match format {
        Format::CompressedTensors => Form::Packed,
        Format::Safetensors => Form::Dense,
    }
}

pub fn planning(
    budget: &str,
    args: &PlanningArgs,
    calibration: CalibrationSettings,
    quantizer: Quantizer,
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
    let engine = args.engine.map(|name| plannable(super::verify::engine(name))).transpose()?;
    let pins = args.pin.iter().map(|pin| pin.parse()).collect::<Result<_, _>>()?;
    Ok(PlanningSettings {
        budget: budget.parse()?,
        calibration,
        choices: Choices {
            bits: args.bits.clone(),
            groups: groups.collect::<anyhow::Result<_>>()?,
            symmetric: args.symmetric,
            engine,
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
