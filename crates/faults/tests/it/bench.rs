//! A small model, the verbs that write, and running them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::server::Server;

/// The verb whose calls are not the same in every run.
pub const DOWNLOAD: &str = "download";

/// Names and contents of files, by their path below a folder.
pub type Files = BTreeMap<String, Vec<u8>>;

const RECIPE: &str = r#"
version = 1
window = 32
dtype = "f32"
[model]
model_type = "llama"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
hidden_act = "silu"
rms_norm_eps = 1e-5
rope_theta = 10000.0
max_position_embeddings = 64
tie_word_embeddings = true
[tokenizer]
vocab = 270
[data.stories]
count = 8
heldout = 2
[training]
batch = 4
save_every = 1
[[training.phases]]
steps = 2
rate = 1e-3
"#;

/// A verb that writes, in a folder of its own.
pub struct Verb {
    pub name: &'static str,
    pub arguments: Vec<String>,
    /// What it writes, in the working folder.
    pub out: &'static str,
    /// What is in the working folder before.
    pub before: Files,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A folder with inputs, and a hub that serves one of them.
pub struct Bench {
    root: tempfile::TempDir,
    hub: Server,
    pub inputs: Files,
}

impl Bench {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let input = root.path().join("input");
        std::fs::create_dir(&input).unwrap();
        let story = "Anna had four pears. She gave one to Ben. That left three pears. ".repeat(20);
        std::fs::write(input.join("story.txt"), story).unwrap();
        std::fs::write(input.join("tiny.toml"), RECIPE).unwrap();
        let made = |arguments: &[&str]| {
            let ended: Ended = program(&input, arguments).output().unwrap().into();
            assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
        };
        made(&["train", "tiny.toml", "-o", "m"]);
        made(&["apply", "int4 g32 sym", "m", "--method", "rtn", "-o", "q"]);
        made(&[
            "plan",
            "m",
            "--budget",
            "4.5bpw",
            "--samples",
            "4",
            "--metric",
            "output-error",
            "-o",
            "plan.toml",
        ]);
        let inputs = contents(&input);
        let model = ["config.json", "tokenizer.json", "model.safetensors"];
        let hub = Server::start(&model.map(|name| (name, inputs[&format!("m/{name}")].clone())));
        Self { root, hub, inputs }
    }

    pub fn input(&self) -> PathBuf {
        self.root.path().join("input")
    }

