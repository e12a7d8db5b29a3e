//! The table of faults in the documentation.

use std::fmt::Write;
use std::path::PathBuf;

use crate::bench::{Bench, DOWNLOAD};
use crate::sweep::{Expected, FAULTS, Tally, sweep};

const HEAD: &str = "\
# Faults

Every verb that writes is run on a disk that fails, or in a process that is killed, at one call after another; then the same
command is given again on a sound disk. A fault counts as survived if

- the run ended as it has to: with exit code 2, one message with file and cause and nothing on stdout; or, after a fault that
  the system asks programs to bear with, as if nothing had been;
- inputs are as they were, byte by byte;
- the output is there whole, or as it was before the run, or not at all; nothing lies about but unfinished work by its name;
- the same command then succeeds (or, killed after its output was there, says that it is there already), and all files are
  those of an undisturbed run, byte by byte.

A power cut is played by hand: every file is cut back to what was synced, and every name to how it was when its folder was last
synced. `crates/faults` holds the disk and the tests; the program `trimtab` cannot be told to fail. This table strikes some calls
of each kind, spread over the run. `TRIMTAB_FAULTS=all cargo test --release -p trimtab-faults` strikes every call, and
`UPDATE_DOCS=1 cargo test --release -p trimtab-faults` rewrites this page.

";

const TAIL: &str = "
## Other trouble

The same tests also try: two runs on one output at once (the second says who is in the way and ends); a small disk that is
really full and a limit on memory at many levels (where the system lets a test set them); a full standard output; an input that
is shortened while it is mapped.
";

/// How a run with such a fault ends where there is no message.
fn ending(expected: Expected) -> &'static str {
    match expected {
        Expected::Error(_) | Expected::Nothing | Expected::Stop => "nothing; the run goes on",
        Expected::Death => "the end of the process",
        Expected::Exit => "the end of the process, code 130",
    }
}

fn row(verb: &str, what: &str, tally: &Tally, expected: Expected) -> String {
    let seen = tally.seen.as_ref().map_or(ending(expected).into(), |(_, seen)| format!("`{seen}`"));
    format!("| {verb} | {what} | {} | {} | {seen} |", tally.injected, tally.survived)
}

/// Without the last column, since which call comes at which place may differ between systems; of a download, which comes in as many
/// pieces as the network makes of it, without the counts, which are in the sum of all, too.
fn counts(page: &str) -> Vec<String> {
    let columns = |line: &str| match line.split(" | ").collect::<Vec<_>>()[..] {
        [verb, fault, ..] if verb.ends_with(DOWNLOAD) => format!("{verb} | {fault}"),
        [ref counted @ .., _] if counted.len() > 1 => counted.join(" | "),
        _ => line.to_string(),
    };
    page.lines().filter(|line| !line.ends_with(" survived.")).map(columns).collect()
}

#[test]
fn faults_at_every_call_lose_nothing_and_the_page_in_docs_is_up_to_date() {
    let bench = Bench::new();
    let verbs = bench.verbs();
    let tallies = sweep(&bench, &verbs);
    let failures: Vec<&str> = tallies.values().flat_map(|t| &t.failures).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} faults were not survived:\n{}", failures.len(), failures.join("\n"));
    let (injected, survived) =
        tallies.values().fold((0, 0), |(i, s), tally| (i + tally.injected, s + tally.survived));
    assert!(injected >= 500, "{injected} faults");
    if std::env::var_os("TRIMTAB_FAULTS").is_some() {
        return;
    }
    let mut page = format!("{HEAD}{injected} faults, {survived} survived.\n\n");
    page.push_str("| verb | fault | injected | survived | what the user saw |\n|---|---|---:|---:|---|\n");
    for ((v, f), tally) in &tallies {
        let folder = bench.input();
        let root = format!("{}/", folder.parent().unwrap().display());
        let shown = |(call, seen): &(usize, String)| (*call, seen.replace(&root, ""));
        let tally = Tally { seen: tally.seen.as_ref().map(shown), ..tally.clone() };
        writeln!(page, "{}", row(verbs[*v].name, FAULTS[*f].what, &tally, FAULTS[*f].expected)).unwrap();
    }
    page.push_str(TAIL);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/faults.md");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(counts(&committed), counts(&page), "UPDATE_DOCS=1 rewrites docs/faults.md");
}
