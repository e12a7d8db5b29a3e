//! Low-rank branches beside codes: through every verb, and out of the house.

use std::path::Path;

use serde_json::Value;
use trimtab::floors::io::{Adapter, Checkpoint};

use crate::run::{contents, json, refused, run, text};

/// What a model says to held-out stories.
fn logits(model: &str, folder: &Path, name: &str) -> Vec<f32> {
    let file = folder.join(format!("{name}.safetensors"));
    json(&["eval", model, "--limit", "2", "--logits", text(&file)]);
    Checkpoint::open(&file).unwrap().tensor("logits").unwrap().to_f32().unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn branches_are_applied_read_merged_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [bare, out] = [at("bare"), at("out")];
    let common = ["--samples", "8", "-o"];
    json(&[&["apply", "int2 g64", "@pico"], &common[..], &[text(&bare)]].concat());
    json(&[&["apply", "int2 g64", "@pico"], &common[..], &[text(&out), "--eora-rank", "6"]].concat());

    // The manifest tells what the branch took off; all of it counts.
    let sites = read(&out.join("trimtab.json"))["sites"].as_array().unwrap().clone();
    let without = read(&bare.join("trimtab.json"))["sites"].as_array().unwrap().clone();
    let stored = Checkpoint::open(&out).unwrap();
    for (site, without) in sites.iter().zip(&without) {
        let name = site["site"].as_str().unwrap();
        assert_eq!(site["scheme"], "int2 g64 + rank 6", "{name}");
        assert!(site["damage"].as_f64() < site["bare_damage"].as_f64(), "{site}");
        let tensor = |part: &str| stored.require(&format!("{name}.{part}.weight")).unwrap().bytes;
        let branch = site["bytes"].as_u64().unwrap() - without["bytes"].as_u64().unwrap();
        assert_eq!(branch, tensor("lora_A") + tensor("lora_B"), "{name}");
    }

    // Every verb reads it: the model is nearer to the original than without.
    let facts = json(&["inspect", text(&out)]);
    let dtype = |facts: &Value| facts["sites"][1]["dtype"].as_str().unwrap().to_string();
    assert!(dtype(&facts).ends_with("+ rank 6") && facts["unread"].as_array().unwrap().is_empty(), "{facts}");
    let original = logits("@pico", folder.path(), "original");
    let ours = logits(text(&out), folder.path(), "ours");
    let mean = |a: &[f32]| a.iter().zip(&original).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let plain = logits(text(&bare), folder.path(), "plain");
    assert!(mean(&ours) < 0.96 * mean(&plain), "{} {}", mean(&ours), mean(&plain));
    assert!(!run(&["generate", text(&out), "--prompt", "Anna", "--tokens", "3"]).stdout.is_empty());

    // Merged, kept, and apart, it is the same model.
    let [merged, kept, base, lora] = [at("merged"), at("kept"), at("base"), at("lora")];
    json(&["convert", text(&out), "--to", "safetensors:f32", "-o", text(&merged)]);
    assert!(apart(&ours, &logits(text(&merged), folder.path(), "merged")) < 1e-3);
    json(&["convert", text(&out), "--to", "compressed-tensors", "-o", text(&kept)]);
    assert_eq!(ours, logits(text(&kept), folder.path(), "kept"));
    let to_base = ["--to", "safetensors:f32", "-o", text(&base), "--adapter", text(&lora)];
    let done = json(&[&["convert", text(&out)], &to_base[..]].concat());
    assert_eq!(done["adapter"]["modules"].as_u64().unwrap() as usize, sites.len());
    let together = format!("{}+{}", text(&base), text(&lora));
    assert!(apart(&ours, &logits(&together, folder.path(), "together")) < 1e-3);
    assert!(apart(&ours, &logits(text(&base), folder.path(), "base")) > 0.1, "the adapter matters");
    let config = read(&lora.join("adapter_config.json"));
    assert_eq!(
        (&config["r"], &config["lora_alpha"], &config["bias"]),
        (&6.into(), &6.into(), &"none".into())
    );
    assert_eq!(Adapter::open(&lora).unwrap().modules().count(), sites.len());

    // A model with branches is treated anew from what it computes.
    let again = at("again");
    let eight = ["--method", "rtn", "-o", text(&again)];
    json(&[&["apply", "int8 g32", text(&out)], &eight[..]].concat());
    assert!(!Checkpoint::open(&again).unwrap().names().any(|name| name.contains("lora_")));
    assert!(apart(&ours, &logits(text(&again), folder.path(), "again")) < 0.5 * apart(&ours, &plain));

    // Dense numbers have the branch in them; what has no place for one says so.
    let dense = at("dense");
    let as_dense = ["--format", "safetensors", "--eora-rank", "6"];
    json(&[&["apply", "int2 g64", "@pico"], &common[..], &[text(&dense)], &as_dense[..]].concat());
    assert!(mean(&logits(text(&dense), folder.path(), "dense")) < 0.96 * mean(&plain));
    let spare = at("spare");
    let to =
        |format: &'static str| ["convert", text(&out), "--to", format, "-o", text(&spare)].map(String::from);
    let words = to("gptq");
    refused(&words.each_ref().map(String::as_str), &["low-rank branch", "--adapter"]);
    refused(
        &["convert", text(&bare), "--to", "safetensors", "-o", text(&spare), "--adapter", text(&spare)],
        &["directory of its own"],
    );
    let no_branch = at("none");
    refused(
        &["convert", text(&bare), "--to", "safetensors", "-o", text(&spare), "--adapter", text(&no_branch)],
        &["no branches"],
    );
    refused(&["apply", "q4_0", "@pico", "-o", text(&spare), "--eora-rank", "6"], &["GGUF", "branch"]);
    refused(&["apply", "int2 g64", "@pico", "-o", text(&spare), "--eora-rank", "4000"], &["no site takes"]);
    let verdict = run(&["verify", text(&out), "--for", "transformers"]);
    assert!(verdict.code == Some(1) && verdict.stdout.contains("low-rank branch"), "{}", verdict.stdout);
}

