//! Nothing is lost: a run that is killed at any moment goes on with the same command and gives the same bytes.

use std::process::Stdio;
use std::time::Duration;

use crate::run::{contents, json, text, trimtab};

fn arguments<'a>(out: &'a str, threads: &'a str, proof: &'a str) -> Vec<&'a str> {
    let fit = ["fit", "--budget", "3.2bpw", "--samples", "8", "--bits", "2,3,4", "--groups", "64"];
    // Prices without probes and a short proof: most of the run is what a kill can harm.
    let short = ["--metric", "output-error", "--text", proof];
    fit.into_iter().chain(short).chain(["--threads", threads, "-o", out]).collect()
}

#[test]
fn killed_runs_end_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let proof = folder.path().join("proof.txt");
    std::fs::write(&proof, "Anna had four pears. She gave one to Ben. That left three pears. ".repeat(40))
        .unwrap();
    let proof = text(&proof);
    let whole = folder.path().join("whole");
    json(&arguments(text(&whole), "2", proof));
    let expected = contents(&whole);
    // Waits that end in planning, in treating and in writing; the run takes a second or a few.
    for (i, wait) in [150, 400, 700, 1000, 1400].into_iter().enumerate() {
        let out = folder.path().join(format!("killed {i}"));
        let threads = if i % 2 == 0 { "1" } else { "2" };
        for share in [1, 2] {
            let mut child = trimtab(&arguments(text(&out), threads, proof))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the program starts");
            std::thread::sleep(Duration::from_millis(wait / share));
            child.kill().expect("the program can be killed");
            child.wait().expect("the program ends");
            if out.exists() {
                break;
            }
        }
        if !out.exists() {
            json(&arguments(text(&out), threads, proof));
        }
        assert!(contents(&out) == expected, "kill {i} after {wait} ms, {threads} threads");
        assert!(!out.with_file_name(format!("killed {i}.partial")).exists());
    }
}
