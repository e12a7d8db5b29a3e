//! `trimtab bench`.

use anyhow::bail;
use trimtab::bench::{KERNELS, run as measure};

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
    let found = measure(&chosen, global.threads, ui)?;
    let mut rows =
        vec![vec!["kernel".to_string(), "shape".into(), "seconds".into(), "GB/s".into(), "GFLOP/s".into()]];
    let cell = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.1}"));
    rows.extend(found.iter().map(|m| {
        vec![m.name.clone(), m.shape.clone(), format!("{:.5}", m.seconds), cell(m.gb_per_s), cell(m.gflops)]
    }));
    ui.result(&found, &table(&rows))?;
    Ok(Status::Done)
}
