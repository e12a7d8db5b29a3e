//! Every pass on every family: the same function, or a refusal with a reason; and the table of both in the documentation.

use std::fmt::Write;
use std::path::PathBuf;

use trimtab_nn::{MatrixPart, Writer};
use trimtab_rewrite::{Draft, Edit, Error, Pass, PassSettings};

use crate::fixture::{Fixture, all};

/// Largest change of an output, in f32.
const SAME: f64 = 1e-4;
/// What a rewrite that leaves out one map changes at least.
const SEEN: f64 = 1e-3;

/// What became of a pass on a family.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    /// The change, and what was left alone.
    Done {
        change: f64,
        untied: bool,
        notes: Vec<String>,
    },
    Refused(String),
}

fn attempt(fixture: &Fixture, pass: Pass) -> Cell {
    let mut settings = PassSettings::default();
    let mut refused = match fixture.rewrite(&[pass], &settings) {
        Ok((draft, applied)) => return done(fixture, pass, draft, applied),
        Err(error) => error,
    };
    settings.untie = true;
    if refused.to_string().contains("--untie") {
        // A stream may stand in the way that has nothing to do with the head.
        match fixture.rewrite(&[pass], &settings) {
            Ok((draft, applied)) => return done(fixture, pass, draft, applied),
            Err(error) => refused = error,
        }
    }
    let reason = match &refused {
        Error::Refused { reason, .. } => reason.clone(),
        other => panic!("{} {pass}: {other}", fixture.name),
    };
    Cell::Refused(reason)
}

fn done(fixture: &Fixture, pass: Pass, mut draft: Draft<'_>, applied: Vec<trimtab_rewrite::Applied>) -> Cell {
    let change = fixture.change(&draft);
    assert!(change <= SAME, "{} {pass}: an output changes by {change:.1e}", fixture.name);
    // The control: the same rewrite that leaves out one map has to be seen.
    let part = control(fixture, &mut draft, pass);
    let part = part.unwrap_or_else(|| panic!("{} {pass}: no map to leave out", fixture.name));
    let broken = fixture.change(&draft);
    assert!(broken > SEEN, "{} {pass}: without \"{part}\" nothing is seen ({broken:.1e})", fixture.name);
    let untied = pass != Pass::Untie && applied.iter().any(|applied| applied.pass == Pass::Untie);
    let notes = applied.into_iter().filter(|a| a.pass == pass).flat_map(|a| a.notes).collect();
    Cell::Done { change, untied, notes }
}

/// Leaves out a map that the pass changes, and without which it is wrong.
fn control(fixture: &Fixture, draft: &mut Draft<'_>, pass: Pass) -> Option<String> {
    let wiring = draft.wiring.clone();
    let changed: Vec<String> = draft.changed().into_iter().map(str::to_string).collect();
    let mut candidates: Vec<&MatrixPart> = Vec::new();
    match pass {
        Pass::FoldBatchNorm => candidates.extend(wiring.batch_norms.iter().filter_map(|n| n.source.as_ref())),
        Pass::FoldLayerScale => candidates.extend(wiring.scales.iter().flat_map(|scale| &scale.sources)),
        Pass::CenterLayerNorm => {
            let streams = wiring.streams.iter().filter(|stream| stream.centered);
            candidates.extend(streams.flat_map(|stream| &stream.writers).map(|writer| match writer {
                Writer::Map(part) | Writer::Table(part) => part,
            }));
        }
        Pass::RotateHeads => candidates.extend(wiring.values.iter().rev().flat_map(|path| &path.outputs)),
        Pass::Rotate | Pass::FoldNormGain | Pass::ScaleChannels | Pass::InjectOutliers => {
            // From the end: an expert that no token is sent to would not be seen.
            candidates.extend(wiring.free_norms().map(|norm| &norm.readers[0]));
            candidates.reverse();
        }
        Pass::Untie => {
            // A copy that is another one: whether anything reads it.
            let head = draft.added().next()?.to_string();
            let part = MatrixPart::whole(head.as_str(), fixture.wiring().tied?.embedding.dims);
            draft.edit(&part, Edit::scale(&part, 1.5));
            return Some(head);
        }
    }
    let found = candidates.into_iter().find(|part| changed.contains(&part.tensor))?;
    draft.forget(&found.tensor).then(|| found.tensor.clone())
}

const HEAD: &str = "\
# Rewrites

What each pass of `trimtab rewrite` does on each family. *yes*: the largest change of an output of the family's small random
model is at most 1e-4 in f32, and the same rewrite that leaves out one map changes an output by more than 1e-3; *part*: some
streams or norms only; *untie*: with `--untie`, since the head borrows the embedding. A number is the reason of a refusal, below.

`UPDATE_DOCS=1 cargo test --release --workspace` rewrites this page.

";

fn passes() -> impl Iterator<Item = Pass> {
    Pass::ALL.into_iter()
}

#[test]
fn every_pass_on_every_family() {
    let mut reasons: Vec<String> = Vec::new();
    let mut page = HEAD.to_string();
    let names: Vec<&str> = passes().map(Pass::name).collect();
    writeln!(page, "| family | model | {} |", names.join(" | ")).unwrap();
    writeln!(page, "|---|---|{}", "---|".repeat(names.len())).unwrap();
    let (mut largest, mut failures) = (0.0f64, Vec::new());
    for name in all() {
        let fixture = Fixture::open(&name);
        let mut cells = Vec::new();
        for pass in passes() {
            let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(&fixture, pass)));
            let cell = match run {
                Ok(cell) => cell,
                Err(cause) => {
                    let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
                    failures.push(text);
                    continue;
                }
            };
            cells.push(match cell {
                Cell::Done { change, untied, notes } => {
                    largest = largest.max(change);
                    let part = notes.iter().any(|note| note.contains("stream:") || note.contains("stay"));
                    match (untied, part) {
                        (true, true) => "untie, part".to_string(),
                        (true, false) => "untie".into(),
                        (false, true) => "part".into(),
                        (false, false) => "yes".into(),
                    }
                }
                Cell::Refused(reason) => {
                    let reason = general(&reason);
                    let known = reasons.iter().position(|other| *other == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    (number + 1).to_string()
                }
            });
        }
        writeln!(page, "| {} | `{name}` | {} |", fixture.model.family(), cells.join(" | ")).unwrap();
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    assert!(largest > 0.0 && largest <= SAME);
    page.push_str("\nReasons:\n\n");
    for (i, reason) in reasons.iter().enumerate() {
        writeln!(page, "{}. {reason}", i + 1).unwrap();
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/rewrites.md");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, page, "UPDATE_DOCS=1 rewrites docs/rewrites.md");
}

/// A reason without the name of a tensor, on one line.
fn general(reason: &str) -> String {
    let mut text = String::new();
    for (i, part) in reason.split('"').enumerate() {
        text.push_str(if i % 2 == 0 { part } else { "…" });
    }
    text.lines().collect::<Vec<_>>().join("; ")
}