#[test]
fn ranks_are_planned_beside_bits_and_the_budget_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("plan.toml"), folder.path().join("out"));
    let asked = ["--bits", "2,4", "--groups", "64", "--eora-ranks", "0,2,8", "--samples", "8"];
    let cheap = ["--metric", "output-error", "-o", text(&file)];
    let report = json(&[&["plan", "@pico", "--budget", "3.4bpw"], &asked[..], &cheap[..]].concat());
    let schemes: Vec<&str> =
        report["sites"].as_array().unwrap().iter().map(|site| site["scheme"].as_str().unwrap()).collect();
    assert!(schemes.iter().any(|scheme| scheme.contains("+ rank")), "{schemes:?}");
    let settings = std::fs::read_to_string(&file).unwrap();
    assert!(settings.contains("rank = ") || settings.contains("rank="), "{settings}");
    let applied = json(&["apply", text(&file), "@pico", "-o", text(&out), "--samples", "8"]);
    assert!(applied["bits_per_weight"].as_f64().unwrap() <= 3.4, "{}", applied["bits_per_weight"]);
    let manifest = read(&out.join("trimtab.json"));
    for (site, scheme) in manifest["sites"].as_array().unwrap().iter().zip(&schemes) {
        assert_eq!(&site["scheme"], scheme);
    }
    // An engine that runs no branches is offered none.
    let for_vllm =
        ["--for", "vllm", "--symmetric", "-o", text(&folder.path().join("vllm.toml"))].map(String::from);
    let for_vllm = for_vllm.each_ref().map(String::as_str);
    let report = json(
        &[&["plan", "@pico", "--budget", "3.4bpw", "--metric", "output-error"], &asked[..], &for_vllm[..]]
            .concat(),
    );
    assert!(!report["sites"].to_string().contains("+ rank"), "{}", report["sites"]);
}

