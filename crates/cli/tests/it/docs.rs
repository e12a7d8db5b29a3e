//! What the documentation says: commands run, links lead somewhere, every verb has its page.
//!
//! Commands are those of the blocks `sh` and `console` that begin with `trimtab` or `cargo run --release --`. A page's
//! commands run in its order in one folder, which holds what the pages take for granted: `model/`, `notes.txt` and so on,
//! all of them small. What a test cannot run says why in its fence: `sh,no_run=network`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use trimtab::floors::io::{Checkpoint, Dtype, RawTensor, to_safetensors};

use crate::run::{Ended, json, run, text};

/// Why a block is not run here.
const REASONS: [(&str, &str); 4] = [
    ("network", "downloads something"),
    ("minutes", "takes minutes, or needs data that are not in this repository"),
    ("job", "is a step of the main job itself"),
    ("shell", "changes the user's shell or home"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// README.md and the pages of docs/, by their path from the root, sorted.
fn pages() -> Vec<(String, String)> {
    let root = root();
    let mut files = vec![root.join("README.md")];
    let mut open = vec![root.join("docs")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("docs/book") {
                open.push(path)
            } else if path.extension().is_some_and(|end| end == "md") {
                files.push(path)
            }
        }
    }
    files.sort();
    let name = |path: &Path| text(path.strip_prefix(&root).unwrap()).replace('\\', "/");
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// A fenced block.
struct Block {
    line: usize,
    info: String,
    lines: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (i, line) in page.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            inside = !inside;
            if inside {
                blocks.push(Block { line: i + 1, info: info.trim().into(), lines: Vec::new() });
            }
        } else if inside {
            blocks.last_mut().unwrap().lines.push(line.into());
        }
    }
    blocks
}

/// A page without its fenced blocks and spans of code: what may hold links and headings.
fn prose(page: &str) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in page.lines() {
        let fence = line.starts_with("```");
        inside ^= fence;
        if !inside && !fence {
            for (i, part) in line.split('`').enumerate() {
                prose.push_str(if i % 2 == 0 { part } else { "" });
            }
        }
        prose.push('\n');
    }
    prose
}

/// A command with the output that follows it on the page.
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
}

/// The steps of a block, `None` if it is no block of commands; a block that is not to be run must say why.
fn steps(page: &str, block: &Block) -> Option<Vec<Step>> {
    let mut marks = block.info.split(',');
    let kind = marks.next()?;
    if !matches!(kind, "sh" | "console") {
        return None;
    }
    if let Some(mark) = marks.next() {
        let reason = mark.trim().strip_prefix("no_run=");
        let known = reason.is_some_and(|reason| REASONS.iter().any(|(name, _)| *name == reason));
        assert!(known, "{page}:{}: {mark:?} is none of no_run={REASONS:?}", block.line);
        return None;
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for (i, line) in block.lines.iter().enumerate() {
        let typed = if kind == "sh" { Some(line.as_str()) } else { line.strip_prefix("$ ") };
        if open {
            let command = &mut steps.last_mut().unwrap().command;
            *command = format!("{}{}", command.trim_end_matches('\\'), line.trim_start());
        } else if let Some(typed) = typed {
            steps.push(Step { line: block.line + i + 1, command: typed.into(), output: Vec::new() });
        } else if let Some(step) = steps.last_mut() {
            step.output.push(line.clone());
            continue;
        }
        open = line.ends_with('\\');
    }
    Some(steps)
}

/// Splits as a shell does, as far as the pages need it: quotes, comments, no expansion.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut begun, mut quote) = (String::new(), false, None);
    for letter in command.chars() {
        match (quote, letter) {
            (Some(q), _) if q == letter => quote = None,
            (Some(_), _) => word.push(letter),
            (None, '\'' | '"') => (quote, begun) = (Some(letter), true),
            (None, ' ') if begun => {
                words.push(std::mem::take(&mut word));
                begun = false;
            }
            (None, ' ') => {}
            (None, '#') if !begun => break,
            (None, _) => {
                word.push(letter);
                begun = true;
            }
        }
    }
    words.extend(begun.then_some(word));
    words
}

/// A number, a unit that goes with its size, a measure of time: what is not the same in every run.
fn varies(word: &str) -> bool {
    let word = word.trim_matches(|c: char| ",;:()".contains(c));
    word.starts_with(|c: char| c.is_ascii_digit()) || ["kB", "MB", "GB", "B", "s", "min"].contains(&word)
}

