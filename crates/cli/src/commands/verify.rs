//! `trimtab verify`.

use serde::Serialize;
use trimtab::engine::{Breach, Engine, verify};

use crate::Status;
use crate::args::{EngineName, Global, Verify};
use crate::ui::Ui;

#[derive(Serialize)]
struct Report {
    model: String,
    engine: Engine,
    breaches: Vec<Breach>,
}

pub fn run(args: &Verify, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let model = super::open(&args.model, global, ui)?;
    let engine = engine(args.engine);
    let breaches = verify(&model, engine)?;
    let name = model.checkpoint().path().display().to_string();
    let text = match breaches.len() {
        0 => format!("{name}: nothing in the way of {engine}\n"),
        n => {
            let lines: String = breaches.iter().map(|b| format!("{}\n    {}\n", b.at, b.message)).collect();
            format!("{name}: {n} in the way of {engine}\n\n{lines}")
        }
    };
    let status = if breaches.is_empty() { Status::Done } else { Status::Missed };
    ui.result(&Report { model: name, engine, breaches }, &text)?;
    Ok(status)
}

/// The engine by its name on the command line.
pub fn engine(name: EngineName) -> Engine {
    match name {
        EngineName::Vllm => Engine::Vllm,
        EngineName::LlamaCpp => Engine::LlamaCpp,
        EngineName::Transformers => Engine::Transformers,
    }
}
