//! Nothing is lost: a run that is killed at any moment goes on with the same command and gives the same bytes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

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
    // Killed in planning, then with so many blocks of six finished; at 1 and 2 threads.
    for (i, blocks) in [0, 1, 2, 3, 4, 5].into_iter().enumerate() {
        let out = folder.path().join(format!("killed {i}"));
        let threads = if i % 2 == 0 { "1" } else { "2" };
        kill(&arguments(text(&out), threads, proof), &out, blocks);
        let report = json(&arguments(text(&out), threads, proof));
        assert!(contents(&out) == expected, "killed after {blocks} blocks, {threads} threads");
        assert!(!out.with_file_name(format!("killed {i}.partial")).exists());
        // What was found in planning is told all the same, and nothing that waited is left.
        assert!(report["halves"].is_object() && report["sites"][0]["relative_error"].is_number());
        for pending in ["plan.toml", "plan.json"] {
            assert!(!out.with_file_name(format!("killed {i}.{pending}")).exists());
        }
    }
}

#[test]
fn killed_runs_with_branches_and_quantized_activations_end_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    // Steps as they come leave no tensor in the file, rewritten norms and absorbing weights change what codes are chosen for.
    let rewritten = ["--activations", "int8 tensor sym", "--scale-reparameterization"];
    let cases: [&[&str]; 4] = [
        &["--eora-rank", "4"],
        &[&rewritten[..], &["--attention-operands", "int8 token"]].concat(),
        &["--activations", "int4 tensor", "--absorb-activations", "--softmax", "int4 log-sqrt2"],
        &["--activations", "int4 channel", "--clip-search", "descend"],
    ];
    for (case, more) in cases.into_iter().enumerate() {
        let apply = |out: &Path| {
            let apply = ["apply", "int2 g64", "@pico", "--samples", "16", "-o", text(out)];
            [&apply, more].concat().into_iter().map(str::to_string).collect::<Vec<_>>()
        };
        let whole = folder.path().join(format!("whole {case}"));
        json(&apply(&whole).iter().map(String::as_str).collect::<Vec<_>>());
        let expected = contents(&whole);
        for blocks in [1, 3] {
            let out = folder.path().join(format!("killed {case} {blocks}"));
            let command = apply(&out);
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            kill(&command, &out, blocks);
            json(&command);
            assert!(contents(&out) == expected, "{more:?}, killed after {blocks} blocks");
        }
    }
}

/// Starts a run and kills it as soon as so many blocks are finished.
fn kill(arguments: &[&str], out: &Path, blocks: usize) {
    let name = out.file_name().and_then(|name| name.to_str()).expect("a name");
    let partial = out.with_file_name(format!("{name}.partial"));
    let mut child =
        trimtab(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let begun = Instant::now();
    let least = if blocks == 0 { Duration::from_millis(200) } else { Duration::ZERO };
    while begun.elapsed() < least || units(&partial) < blocks {
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("the program can be killed");
    child.wait().expect("the program ends");
    assert!(!out.exists(), "the kill after {blocks} blocks came too late to prove anything");
    assert_eq!(blocks > 0, partial.exists());
}

const RECIPE: &str = r#"
version = 1
window = 32
[model]
model_type = "llama"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
hidden_act = "silu"
rms_norm_eps = 1e-5
max_position_embeddings = 32
tie_word_embeddings = true
[tokenizer]
vocab = 270
[data.stories]
count = 40
heldout = 2
[training]
batch = 8
save_every = 5
[[training.phases]]
steps = 120
rate = 1e-3
"#;

#[test]
fn killed_training_ends_in_the_same_bytes_and_has_a_line_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, RECIPE).unwrap();
    let [whole, out] = ["whole", "out"].map(|name| folder.path().join(name));
    let again = ["train", text(&recipe), "-o", text(&out)];
    json(&["train", text(&recipe), "-o", text(&whole)]);
    let lines = || std::fs::read_to_string(folder.path().join("out.metrics.jsonl")).unwrap_or_default();
    for at in [10, 60] {
        let mut child =
            trimtab(&again).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        let begun = Instant::now();
        while lines().lines().count() < at {
            assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(120));
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("the program can be killed");
        child.wait().expect("the program ends");
        assert!(!out.exists(), "the kill came too late to prove anything");
    }
    json(&again);
    assert!(contents(&out) == contents(&whole));
    let step =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap();
    assert_eq!(lines().lines().map(step).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>());
}

/// Stages that a run has finished.
fn units(partial: &Path) -> usize {
    std::fs::read_dir(partial.join("units")).map_or(0, Iterator::count)
}
