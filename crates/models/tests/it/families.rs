//! The table of families in the documentation.

use std::fmt::Write;
use std::path::PathBuf;

use crate::conv_parity;
use crate::fixture::{DECODERS, ENCODERS, Fixture, MULTIMODAL, PAIRS, TEXT_TOWERS, TOWERS};
use crate::parity::{DECODE, PARITY};

const HEAD: &str = "\
# Families

Every family is a file in `crates/models/specs` over one transformer module, or in `crates/models/specs/conv` over one
convolutional network; [new-family.md](new-family.md) shows how to add one. The tests compare each with the numbers of the
reference on a small random model (`crates/models/tests/fixtures`).

## Transformers

The reference is transformers: the hidden states before and after every block, then the logits or the pooled vector,
and decoding token by token with a cache against the full pass. Everything is f32; differences are the largest absolute
ones, at most 1e-4 to the reference and 1e-5 for decoding.

`UPDATE_DOCS=1 cargo test --release -p trimtab-models` rewrites this page.

| family | fixture | hidden states | logits or pooled | decode |
|---|---|---:|---:|---:|
";

const CONVOLUTIONAL: &str = "
## Convolutional networks

The logits for two images that are not square, with the kernels of the house and with the framework alone, at most 1e-4
from the reference. Every parameter and the epsilons of the fixtures are checked to move a logit by more than 1e-3. Widths, depths,
kernels and groups are read off the tensors; no network of full size is compared.

| family | fixture | reference | logits, kernels | logits, framework |
|---|---|---|---:|---:|
";

/// Rows of the convolutional families: family, fixture, differences.
fn convolutional() -> Vec<(&'static str, &'static str, [f32; 2])> {
    let rows = conv_parity::FIXTURES.iter();
    rows.map(|&(fixture, family, _)| (family, fixture, conv_parity::differences(fixture))).collect()
}

/// Whose numbers a fixture holds.
fn reference(fixture: &str) -> &'static str {
    match fixture {
        "resnet_cifar" => "PyTorch, by the paper",
        "mlp" | "convnet" | "convnet_layer" | "convnet_plain" => "PyTorch",
        "resnet_timm" | "efficientnet_lite" => "timm",
        name if name.ends_with("_hf") => "transformers",
        _ => "torchvision",
    }
}

struct Row {
    family: String,
    fixture: String,
    numbers: [Option<f32>; 3],
}

fn rows() -> Vec<Row> {
    let row = |name: &&str, decodes: bool| {
        let fixture = Fixture::open(name);
        let (hidden, head) = fixture.differences();
        let decode = decodes.then(|| fixture.decode_difference());
        Row {
            family: fixture.model.family().into(),
            fixture: name.to_string(),
            numbers: [Some(hidden), head, decode],
        }
    };
    let decoders = DECODERS.iter().map(|name| row(name, true));
    let encoders = ENCODERS.iter().chain(TEXT_TOWERS).chain(TOWERS);
    let pairs = PAIRS.iter().map(|name| {
        let fixture = Fixture::open(name);
        let (hidden, head) = fixture.pair_differences();
        let decode = fixture.has("decoder_input_ids").then(|| fixture.pair_decode_difference());
        let numbers = [Some(hidden), Some(head), decode];
        Row { family: fixture.model.family().into(), fixture: name.to_string(), numbers }
    });
    let multimodal = MULTIMODAL.iter().map(|name| {
        let fixture = Fixture::open(name);
        let (hidden, logits) = fixture.multimodal_differences();
        let numbers = [Some(hidden), Some(logits), Some(fixture.multimodal_decode_difference())];
        Row { family: fixture.model.family().into(), fixture: name.to_string(), numbers }
    });
    decoders.chain(encoders.map(|name| row(name, false))).chain(pairs).chain(multimodal).collect()
}

fn render(rows: &[Row], convolutional: &[(&str, &str, [f32; 2])]) -> String {
    let mut page = HEAD.to_string();
    for row in rows {
        let [hidden, head, decode] = row.numbers.map(|n| n.map_or("".into(), |n| format!("{n:.1e}")));
        writeln!(page, "| {} | `{}` | {hidden} | {head} | {decode} |", row.family, row.fixture).unwrap();
    }
    page.push_str(CONVOLUTIONAL);
    for (family, fixture, [kernels, framework]) in convolutional {
        let reference = reference(fixture);
        writeln!(page, "| {family} | `{fixture}` | {reference} | {kernels:.1e} | {framework:.1e} |").unwrap();
    }
    page
}

/// The page with every number replaced: rounding differs between processors, everything else does not.
fn without_numbers(page: &str) -> String {
    let is_number = |cell: &str| cell.trim().parse::<f32>().is_ok();
    let line = |line: &str| {
        let cells = line.split('|').map(|cell| if is_number(cell) { " # " } else { cell });
        cells.collect::<Vec<_>>().join("|")
    };
    page.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_in_docs_is_up_to_date() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/families.md");
    let rows = rows();
    let convolutional = convolutional();
    let page = render(&rows, &convolutional);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        without_numbers(&committed),
        without_numbers(&page),
        "UPDATE_DOCS=1 rewrites docs/families.md"
    );
    for line in committed.lines().filter(|line| line.contains('`') && line.starts_with("| ")) {
        let numbers: Vec<f32> = line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
        assert!(!numbers.is_empty() && numbers.iter().all(|&n| n < PARITY), "{line}");
    }
    assert!(rows.iter().all(|row| row.numbers[2].unwrap_or(0.0) < DECODE));
    for family in trimtab_models::spec::ModelSpec::known() {
        // Encoders and decoders that only come together have no fixture of their own.
        let family = family.trim_end_matches("_encoder").trim_end_matches("_decoder");
        assert!(rows.iter().any(|row| row.family == family), "{family} has no fixture");
    }
    for family in trimtab_models::ConvSpec::known() {
        assert!(convolutional.iter().any(|(row, ..)| *row == family), "{family} has no fixture");
    }
}
