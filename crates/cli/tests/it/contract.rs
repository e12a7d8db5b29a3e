//! The contract of the command line.

use crate::run::{contents, json, refused, run, text};

#[test]
fn help_has_examples_and_versions_are_told() {
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("trimtab fit"), "{}", help.stdout);
    for verb in ["inspect", "eval", "plan", "apply", "fit", "generate", "train", "reproduce", "bench"] {
        let help = run(&[verb, "--help"]);
        assert_eq!(help.code, Some(0), "{verb}");
        assert!(help.stdout.contains("Example"), "{verb} shows no example");
    }
    assert!(run(&["--version"]).stdout.starts_with("trimtab "));
}

#[test]
fn bad_input_gets_one_message_and_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    refused(&["inspect", "no/such/model"], &["no/such/model"]);
    std::fs::write(at("junk.safetensors"), b"not a tensor file").unwrap();
    refused(&["inspect", text(&at("junk.safetensors"))], &["junk.safetensors"]);
    std::fs::write(at("empty.safetensors"), b"").unwrap();
    refused(&["inspect", text(&at("empty.safetensors"))], &["empty.safetensors"]);
    refused(&["fit", "--budget", "3.5 apples", "-o", text(&at("out"))], &["apples"]);
    refused(&["fit", "--budget", "0.5bpw", "-o", text(&at("out"))], &["bpw"]);
    refused(
        &["fit", "--exclude", "model.layer.*", "-o", text(&at("out"))],
        &["model.layer.*", "model.layers"],
    );
    std::fs::write(at("short.txt"), b"Too short.").unwrap();
    refused(&["fit", "--calibration", text(&at("short.txt")), "-o", text(&at("out"))], &["window"]);
    refused(&["eval", "--pairs", text(&at("none.csv"))], &["none.csv"]);
    refused(&["fit", "-o", text(&at("no/such/folder/out"))], &["no/such/folder"]);
    refused(&["apply", "int9 g4", "-o", text(&at("out"))], &["int9 g4"]);
    refused(&["bench", "magic"], &["magic", "packed"]);
    refused(&["reproduce", "no-such-paper"], &["no-such-paper"]);
    assert!(!at("out").exists() && !at("out.partial").exists(), "nothing is left behind");
}

#[test]
fn an_existing_output_is_not_touched_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("Ausgabe für uns");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine.txt"), b"precious").unwrap();
    refused(&["apply", "int4 g128", "--method", "rtn", "-o", text(&out)], &["--force"]);
    assert_eq!(contents(&out).len(), 1);
    let report = json(&["apply", "int4 g128", "--method", "rtn", "-o", text(&out), "--force"]);
    assert!(report["bits_per_weight"].as_f64().unwrap() < 4.5);
    assert!(!out.join("mine.txt").exists());
    // What was written is read back, packed, and still speaks.
    let facts = json(&["inspect", text(&out)]);
    assert!(facts["sites"].as_array().unwrap().iter().any(|site| site["dtype"] == "int4 g128"));
    let quality = json(&["eval", text(&out), "--against", "@pico", "--limit", "8"]);
    let kl = quality["kl"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.2, "{kl}");
}

#[test]
fn a_tied_head_that_is_treated_stays_tied_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tied");
    let embed = "model.embed_tokens";
    let arguments =
        ["apply", "int8 row", "--method", "rtn", "--format", "safetensors", "--include", embed, "-o"];
    json(&[&arguments[..], &[text(&out)]].concat());
    let facts = json(&["inspect", text(&out)]);
    assert_eq!(facts["tied"], true);
    let original = json(&["inspect", "@pico"]);
    assert_eq!(facts["params"], original["params"], "there is no second copy");
    let header = std::fs::read(out.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&header[8..8 + length]).unwrap();
    assert!(names.get("model.embed_tokens.weight").is_some() && names.get("lm_head.weight").is_none());
    // The head speaks through the changed embedding.
    let kl = json(&["eval", text(&out), "--against", "@pico", "--limit", "4"])["kl"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.05, "{kl}");
    refused(
        &["apply", "int8 row", "--method", "rtn", "--include", embed, "-o", text(&folder.path().join("x"))],
        &[embed],
    );
}

#[test]
fn a_plan_can_be_edited_added_up_diffed_and_applied() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (plan, edited, out) = (at("plan.toml"), at("edited.toml"), at("out"));
    let quick = ["--samples", "8", "--metric", "output-error", "--bits", "3,4,8", "--groups", "64"];
    json(&[&["plan", "--budget", "4bpw", "-o", text(&plan)], &quick[..]].concat());
    let text_before = std::fs::read_to_string(&plan).unwrap();
    let site =
        text_before.lines().find(|line| line.starts_with("choice = \"int3 g64\"")).expect("a site at 3 bits");
    std::fs::write(&edited, text_before.replacen(site, "choice = \"int8 g64\"", 1)).unwrap();
    let ended = run(&["plan", "--reprice", text(&edited)]);
    assert!(matches!(ended.code, Some(0 | 1)), "{}", ended.stderr);
    let changes = json(&["plan", "--diff", text(&plan), text(&edited)]);
    assert!(!changes.as_array().unwrap().is_empty());
    let report = json(&["apply", text(&edited), "-o", text(&out), "--samples", "8"]);
    let eights = report["sites"].as_array().unwrap().iter().filter(|s| s["scheme"] == "int8 g64").count();
    assert!(eights >= 1);
    std::fs::write(&edited, text_before.replacen(site, "choice = \"int9 g64\"", 1)).unwrap();
    refused(&["apply", text(&edited), "-o", text(&at("other"))], &["int9 g64", "int8 g64"]);
}

#[test]
fn generate_is_reproducible_and_json_is_one_document() {
    let arguments = ["generate", "--prompt", "Once upon a time", "--tokens", "20", "--seed", "3"];
    let (first, second) = (json(&arguments), json(&arguments));
    assert_eq!(first["text"], second["text"]);
    assert!(first["tokens"].as_u64().unwrap() > 0);
    let papers = json(&["reproduce", "--list"]);
    assert_eq!(papers.as_array().unwrap().len(), 99);
    assert!(papers[0]["verdict"].is_string());
}
