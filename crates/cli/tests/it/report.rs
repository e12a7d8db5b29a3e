//! Reports: where they lie, what they say, and that the page is the same whenever it is made.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{contents, json, refused, run, text};

/// A short fit of the embedded model; its standard output.
fn fit(out: &Path, proof: &Path) -> String {
    std::fs::write(proof, "Anna had four pears. She gave one to Ben. That left three pears. ".repeat(40))
        .unwrap();
    let arguments = ["fit", "--budget", "3.2bpw", "--samples", "8", "--bits", "2,3,4", "--groups", "64"];
    let short = ["--metric", "output-error", "--text", text(proof), "-o", text(out)];
    let ended = run(&[&arguments[..], &short[..]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

fn beside(out: &Path, extension: &str) -> PathBuf {
    PathBuf::from(format!("{}.report.{extension}", text(out)))
}

#[test]
fn a_fit_leaves_its_report_beside_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let (out, proof) = (folder.path().join("out"), folder.path().join("proof.txt"));
    let summary = fit(&out, &proof);
    let (page, document) = (beside(&out, "html"), beside(&out, "json"));
    assert!(contents(&out).iter().all(|(name, _)| !text(name).contains("report")), "OUT is the model alone");
    assert!(summary.lines().all(|line| line.chars().count() <= 80), "{summary}");
    // The same three from the document: summary, page, JSON.
    assert_eq!(run(&["report", text(&out)]).stdout, summary);
    let again = folder.path().join("again.html");
    assert_eq!(run(&["report", text(&out), "-o", text(&again)]).code, Some(0));
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&page).unwrap());
    let stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&document).unwrap()).unwrap();
    assert_eq!(json(&["report", text(&document)]), stored);
    // What it says.
    assert_eq!(stored["rows"].as_array().unwrap().len(), 4);
    assert_eq!(stored["samples"].as_array().unwrap().len(), 2, "one for each window of the text");
    assert!(stored["command"].as_str().unwrap().starts_with("trimtab fit --budget 3.2bpw"));
    let inputs = stored["inputs"].as_array().unwrap();
    let hash = |role: &str| inputs.iter().find(|i| i["role"] == role).unwrap()["sha256"].as_str().unwrap();
    assert!(hash("model").len() == 64 && hash("proof").len() == 64);
    assert!(stored["halves"]["median_difference"].as_f64().unwrap() > 0.0);
    assert!(stored["curve"]["frontier"].as_array().unwrap().len() > 10);
    for site in stored["sites"].as_array().unwrap() {
        let [a, b] = [0, 1].map(|half| site["halves"][half].as_f64().unwrap());
        let (error, power) = (site["relative_error"].as_f64().unwrap(), site["damage"].as_f64().unwrap());
        assert!(a > 0.0 && b > 0.0 && a != b && error > 0.0 && error < 1.0 && power > 0.0, "{site}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("How far two halves of the data disagree") && html.contains(hash("proof")));
    assert!(html.len() < 200_000, "{} bytes", html.len());
}

#[test]
fn one_batch_has_no_halves_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    let page = folder.path().join("plan.html");
    let quick = ["plan", "--budget", "3.2bpw", "--samples", "2", "--bits", "2,3,4", "--groups", "64"];
    let report = json(
        &[&quick[..], &["--metric", "output-error", "-o", text(&plan), "--report", text(&page)]].concat(),
    );
    assert!(report["halves"].is_null(), "two windows are one batch");
    assert!(std::fs::read_to_string(&page).unwrap().contains("Not known in this run"));
    assert!(folder.path().join("plan.json").exists());
}

#[test]
fn reports_are_not_overwritten_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::write(beside(&out, "html"), "mine").unwrap();
    let apply = ["apply", "int4 g128", "--method", "rtn", "-o", text(&out)];
    refused(&apply, &["out.report.html", "--force"]);
    assert!(!out.exists(), "refused before the work");
    let report = json(&[&apply[..], &["--force"]].concat());
    assert_eq!(report["verb"], "apply");
    assert!(std::fs::read_to_string(beside(&out, "html")).unwrap().contains("bits per weight"));
    refused(&["report", text(&out), "-o", text(&beside(&out, "html"))], &["already exists"]);
    refused(&[&apply[..], &["--force", "--report", "r.json"]].concat(), &["r.json", ".html"]);
    refused(&[&apply[..], &["--force", "--report", "no/folder/r.html"]].concat(), &["no/folder"]);
}

#[test]
fn damaged_reports_get_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    json(&["apply", "int4 g128", "--method", "rtn", "-o", text(&out)]);
    let document = beside(&out, "json");
    assert_eq!(run(&["report", text(&out)]).code, Some(0), "the control: it is sound");
    let sound = std::fs::read_to_string(&document).unwrap();
    std::fs::write(&document, &sound[..sound.len() / 2]).unwrap();
    refused(&["report", text(&out)], &["out.report.json", "no report of this program"]);
    refused(&["report", text(&document), "-o", text(&folder.path().join("p.html"))], &["line"]);
    assert!(!folder.path().join("p.html").exists());
    std::fs::write(&document, sound.replacen("\"report_version\": 1", "\"report_version\": 2", 1)).unwrap();
    refused(&["report", text(&out)], &["version 2"]);
    std::fs::write(&document, [0xff, 0xfe, 0x00]).unwrap();
    refused(&["report", text(&out)], &["out.report.json"]);
    std::fs::remove_file(&document).unwrap();
    refused(&["report", text(&out)], &["out.report.json", "hint"]);
    refused(&["report", "no/such/run"], &["no/such/run"]);
}

#[test]
#[allow(clippy::print_stderr)] // The test runner shows it beside the test.
fn a_browser_has_nothing_to_say_about_the_page() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/report/screenshots.sh");
    let folder = tempfile::tempdir().unwrap();
    let look = |page: &Path| {
        let mut command = Command::new("sh");
        command.arg(&script).arg(page).arg(folder.path()).env("HEIGHT", "800");
        command.output().expect("there is a shell")
    };
    let (out, proof) = (folder.path().join("out"), folder.path().join("proof.txt"));
    fit(&out, &proof);
    let page = beside(&out, "html");
    let looked = look(&page);
    let said = String::from_utf8_lossy(&looked.stderr).into_owned();
    if said.contains("there is no Chromium") {
        eprintln!("skipped a_browser_has_nothing_to_say_about_the_page: there is no Chromium");
        return;
    }
    assert!(looked.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&looked.stdout).lines().count(), 4);
    // The control: a page that complains is found.
    let html = std::fs::read_to_string(&page).unwrap();
    let loud = folder.path().join("loud.html");
    std::fs::write(&loud, html.replacen("</main>", "</main><script>console.warn('mind this')</script>", 1))
        .unwrap();
    let looked = look(&loud);
    assert!(!looked.status.success() && String::from_utf8_lossy(&looked.stderr).contains("mind this"));
}
