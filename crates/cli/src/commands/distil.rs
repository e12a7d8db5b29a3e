//! `trimtab distil`.

use trimtab::distil::{Distillation, distil};
use trimtab::floors::train::distil::Recovery;

use crate::Status;
use crate::args::{Distil, Global};
use crate::ui::{Ui, table};

pub fn run(args: &Distil, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    super::report::free(&args.output, args.force)?;
    let teacher = super::open(&args.model, global, ui)?;
    let recovery = Recovery {
        images_per_class: args.images_per_class,
        iterations: args.iterations,
        rate: args.rate,
        norm_weight: args.norm_weight,
        milestone: args.milestone,
        flip: !args.no_flip,
        shift: args.shift,
        block: args.block,
        seed: global.seed,
        ..Recovery::default()
    };
    let how = Distillation {
        size: [args.size; 2],
        recovery,
        epochs: args.epochs,
        batch: args.batch,
        seed: global.seed,
    };
    let made = distil(&teacher, &how, &args.output, args.force, ui)?;
    let kilo = |bytes: usize| format!("{:.1} kB", bytes as f64 / 1000.0);
    let rows = [
        ("written to", made.output.display().to_string()),
        ("images", format!("{} of {} classes", made.images, made.classes)),
        ("size of the images", kilo(made.image_bytes)),
        ("size of the soft labels", format!("{} for {} passes", kilo(made.label_bytes), made.epochs)),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_string(), value]).collect();
    ui.result(&made, &table(&rows))?;
    Ok(Status::Done)
}
