//! Running the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub fn trimtab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trimtab"));
    command.args(args);
    command
}

pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

pub fn run(args: &[&str]) -> Ended {
    trimtab(args).output().expect("the program starts").into()
}

/// The JSON document of a run that must succeed.
pub fn json(args: &[&str]) -> Value {
    let ended = run(&[args, &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", ended.stdout))
}

/// One clear message, exit code 2, nothing on stdout, no panic.
pub fn refused(args: &[&str], needles: &[&str]) {
    let ended = run(args);
    assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
    assert!(ended.stdout.is_empty(), "{args:?}: {}", ended.stdout);
    assert!(!ended.stderr.contains("panicked"), "{args:?}: {}", ended.stderr);
    for needle in needles {
        assert!(ended.stderr.contains(needle), "{args:?} should mention {needle:?}: {}", ended.stderr);
    }
}

/// The folder with real data, or `None` with a note that the test was skipped.
#[allow(clippy::print_stderr)] // The test runner shows it beside the test.
pub fn data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TRIMTAB_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped {test}: TRIMTAB_DATA is not set");
    }
    folder
}

/// Names and contents of all files below `folder`, sorted.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path)
            } else {
                files.push((path.clone(), std::fs::read(path).expect("a file")))
            }
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|(path, bytes)| (path.strip_prefix(folder).expect("below").to_path_buf(), bytes))
        .collect()
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