#[test]
fn same_bytes_at_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let written = |threads: &str| {
        let out = folder.path().join(threads);
        let asked = ["--samples", "4", "--eora-rank", "4", "--threads", threads, "-o", text(&out)];
        json(&[&["apply", "int3 g64", "@pico"], &asked[..]].concat());
        contents(&out)
    };
    assert!(written("1") == written("2"));
}

#[test]
fn normal_floats_are_split_by_turns_without_data_and_kept_by_our_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [out, bare, after, other] = ["out", "bare", "after", "other"].map(at);
    let by_turns = ["--branches", "lq", "-o", text(&out)];
    let applied = json(&[&["apply", "nf3 b64 + rank 8", "@pico"], &by_turns[..]].concat());
    assert!(applied["calibration"].is_null(), "no data were needed: {}", applied["calibration"]);
    let bits = |report: &Value| {
        [&report["bits_per_weight"], &report["bits_without_branches"]]
            .map(|bits| bits.as_f64().unwrap_or(0.0))
    };
    let [all, codes] = bits(&applied);
    assert!((3.1..3.3).contains(&codes) && all > codes + 0.5, "{all} {codes}");
    // Bytes in the report are bytes in the file, and the file says what it is.
    let checkpoint = Checkpoint::open(&out).unwrap();
    for site in applied["sites"].as_array().unwrap() {
        let name = site["site"].as_str().unwrap();
        let stored = checkpoint
            .names()
            .filter(|t| t.starts_with(&format!("{name}.weight_")) || t.starts_with(&format!("{name}.lora_")));
        let stored: u64 = stored.map(|tensor| checkpoint.info(tensor).unwrap().bytes).sum();
        assert_eq!(site["bytes"].as_u64().unwrap(), stored, "{name}");
    }
    let config = read(&out.join("config.json"));
    assert_eq!(config["quantization_config"]["quant_method"], "trimtab");
    assert!(
        config["quantization_config"]["normal_floats"]
            .as_object()
            .unwrap()
            .values()
            .all(|label| label == "nf3 b64")
    );
    json(&["apply", "nf3 b64", "@pico", "-o", text(&bare)]);
    let svd = ["--branches", "svd", "-o", text(&after)];
    json(&[&["apply", "nf3 b64 + rank 8", "@pico"], &svd[..]].concat());
    let kl = |model: &Path| {
        json(&["eval", text(model), "--against", "@pico", "--limit", "8"])["kl"].as_f64().unwrap()
    };
    let [turns, once, none] = [&out, &after, &bare].map(|model| kl(model));
    assert!(turns < once && once < none, "{turns} {once} {none}");
    // The same numbers as plain floats; the branch apart, for other programs.
    let lora = at("lora");
    json(&["convert", text(&out), "--to", "safetensors", "-o", text(&other), "--adapter", text(&lora)]);
    assert!((kl(Path::new(&format!("{}+{}", text(&other), text(&lora)))) / turns - 1.0).abs() < 0.05);
    let spare = at("spare");
    refused(&["apply", "nf3 b64", "@pico", "-o", text(&spare), "--format", "gguf"], &["no such codes"]);
    refused(
        &["apply", "nf5 b64", "@pico", "-o", text(&spare)],
        &["neither a plan file nor a scheme", "nf3 b64"],
    );
    for engine in ["vllm", "llama.cpp", "transformers"] {
        let verified = run(&["verify", text(&bare), "--for", engine]);
        assert_eq!(verified.code, Some(1), "{engine}: {}", verified.stdout);
    }
    // Configuration and rank of each matrix by one budget, priced by the Fisher information.
    let plan = at("plan.toml");
    let asked = [
        "--types",
        "nf2 b64,nf3 b64,nf4 b32",
        "--bits",
        "16",
        "--eora-ranks",
        "0,4",
        "--branches",
        "lq-fisher",
    ];
    let fast = ["--metric", "fisher", "--samples", "8", "-o", text(&plan)];
    let planned = json(&[&["plan", "@pico", "--budget", "3.4bpw"], &asked[..], &fast[..]].concat());
    let [all, codes] = bits(&planned);
    assert!(all <= 3.4 && codes <= all, "{all} {codes}");
    let made = at("planned");
    json(&["apply", text(&plan), "@pico", "-o", text(&made), "--samples", "8", "--branches", "lq-fisher"]);
    let uniform = at("uniform");
    json(&["apply", "nf3 b64", "@pico", "-o", text(&uniform)]);
    assert!(kl(&made) < kl(&uniform));
}

