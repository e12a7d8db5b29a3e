//! `trimtab rewrite`.

use anyhow::Context;
use serde::Serialize;
use trimtab::floors::io::Dtype;
use trimtab::floors::math::rotation::RotationKind;
use trimtab::floors::models::Model;
use trimtab::floors::rewrite::{Draft, Pass, PassSettings, apply_passes};
use trimtab::rewriting::{RewriteSettings, rewrite};

use super::settings;
use crate::Status;
use crate::args::{DtypeName, Global, Rewrite, RotationName};
use crate::ui::{Ui, bytes, table};

pub fn run(args: &Rewrite, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let passes: Vec<Pass> = (args.passes.iter())
        .map(|name| name.parse::<Pass>().map_err(|message| anyhow::anyhow!("--pass: {message}")))
        .collect::<anyhow::Result<_>>()?;
    let model = super::open_to_rewrite(&args.model, global, ui)?;
    let calibration = settings::calibration(&args.calibration, global);
    let settings = PassSettings {
        seed: global.seed,
        rotation: match args.rotation {
            RotationName::Hadamard => RotationKind::Hadamard,
            RotationName::Orthogonal => RotationKind::Orthogonal,
        },
        heads: !args.no_heads,
        untie: args.untie,
        alpha: args.alpha,
        ranges: None,
        channels: args.channels,
        factor: args.factor,
    };
    if args.list {
        return list(&model, &settings, ui);
    }
    let output = args.output.clone().context("-o is missing: the directory that the model is written to")?;
    let dtype = args.dtype.map(|dtype| match dtype {
        DtypeName::F32 => Dtype::F32,
        DtypeName::F16 => Dtype::F16,
        DtypeName::Bf16 => Dtype::BF16,
    });
    let (force, spec) = (args.force, args.model.spec.clone());
    let job = RewriteSettings { passes, settings, dtype, calibration, output, force, spec };
    let done = rewrite(&model, &job, ui)?;
    let mut text = format!(
        "{}: {}, {} tensors changed\n\n",
        done.output.display(),
        bytes(done.bytes),
        done.changed_tensors
    );
    let rows: Vec<Vec<String>> = (done.passes.iter())
        .map(|pass| {
            let by = pass.needed_by.map(|by| format!("needed by {by}")).unwrap_or_default();
            vec![pass.pass.to_string(), pass.changed.to_string(), by]
        })
        .collect();
    text.push_str(&table(&rows));
    if let Some(change) = done.change {
        text.push_str(&format!(
            "\nlargest change of an output on a random input: {:.1e} (the largest output is {:.1e})\n",
            change.largest, change.magnitude
        ));
    }
    ui.result(&done, &text)?;
    Ok(Status::Done)
}

/// One pass and whether it fits.
#[derive(Serialize)]
struct Listed {
    pass: Pass,
    about: &'static str,
    fits: bool,
    reason: Option<String>,
}

fn list(model: &Model, settings: &PassSettings, ui: &mut Ui) -> anyhow::Result<Status> {
    let listed: Vec<Listed> = Pass::ALL
        .into_iter()
        .map(|pass| {
            let mut draft = Draft::new(model.checkpoint(), model.wiring());
            // Whether scales can be moved does not depend on the ranges.
            let ones = draft.wiring.norms.iter().map(|norm| (norm.name.clone(), vec![1.0; norm.axis.size()]));
            let settings =
                PassSettings { ranges: Some(std::sync::Arc::new(ones.collect())), ..settings.clone() };
            let reason = match model.quantization() {
                Some(_) => Some("the model is quantized".to_string()),
                None => apply_passes(&mut draft, &[pass], &settings).err().map(|error| error.to_string()),
            };
            Listed { pass, about: pass.about(), fits: reason.is_none(), reason }
        })
        .collect();
    let mut text = String::new();
    for entry in &listed {
        let fits = if entry.fits { "fits" } else { "no" };
        text.push_str(&format!("{:<18} {fits:<5} {}\n", entry.pass.name(), entry.about));
        if let Some(reason) = &entry.reason {
            reason.lines().for_each(|line| text.push_str(&format!("{:25}{line}\n", "")));
        }
    }
    ui.result(&listed, &text)?;
    Ok(Status::Done)
}
