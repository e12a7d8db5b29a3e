//! Trouble of other kinds: two runs at once, real disks that are full, too little memory, inputs that shrink.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::{Bench, DOWNLOAD, Ended, Files, Verb, outputs, part};

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a verb that stops at a call, and waits until it is there.
fn paused(
    bench: &Bench,
    verb: &Verb,
    folder: &Path,
    call: usize,
) -> (std::process::Child, std::path::PathBuf) {
    let spare = bench.folder(&format!("{} spare", verb.name), &Files::new());
    let mut command = bench.command(&verb.arguments, folder, &format!("pause:{call}"));
    command.env("TRIMTAB_SPARE", &spare).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (begun, mark) = (Instant::now(), spare.join("paused"));
    while !mark.exists() {
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE, "{}", verb.name);
        std::thread::sleep(Duration::from_millis(1));
    }
    (child, mark)
}

fn named(bench: &Bench, names: &[&str]) -> Vec<Verb> {
    bench.verbs().into_iter().filter(|verb| names.contains(&verb.name)).collect()
}

#[test]
fn of_two_runs_on_one_output_the_second_says_who_is_in_the_way() {
    let bench = Bench::new();
    // Downloads of one file wait for each other instead, and a written-back plan takes its turn.
    let verbs = bench.verbs().into_iter().filter(|verb| verb.name != DOWNLOAD);
    for verb in verbs {
        let (calls, expected) = bench.undisturbed(&verb);
        let folder = bench.folder(&format!("{} twice", verb.name), &verb.before);
        let last = calls.iter().rposition(|call| call == "Write").unwrap() + 1;
        let (first, mark) = paused(&bench, &verb, &folder, last);
        let second = bench.run(&verb.arguments, &folder, "none:0");
        assert_eq!(second.code, Some(2), "{}: {second:?}", verb.name);
        assert!(
            second.stderr.contains("another process is writing this output"),
            "{}: {second:?}",
            verb.name
        );
        std::fs::remove_file(mark).unwrap();
        let first: Ended = first.wait_with_output().unwrap().into();
        assert_eq!(first.code, Some(0), "{}: {first:?}", verb.name);
        assert!(outputs(&folder) == expected, "{}", verb.name);
    }
}

#[test]
fn an_input_that_is_shortened_while_it_is_read_is_named() {
    let bench = Bench::new();
    let verb = named(&bench, &["apply"]).remove(0);
    // The model lies in the working folder, so that no other test sees it shrink.
    let model: Files = part(&bench.inputs, "m");
    let mut arguments = verb.arguments.clone();
    arguments[2] = "m".into();
    let verb = Verb { name: "apply shrunk", arguments, before: model, ..verb };
    let (calls, expected) = bench.undisturbed(&verb);
    let folder = bench.folder("shrunk", &verb.before);
    let begun = calls.iter().position(|call| call == "CreateDir").unwrap() + 1;
    let (child, mark) = paused(&bench, &verb, &folder, begun);
    let weights = folder.join("m/model.safetensors");
    File::options().write(true).open(&weights).unwrap().set_len(4096).unwrap();
    std::fs::remove_file(mark).unwrap();
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("model.safetensors: it was shortened"), "{ended:?}");
    assert!(!folder.join("out").exists());
    std::fs::write(&weights, &verb.before["m/model.safetensors"]).unwrap();
    let again = bench.run(&verb.arguments, &folder, "none:0");
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(outputs(&folder) == expected);
}

#[test]
fn a_full_standard_output_is_an_error() {
    let bench = Bench::new();
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return skipped("/dev/full is not there");
    };
    let arguments = ["inspect".to_owned(), "m".to_owned()];
    let output = bench.command(&arguments, &bench.input(), "none:0").stdout(full).output().unwrap();
    let ended: Ended = output.into();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.starts_with("error: cannot write to the standard output"), "{ended:?}");
}