/// The words of a line that are the same in every run.
fn skeleton(line: &str) -> Vec<&str> {
    line.split_whitespace().filter(|word| !varies(word) && *word != "…").collect()
}

/// Every line of the documented output must have a line of the same words in what was printed, in the same order. A page
/// leaves out lines, with `…`.
fn difference(step: &Step, ended: &Ended) -> Option<String> {
    // Text that a model wrote differs in its end, and pages break its line.
    let generated = step.command.contains(" generate ");
    let mut printed = ended.stderr.lines().chain(ended.stdout.lines());
    for documented in step.output.iter().filter(|line| !skeleton(line).is_empty()) {
        let expected = skeleton(documented);
        let matches = |line: &str| {
            let found = skeleton(line);
            if generated { found.first() == expected.first() } else { found == expected }
        };
        if !printed.by_ref().any(matches) {
            let (first, second) = (&ended.stderr, &ended.stdout);
            return Some(format!("nothing like {documented:?} was printed here:\n{first}{second}"));
        }
        if generated {
            break;
        }
    }
    None
}

fn follow(folder: &Path, step: &Step, expected: i32, place: &str) -> Option<String> {
    let command = step.command.split(" | ").next().unwrap();
    let words = words(command);
    let arguments: &[String] = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["trimtab", ..] => &words[1..],
        ["cargo", "run", "--release", "--", ..] => &words[4..],
        ["cp", from, to] => {
            fs::copy(folder.join(from), folder.join(to)).unwrap_or_else(|e| panic!("{place}: {e}"));
            return None;
        }
        ["sed", "-i", script, file] => {
            substitute(&folder.join(file), script, place);
            return None;
        }
        _ => return None,
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended: Ended = Command::new(env!("CARGO_BIN_EXE_trimtab"))
        .args(&arguments)
        .current_dir(folder)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the program starts")
        .into();
    assert_eq!(ended.code, Some(expected), "{place}: {}\n{}{}", step.command, ended.stdout, ended.stderr);
    difference(step, &ended)
}

/// `s/OLD/NEW/`, first on its line, all lines; or `/NAME/,/^$/s/OLD/NEW/`, in one entry.
fn substitute(file: &Path, script: &str, place: &str) {
    let (range, script) = script.rsplit_once(",/^$/s/").unwrap_or(("", script.trim_start_matches("s/")));
    let name = range.trim_matches('/');
    let (old, new) = script.trim_end_matches('/').split_once('/').expect("s/OLD/NEW/");
    let before = fs::read_to_string(file).unwrap_or_else(|e| panic!("{place}: {e}"));
    let mut inside = name.is_empty();
    let line = |line: &str| {
        inside = name.is_empty() || (inside && !line.is_empty()) || line.contains(name);
        // What stands for `.*` in the pages: the rest of the line.
        let hit = |old: &str| line.find(old).map(|at| at + old.len());
        match old.strip_suffix(".*") {
            Some(start) if inside && hit(start).is_some() => format!("{new}\n"),
            None if inside => format!("{}\n", line.replacen(old, new, 1)),
            _ => format!("{line}\n"),
        }
    };
    let after: String = before.lines().map(line).collect();
    assert_ne!(before, after, "{place}: nothing was changed");
    fs::write(file, after).unwrap();
}

/// What the pages take for granted, made once.
fn prepare(folder: &Path) {
    let at = |name: &str| folder.join(name);
    small_model(&at("model"));
    fs::write(at("notes.txt"), stories(0, 60)).unwrap();
    fs::write(at("test.txt"), stories(60, 40)).unwrap();
    fs::write(at("my.toml"), fs::read(root().join("crates/models/specs/llama.toml")).unwrap()).unwrap();
    fs::create_dir(at("recipes")).unwrap();
    let recipe = fs::read_to_string(root().join("recipes/pico.toml")).unwrap();
    let small = [
        ("hidden_size = 128", "hidden_size = 32"),
        ("num_hidden_layers = 6", "num_hidden_layers = 1"),
        ("vocab = 1024", "vocab = 300"),
        ("count = 12000", "count = 100"),
        ("heldout = 60", "heldout = 10"),
        ("steps = 900", "steps = 4"),
    ];
    let recipe = small.iter().fold(recipe, |recipe, (old, new)| {
        assert!(recipe.contains(old), "{old}");
        recipe.replace(old, new)
    });
    fs::write(at("recipes/pico.toml"), recipe).unwrap();
    let fixtures = root().join("crates/models/tests/fixtures");
    classifier(&fixtures.join("conv/resnet_cifar"), &at("resnet20.safetensors"));
    images(&at("cifar10.safetensors"), 24);
    encoder(&fixtures.join("bert"), &at("minilm"));
    for name in ["dev.csv", "test.csv"] {
        let line = |i: usize| format!("Anna had {} pears.,Ben has {} pears.,{}.0\n", i, i * 3 % 7, i % 6);
        fs::write(at(name), (0..24).map(line).collect::<String>()).unwrap();
    }
}

