//! `trimtab train`.

use std::path::Path;

use burn::tensor::Device;
use trimtab::floors::io::read_text;
use trimtab::training::{Recipe, Summary, train};

use crate::Status;
use crate::args::{Global, Train};
use crate::ui::{Ui, table};

pub fn run(args: &Train, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let mut recipe = Recipe::parse(&read_text(&args.recipe)?, &args.recipe.display().to_string())?;
    let base = args.recipe.parent().unwrap_or(Path::new("."));
    if let Some(path) = &args.data {
        recipe.read_data_from(std::path::absolute(path)?)?;
    }
    let device = super::device(global.device);
    let Some(summary) = trained(&recipe, base, args, &device, ui)? else { return Ok(Status::Done) };
    let several = summary.processes > 1;
    let rows = [
        ("written to", Some(summary.output.display().to_string())),
        ("metrics", Some(summary.metrics.display().to_string())),
        ("parameters", Some(summary.params.to_string())),
        ("steps", Some(summary.steps.to_string())),
        ("processes", several.then(|| summary.processes.to_string())),
        ("bytes sent by the first", several.then(|| summary.sent_bytes.to_string())),
        ("training tokens", summary.tokens.map(|n| n.to_string())),
        ("training images", summary.tokens.is_none().then(|| summary.items.to_string())),
        ("held-out loss", summary.tokens.is_none().then(|| format!("{:.4}", summary.heldout_loss))),
        ("held-out accuracy", summary.accuracy.map(|share| format!("{:.2} %", 100.0 * share))),
        ("bits of a weight", summary.word_bits.map(|bits| format!("{bits:.2}"))),
        ("held-out PSNR", summary.psnr.map(|ratio| format!("{ratio:.2} dB"))),
        ("bit operations a pixel", summary.bit_ops.map(|cost| format!("{cost:.0}"))),
        ("largest coefficient", summary.certainty.map(|share| format!("{share:.3} on average"))),
        ("held-out perplexity", summary.perplexity.map(|perplexity| format!("{perplexity:.3}"))),
    ];
    let mut rows: Vec<Vec<String>> =
        rows.into_iter().filter_map(|(name, value)| Some(vec![name.to_string(), value?])).collect();
    for width in &summary.widths {
        let loss = format!("loss {:.4}", width.loss);
        let right = width.accuracy.map(|share| format!("{loss}, {:.2} % right", 100.0 * share));
        let perplexity = summary.tokens.map(|_| format!("perplexity {:.3}", width.loss.exp()));
        rows.push(vec![format!("at {} bits", width.bits), right.or(perplexity).unwrap_or(loss)]);
    }
    ui.result(&summary, &table(&rows))?;
    Ok(Status::Done)
}

/// Processes that `mpirun` has started, by the variables of Open MPI, MPICH and their kin.
fn processes() -> usize {
    let names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok()).unwrap_or(1)
}

/// Trains alone, or as one of several processes; `None` in all of these but the first.
fn trained(
    recipe: &Recipe,
    base: &Path,
    args: &Train,
    device: &Device,
    ui: &mut Ui,
) -> anyhow::Result<Option<Summary>> {
    match processes() {
        1 => Ok(Some(train(recipe, base, &args.output, args.force, device, ui)?)),
        several => among(several, recipe, base, args, device, ui),
    }
}

#[cfg(not(feature = "mpi"))]
fn among(
    several: usize,
    _: &Recipe,
    _: &Path,
    _: &Train,
    _: &Device,
    _: &mut Ui,
) -> anyhow::Result<Option<Summary>> {
    anyhow::bail!(
        "{several} processes were started, but this program was built without MPI, so each would train on its own\n\
         hint: build it with `cargo build --release --features mpi`"
    )
}

#[cfg(feature = "mpi")]
fn among(
    _: usize,
    recipe: &Recipe,
    base: &Path,
    args: &Train,
    device: &Device,
    ui: &mut Ui,
) -> anyhow::Result<Option<Summary>> {
    use trimtab::error::Error;
    use trimtab::floors::exchange::{Communicator, Mpi};
    use trimtab::floors::train::Ranks;
    use trimtab::monitor::{Monitor, Quiet};
    use trimtab::training::train_among;

    let group = Mpi::join()?;
    let rank = group.rank();
    let mut ranks = Ranks::new(&group, recipe.exchange.unwrap_or_default())?;
    let mut quiet = Quiet::default();
    let monitor: &mut dyn Monitor = if rank == 0 { ui } else { &mut quiet };
    let result = train_among(recipe, base, &args.output, args.force, device, monitor, &mut ranks);
    drop(ranks);
    // A run that was interrupted ends in all processes at the same step; after another failure the group is ended for all by `Mpi`.
    if matches!(result, Ok(_) | Err(Error::Interrupted { .. })) {
        group.finish()?;
    }
    Ok((rank == 0).then_some(result?))
}