#[test]
fn too_little_memory_loses_nothing() {
    let bench = Bench::new();
    let mut short = 0;
    for verb in named(&bench, &["fit", "convert (GGUF)", "train"]) {
        let (_, expected) = bench.undisturbed(&verb);
        for megabytes in [64, 160, 256, 320, 384, 512] {
            let folder = bench.folder(&format!("{} {megabytes}", verb.name), &Files::new());
            let limited = format!("ulimit -v {} && exec \"$0\" \"$@\"", megabytes * 1024);
            let mut command = Command::new("sh");
            command.args(["-c", &limited, env!("CARGO_BIN_EXE_trimtab-faults")]).args(&verb.arguments);
            let output = command.args(["-q", "--threads", "1"]).current_dir(&folder).output().unwrap();
            let ended: Ended = output.into();
            let after = outputs(&folder);
            let now = part(&after, verb.out);
            assert!(now.is_empty() || now == part(&expected, verb.out), "{} at {megabytes} MB", verb.name);
            if ended.code == Some(0) {
                assert!(after == expected);
                continue;
            }
            short += 1;
            // Threads, maps and large allocations are refused with words, by the program or by the language.
            assert!(!ended.stderr.is_empty(), "{} at {megabytes} MB: {ended:?}", verb.name);
            let again = bench.run(&verb.arguments, &folder, "none:0");
            assert_eq!(again.code, Some(0), "{} after {megabytes} MB: {again:?}", verb.name);
            assert!(outputs(&folder) == expected, "{} after {megabytes} MB", verb.name);
        }
    }
    assert!(short > 0, "no limit was too low to prove anything");
}

/// A real file system without room for more files, in a name space of its own: `mount` needs no rights there.
const SMALL: &str = r#"
mount -t tmpfs -o size=32m,nr_inodes="$2" none "$1" || exit 99
program="$3"; folder="$1"; shift 3; cd "$folder"
"$program" "$@" >/dev/null; echo "first $?"
ls -d out out.gguf 2>/dev/null
mount -o remount,nr_inodes=1000 "$folder" || exit 99
"$program" "$@" >/dev/null; echo "second $?"
cp -r . ../result
"#;

#[test]
fn a_small_disk_that_is_really_full_loses_nothing() {
    let bench = Bench::new();
    let mut full = 0;
    for verb in named(&bench, &["apply", "convert (GGUF)"]) {
        let (_, expected) = bench.undisturbed(&verb);
        for files in [2, 3, 5, 7, 9, 11] {
            let folder = bench.folder(&format!("{} {files} files/disk", verb.name), &Files::new());
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", SMALL, "sh"]).arg(&folder);
            command.arg(files.to_string()).arg(env!("CARGO_BIN_EXE_trimtab-faults")).args(&verb.arguments);
            let Ok(output) = command.args(["-q", "--threads", "1"]).output() else {
                return skipped("unshare is not there");
            };
            let ended: Ended = output.into();
            if !ended.stdout.starts_with("first") {
                return skipped("this user may not mount a file system");
            }
            // Large enough: then the second run finds the output there.
            let enough = ended.stdout.starts_with("first 0\n");
            assert!(
                enough || ended.stdout.ends_with("second 0\n"),
                "{} with {files} files: {ended:?}",
                verb.name
            );
            if ended.stdout.starts_with("first 2\n") {
                full += 1;
                assert!(ended.stderr.contains("not enough space left"), "{ended:?}");
                assert!(ended.stdout.starts_with("first 2\nsecond"), "there is an output: {ended:?}");
            }
            let result = folder.parent().unwrap().join("result");
            assert!(outputs(&result) == expected, "{} with {files} files", verb.name);
        }
    }
    assert!(full > 0, "no disk was small enough to prove anything");
}

#[allow(clippy::print_stderr)] // The test runner shows it beside the test.
fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    eprintln!("skipped: {test}: {why}");
}
