//! `trimtab convert`.

use trimtab::convert::{Target, convert};

use crate::Status;
use crate::args::{Convert, Global};
use crate::ui::{Ui, bytes, table};

pub fn run(args: &Convert, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let target: Target = args.to.parse()?;
    let model = super::open(&args.model, global, ui)?;
    let done = convert(&model, target, &args.output, args.force, ui)?;
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
    done.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    ui.result(&done, &text)?;
    Ok(Status::Done)
}
