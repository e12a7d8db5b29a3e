//! `trimtab convert`.

use trimtab::convert::{Place, Target, convert};

use crate::Status;
use crate::args::{Convert, Global};
use crate::ui::{Ui, bytes, table};

pub fn run(args: &Convert, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let target: Target = args.to.parse()?;
    let model = super::open_to_rewrite(&args.model, global, ui)?;
    let place = Place { output: &args.output, adapter: args.adapter.as_deref(), force: args.force };
    let done = convert(&model, target, place, ui)?;
    let mut text = format!(
        "{}: {}, {}, {} matrices, ",
        done.output.display(),
        done.format,
        bytes(done.bytes),
        done.matrices
    );
    match done.lossy.len() {
        0 => text.push_str("all exact\n"),
        n => {
            text.push_str(&format!("{n} of them changed:\n\n"));
            let rows: Vec<Vec<String>> =
                done.lossy.iter().map(|loss| vec![loss.site.clone(), loss.what.clone()]).collect();
            text.push_str(&table(&rows));
        }
    }
    if let Some(adapter) = &done.adapter {
        let (place, modules, rank) = (adapter.output.display(), adapter.modules, adapter.rank);
        text.push_str(&format!("{place}: adapter for {modules} matrices, rank {rank} at most\n"));
    }
    done.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    ui.result(&done, &text)?;
    Ok(Status::Done)
}