/// The first block of @pico: its tokenizer, an embedding, a head.
fn small_model(out: &Path) {
    let whole = out.with_file_name("whole");
    json(&["convert", "@pico", "--to", "safetensors", "-o", text(&whole)]);
    fs::create_dir(out).unwrap();
    for side in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(whole.join(side), out.join(side)).unwrap();
    }
    let config = fs::read(whole.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["num_hidden_layers"] = 1.into();
    fs::write(out.join("config.json"), config.to_string()).unwrap();
    let source = Checkpoint::open(&whole).unwrap();
    let kept = |name: &&str| !name.contains(".layers.") || name.contains(".layers.0.");
    let tensors: Vec<_> =
        source.names().filter(kept).map(|name| (name.to_string(), source.tensor(name).unwrap())).collect();
    fs::write(out.join("model.safetensors"), to_safetensors(&tensors, &Default::default()).unwrap()).unwrap();
    fs::remove_dir_all(whole).unwrap();
}

/// The convolutional network of the fixtures, with the normalization that images need.
fn classifier(fixture: &Path, out: &Path) {
    let source = Checkpoint::open(fixture).unwrap();
    let tensors: Vec<_> =
        source.names().map(|name| (name.to_string(), source.tensor(name).unwrap())).collect();
    let normalize = ["mean", "std"].map(|name| (format!("normalize.{name}"), "0.5,0.5,0.5".to_string()));
    fs::write(out, to_safetensors(&tensors, &normalize.into_iter().collect()).unwrap()).unwrap();
}