    /// A new folder to work in.
    pub fn folder(&self, name: &str, before: &Files) -> PathBuf {
        let folder = self.root.path().join("work").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in before {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        folder
    }

    /// Where the disk keeps what a power cut brings back.
    pub fn spare(&self) -> PathBuf {
        let spare = self.root.path().join("spare");
        std::fs::create_dir_all(&spare).unwrap();
        spare
    }

    /// The program with a fault, `none:0` for none, to be run in `folder`.
    pub fn command(&self, arguments: &[String], folder: &Path, fault: &str) -> Command {
        let mut command = program(folder, arguments);
        command
            .args(["--quiet", "--threads", "1"])
            .env("TRIMTAB_FAULT", fault)
            .env("TRIMTAB_SPARE", self.spare())
            .env("HF_ENDPOINT", &self.hub.address)
            .env("HF_HUB_CACHE", folder.join("cache"))
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_TOKEN");
        command
    }

    pub fn run(&self, arguments: &[String], folder: &Path, fault: &str) -> Ended {
        self.command(arguments, folder, fault).output().unwrap().into()
    }

    /// [`Self::run`], and the operations of the calls that it came to.
    pub fn traced(&self, arguments: &[String], folder: &Path, fault: &str) -> (Ended, Vec<String>) {
        let trace = self.root.path().join(format!("{}.trace", folder.file_name().unwrap().display()));
        let mut command = self.command(arguments, folder, fault);
        let ended = command.env("TRIMTAB_TRACE", &trace).output().unwrap().into();
        let lines = std::fs::read_to_string(&trace).unwrap();
        std::fs::remove_file(trace).unwrap();
        let calls = lines.lines().filter_map(|line| Some(line.split('\t').next()?.to_owned())).collect();
        (ended, calls)
    }

    /// Operations of the calls of an undisturbed run, and the files that it leaves.
    pub fn undisturbed(&self, verb: &Verb) -> (Vec<String>, Files) {
        let folder = self.folder(&format!("{} undisturbed", verb.name), &verb.before);
        let (ended, calls) = self.traced(&verb.arguments, &folder, "none:0");
        assert_eq!(ended.code, Some(0), "{}: {}", verb.name, ended.stderr);
        (calls, outputs(&folder))
    }

    /// The verbs that write.
    pub fn verbs(&self) -> Vec<Verb> {
        let input = self.input();
        let at = |name: &str| input.join(name).display().to_string();
        let verb = |name, out, arguments: &[&str]| {
            let arguments = arguments.iter().map(ToString::to_string).collect();
            Verb { name, arguments, out, before: Files::new() }
        };
        let (m, q, recipe, story) = (&at("m"), &at("q"), &at("tiny.toml"), &at("story.txt"));
        let plan = ["--budget", "7bpw", "--samples", "4", "--bits", "4,8", "--groups", "32"];
        let short = ["--metric", "output-error", "--calibration", story, "--window", "32"];
        let planned = |head: &[&str], tail: &[&str]| -> Vec<String> {
            let all = head.iter().chain(&plan).chain(&short).chain(tail);
            all.map(ToString::to_string).collect()
        };
        let old = Files::from([("out/mine.txt".to_owned(), b"precious".to_vec())]);
        let edited = Files::from([("plan.toml".to_owned(), self.inputs["plan.toml"].clone())]);
        vec![
            Verb {
                arguments: planned(&["fit", m], &["--text", story, "-o", "out"]),
                ..verb("fit", "out", &[])
            },
            Verb { arguments: planned(&["plan", m], &["-o", "plan.toml"]), ..verb("plan", "plan.toml", &[]) },
            Verb {
                before: edited,
                ..verb("plan --reprice", "plan.toml", &["plan", "--reprice", "plan.toml"])
            },
            verb("apply", "out", &["apply", "int4 g32", m, "--method", "rtn", "-o", "out"]),
            Verb {
                before: old,
                ..verb(
                    "apply --force",
                    "out",
                    &[
                        "apply",
                        "int8 g32",
                        m,
                        "--method",
                        "rtn",
                        "--format",
                        "safetensors",
                        "-o",
                        "out",
                        "--force",
                    ],
                )
            },
            verb("apply (GGUF)", "out", &["apply", "q8_0", m, "--method", "rtn", "-o", "out"]),
            verb("rewrite", "out", &["rewrite", m, "--pass", "rotate-heads", "-o", "out"]),
            verb("convert (folder)", "out", &["convert", q, "--to", "gptq", "-o", "out"]),
            verb("convert (GGUF)", "out.gguf", &["convert", m, "--to", "gguf:q8_0", "-o", "out.gguf"]),
            verb("train", "out", &["train", recipe, "-o", "out"]),
            verb(
                "eval --logits",
                "logits.safetensors",
                &[
                    "eval",
                    m,
                    "--text",
                    story,
                    "--window",
                    "32",
                    "--limit",
                    "2",
                    "--logits",
                    "logits.safetensors",
                ],
            ),
            verb(DOWNLOAD, "cache", &["inspect", "o/n"]),
        ]
    }
}

/// The program in `folder`.
pub fn program<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trimtab-faults"));
    command.args(arguments).current_dir(folder);
    command
}

/// All files below a folder.
pub fn contents(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            // Links to folders are not followed; there are none.
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// All files below a working folder but the locks of the download cache, which stay by design.
pub fn outputs(folder: &Path) -> Files {
    let files = contents(folder).into_iter().filter(|(name, _)| !name.starts_with("cache/.locks/"));
    // A report tells times and memory, which no run repeats: that it is there is what counts.
    let is_report = |name: &str| name.ends_with(".report.html") || name.ends_with(".report.json");
    let content = |name: &str, bytes: Vec<u8>| match name {
        name if is_report(name) => Vec::new(),
        name if name.ends_with(".metrics.jsonl") => without_times(&bytes),
        _ => bytes,
    };
    files.map(|(name, bytes)| (name.clone(), content(&name, bytes))).collect()
}

/// Lines of metrics without times. What is no whole line stays as it is.
fn without_times(bytes: &[u8]) -> Vec<u8> {
    let line = |line: &[u8]| match serde_json::from_slice::<serde_json::Value>(line) {
        Ok(serde_json::Value::Object(mut fields)) => {
            ["terms_per_s", "seconds_left"].iter().for_each(|name| drop(fields.remove(*name)));
            let line = serde_json::Value::Object(fields).to_string();
            format!("{line}\n").into_bytes()
        }
        _ => line.to_vec(),
    };
    bytes.split_inclusive(|byte| *byte == b'\n').flat_map(line).collect()
}

/// The files of one output.
pub fn part(files: &Files, out: &str) -> Files {
    let below = format!("{out}/");
    let of_it = |name: &String| name == out || name.starts_with(&below);
    files.iter().filter(|(name, _)| of_it(name)).map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
}
