//! `trimtab bench`.

use anyhow::bail;
use trimtab::bench::{KERNELS, Measured, run as measure};

use crate::Status;
use crate::args::{Bench, Global};
use crate::ui::{Ui, table};

pub fn run(args: &Bench, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    if let Some(unknown) = args.kernels.iter().find(|name| !KERNELS.contains(&name.as_str())) {
        bail!("no kernel is called \"{unknown}\"; known: {}", KERNELS.join(", "));
    }
    let chosen: Vec<&str> = KERNELS
        .into_iter()
        .filter(|name| args.kernels.is_empty() || args.kernels.iter().any(|k| k == name))
        .collect();
    let found = measure(&chosen, global.threads, args.problem.as_deref(), ui)?;
    let mut head = ["kernel", "shape", "seconds", "GB/s", "GFLOP/s"].map(String::from).to_vec();
    let errors = found.iter().any(|m| m.error_left.is_some());
    head.extend(errors.then(|| "error left".into()));
    let cell = |value: Option<f64>, decimals| value.map_or("-".into(), |v| format!("{v:.decimals$}"));
    let row = |m: &Measured| {
        let mut cells = vec![m.name.clone(), m.shape.clone(), format!("{:.5}", m.seconds)];
        cells.extend([cell(m.gb_per_s, 1), cell(m.gflops, 1)]);
        cells.extend(errors.then(|| cell(m.error_left, 5)));
        cells
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(found.iter().map(row)).collect();
    ui.result(&found, &table(&rows))?;
    Ok(Status::Done)
}