/// The encoder of the fixtures with a tokenizer of letters.
fn encoder(fixture: &Path, out: &Path) {
    fs::create_dir(out).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), out.join(file)).unwrap();
    }
    let letters = "abcdefghijklmnopqrstuvwxyz01.";
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from);
    let begin = letters.chars().map(String::from);
    let inner = letters.chars().map(|letter| format!("##{letter}"));
    let names = special.into_iter().chain(begin).chain(inner);
    let vocab: serde_json::Map<_, _> = names.enumerate().map(|(id, name)| (name, id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab },
    });
    fs::write(out.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Images of noise with labels.
fn images(out: &Path, n: usize) {
    let pixels: Vec<u8> =
        (0..n * 3 * 32 * 32).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let labels: Vec<u8> = (0..n as i64).flat_map(|i| (i % 2).to_le_bytes()).collect();
    let tensors: Vec<_> = ["train", "test"]
        .iter()
        .flat_map(|split| {
            let images = RawTensor::new(Dtype::U8, vec![n, 3, 32, 32], pixels.clone().into()).unwrap();
            let labels = RawTensor::new(Dtype::I64, vec![n], labels.clone().into()).unwrap();
            [(format!("{split}.images"), images), (format!("{split}.labels"), labels)]
        })
        .collect();
    fs::write(out, to_safetensors(&tensors, &Default::default()).unwrap()).unwrap();
}

/// A text of a few kilobytes.
fn stories(first: usize, n: usize) -> String {
    let pick = |of: &[&'static str], i: usize| of[i % of.len()];
    let names = ["Anna", "Ben", "Mei", "Tom", "Lily", "Omar"];
    let (things, places) = (["pears", "stones", "kites", "shells"], ["park", "river", "garden"]);
    (first..first + n)
        .map(|i| {
            let (a, b, what) = (pick(&names, i), pick(&names, 5 * i + 1), pick(&things, i));
            let (place, had) = (pick(&places, i * 2 + i / 7), 3 + i % 8);
            format!("{a} had {had} {what}. One day, {a} went to the {place} and met {b}. {a} gave 1 to {b}. That left {} {what}.\n\n", had - 1)
        })
        .collect()
}

#[test]
fn every_command_of_the_pages_runs() {
    let prepared = tempfile::tempdir().unwrap();
    prepare(prepared.path());
    let (mut ran, mut differ) = (0, Vec::new());
    for (name, page) in pages() {
        let steps: Vec<Step> =
            blocks(&page).iter().filter_map(|block| steps(&name, block)).flatten().collect();
        if steps.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        copy_all(prepared.path(), folder.path());
        for (i, step) in steps.iter().enumerate() {
            // A page shows another exit code than 0 by `echo $?`.
            let asked = steps.get(i + 1).filter(|next| next.command == "echo $?");
            let expected = asked.map_or(0, |next| next.output[0].parse().expect("an exit code"));
            let place = format!("{name}:{}", step.line);
            differ
                .extend(follow(folder.path(), step, expected, &place).map(|what| format!("{place}: {what}")));
            ran += 1;
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
    assert!(ran > 40, "only {ran} commands were found");
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The anchors of a page, made as mdBook and GitHub make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut inside = false;
    let headings = page.lines().filter(|line| {
        inside ^= line.starts_with("```");
        !inside && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The targets of the links of a page.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let parts = prose.split("](").skip(1);
    parts.filter_map(|part| Some(part.split_once(')')?.0.to_string())).collect()
}

#[test]
fn links_and_anchors_lead_somewhere() {
    let root = root();
    let mut broken = Vec::new();
    for (name, page) in pages() {
        for link in links(&page) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => root.join(&name),
                path => root.join(&name).parent().unwrap().join(path),
            };
            let found = target.exists()
                && (anchor.is_empty()
                    || fs::read_to_string(&target).is_ok_and(|page| anchors(&page).contains(anchor)));
            if !found {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_summary() {
    let listed: BTreeSet<String> =
        links(&fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap()).into_iter().collect();
    let missing: Vec<String> = pages()
        .into_iter()
        .filter_map(|(name, _)| Some(name.strip_prefix("docs/")?.to_string()))
        .filter(|name| name != "SUMMARY.md" && !listed.contains(name))
        .collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:?}");
}

/// Code in the pages that names its file in its first line stands there, line after line, up to an ellipsis.
#[test]
fn excerpts_of_code_are_in_the_tree() {
    let mut excerpts = 0;
    for (name, page) in pages() {
        for block in blocks(&page) {
            let Some(first) = block.lines.first().filter(|line| line.contains("crates/")) else { continue };
            if !matches!(block.info.as_str(), "rust" | "toml") {
                continue;
            }
            let file = first.trim_start_matches(['/', '#', ' ']);
            let source =
                fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{name}: {file}: {e}"));
            let part = |lines: &[String]| lines.join("\n").trim_matches('\n').to_string();
            for lines in block.lines[1..].split(|line| line.trim() == "…") {
                // Between items there may be attributes and comments.
                for item in lines.split(|line| line.is_empty()).map(part).filter(|item| !item.is_empty()) {
                    assert!(source.contains(&item), "{name}:{}: not in {file}:\n{item}", block.line);
                    excerpts += 1;
                }
            }
        }
    }
    assert!(excerpts > 0);
}

const BEGIN: &str = "<!-- help: written by UPDATE_DOCS=1 cargo test --release --workspace --test it docs -->";
const END: &str = "<!-- end of help -->";

/// The verbs that `trimtab --help` lists.
fn verbs() -> Vec<String> {
    let help = run(&["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let first = |line: &str| {
        line.strip_prefix("  ")?.split(' ').next().filter(|verb| !verb.is_empty()).map(str::to_string)
    };
    commands.lines().filter_map(first).filter(|verb| verb != "help").collect()
}

#[test]
fn every_verb_has_a_page_with_its_help() {
    let update = std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1");
    let verbs = verbs();
    assert!(verbs.len() >= 11, "{verbs:?}");
    for verb in verbs {
        let path = root().join(format!("docs/verbs/{verb}.md"));
        let page = fs::read_to_string(&path).unwrap_or_else(|e| panic!("docs/verbs/{verb}.md: {e}"));
        let help = run(&[&verb, "--help"]).stdout;
        let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        let section = format!("{BEGIN}\n\n```text\n{}\n```\n\n{END}", help.trim_end());
        let (before, rest) =
            page.split_once(BEGIN).unwrap_or_else(|| panic!("docs/verbs/{verb}.md lacks {BEGIN}"));
        let after = rest.split_once(END).map_or("\n", |(_, after)| after);
        let fresh = format!("{before}{section}{after}");
        if update {
            fs::write(&path, &fresh).unwrap();
        } else {
            assert!(page == fresh, "docs/verbs/{verb}.md: the help is stale; UPDATE_DOCS=1 rewrites it");
        }
    }
}