#[test]
fn branches_are_trained_towards_the_original_and_nothing_else_changes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [bare, eora, out, on, lora, base] = ["bare", "eora", "out", "on", "lora", "base"].map(at);
    let few = ["--samples", "16"];
    json(&[&["apply", "int2 g64", "@pico", "-o", text(&bare)], &few[..]].concat());
    json(&[&["apply", "int2 g64 + rank 4", "@pico", "-o", text(&eora)], &few[..]].concat());
    let kl =
        |model: &str| json(&["eval", model, "--against", "@pico", "--limit", "8"])["kl"].as_f64().unwrap();
    let short = ["--steps", "60", "--rate", "1e-3", "--window", "64", "--windows", "160"];
    let train = |from: &Path, to: &Path, more: &[&str]| {
        json(&[&["correct", text(from), "--like", "@pico", "-o", text(to)], &short[..], more].concat())
    };
    let found = train(&bare, &out, &["--rank", "4"]);
    assert!(found["heldout_after"].as_f64() < found["heldout_before"].as_f64(), "{found}");
    let again = train(&eora, &on, &[]);
    assert_eq!(again["rank"], 4, "branches that are there go on");
    let [none, closed, trained, both] = [text(&bare), text(&eora), text(&out), text(&on)].map(kl);
    assert!(trained < 0.85 * none && both < closed, "{none} {closed} {trained} {both}");
    // Codes are the same bytes; factors are beside them, and count.
    let [before, after] = [&bare, &out].map(|model| Checkpoint::open(model).unwrap());
    for name in before.names() {
        assert_eq!(before.tensor(name).unwrap().bytes[..], after.tensor(name).unwrap().bytes[..], "{name}");
    }
    let factors = after.names().filter(|name| name.contains(".lora_"));
    let bytes: u64 = factors.map(|name| after.info(name).unwrap().bytes).sum();
    assert_eq!(found["branch_bytes"].as_u64(), Some(bytes));
    // The same bytes again, at another number of threads.
    let twin = at("twin");
    train(&bare, &twin, &["--rank", "4", "--threads", "1"]);
    assert_eq!(contents(&out), contents(&twin));
    // For PEFT.
    let dense = at("dense");
    json(&["convert", text(&out), "--to", "safetensors", "-o", text(&dense), "--adapter", text(&lora)]);
    assert!((kl(&format!("{}+{}", text(&dense), text(&lora))) / trained - 1.0).abs() < 0.1);
    // A checkpoint of another format goes the same way; what does not belong together says so.
    json(&["convert", text(&bare), "--to", "gptq", "-o", text(&base)]);
    let gptq = at("gptq");
    json(&[
        "correct",
        text(&base),
        "--like",
        "@pico",
        "-o",
        text(&gptq),
        "--rank",
        "2",
        "--steps",
        "2",
        "--window",
        "64",
        "--windows",
        "20",
    ]);
    assert!(read(&gptq.join("config.json"))["quantization_config"]["quant_method"] == "gptq");
    let spare = at("spare");
    refused(&["correct", text(&bare), "--like", "@pico", "-o", text(&spare), "--rank", "0"], &["branch"]);
    refused(&["correct", text(&bare), "--like", "@pico", "-o", text(&spare), "--top-k", "0"], &["--top-k"]);
    refused(&["correct", text(&bare), "--like", "@pico", "-o", text(&spare), "--steps", "0"], &["--steps"]);
    refused(
        &["correct", text(&bare), "--like", "@pico", "-o", text(&spare), "--windows", "1"],
        &["--windows"],
    );
    assert!(!spare.with_extension("partial").exists(), "what is refused at once leaves nothing");
}
