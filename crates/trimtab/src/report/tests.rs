use super::*;
use crate::apply::Applied;

/// A report of two blocks in which one site hurts most.
pub(super) fn example() -> Report {
    let mut sites = Vec::new();
    for block in 0..2 {
        for (k, kind) in ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"].into_iter().enumerate() {
            let worst = block == 1 && k == 2;
            let bits = 2.25 + k as f64;
            sites.push(SiteEntry {
                site: format!("model.layers.{block}.{kind}"),
                block: format!("model.layers.{block}"),
                kind: kind.into(),
                shape: [64, 32],
                scheme: format!("int{} g64", 2 + k),
                bytes: 600 + 256 * k as u64,
                bits_per_weight: bits,
                plan_damage: Some(if worst { 0.02 } else { 0.002 }),
                damage: Some(0.5),
                rtn_damage: Some(1.0),
                relative_error: Some(0.01),
                sensitivity: Some(if worst { 2.0 } else { 0.2 }),
                halves: Some([0.5 + 0.1 * k as f64, 0.55]),
                weight_outlier: Some(4.0),
                input_outlier: Some(if worst { 40.0 } else { 3.0 }),
                input_directions: Some(12.0),
                ..SiteEntry::default()
            });
        }
    }
    let row = |name: &str, bytes, bits_per_weight, kl| Row {
        name: name.into(),
        bytes,
        bits_per_weight,
        quality: Quality {
            kl: Some(kl),
            kl_standard_error: Some(0.001),
            same_top1: Some(0.93),
            perplexity: Some(1.7 + kl),
            items: 16_000,
            ..Quality::default()
        },
    };
    let point = |name: &str, bits: f64| CurvePoint {
        name: name.into(),
        bytes: (100_000.0 * bits) as u64,
        bits_per_weight: bits,
        damage: 4f64.powf(-bits),
    };
    Report {
        report_version: REPORT_VERSION,
        trimtab: "0.1.0".into(),
        verb: Verb::Fit,
        command: "trimtab fit --budget 3bpw".into(),
        finished: "2026-11-25T22:30:00Z".into(),
        model: "models/pico".into(),
        fingerprint: "sha256:00ff".into(),
        task: "language".into(),
        inputs: vec![Input {
            role: "model".into(),
            name: "model.safetensors".into(),
            bytes: 2_624_768,
            sha256: "ab".repeat(32),
        }],
        settings: vec![Setting { name: "metric".into(), value: "kl".into() }],
        seed: 7,
        budget: Some("3bpw".into()),
        calibration: Some("64 windows of 256 tokens".into()),
        judged_on: Some("stories".into()),
        output: "out/pico-3bpw".into(),
        bytes: 727_300,
        bytes_predicted: 729_000,
        bytes_original: 2_624_768,
        budget_bytes: Some(730_000),
        within_budget: true,
        reached: None,
        treated_weights: 12_288,
        bits_per_weight: 3.0,
        bits_without_branches: None,
        rows: vec![
            row("original", 2_624_768, 16.0, 0.0),
            row("round-to-nearest int3 g128", 759_600, 3.153, 0.056),
            row("plan", 727_300, 3.0, 0.025),
        ],
        metric: Some("kl".into()),
        damage_predicted: Some(0.03),
        damage_measured: Some(0.028),
        lower_bound: Some(0.03),
        curve: Some(Curve {
            frontier: (0..20).map(|i| point("", 2.0 + 0.2 * f64::from(i))).collect(),
            uniform: vec![point("int2 g64", 2.25), point("int3 g64", 3.25), point("int4 g64", 4.25)],
        }),
        candidates: vec![CandidateReport {
            origin: "round 0".into(),
            bits_per_weight: 3.0,
            damage_predicted: 0.03,
            damage_measured: 0.028,
        }],
        halves: Some(Halves {
            sites: 6,
            median_difference: 0.06,
            largest_difference: 0.2,
            largest_site: "model.layers.1.mlp.down_proj".into(),
            rank_correlation: Some(0.98),
            plan_damage: [0.03, 0.031],
            differing_choices: 1,
            regret: 0.012,
        }),
        sites,
        samples: vec![Sample {
            prompt: "Once".into(),
            original: " upon a time".into(),
            result: " upon a hill".into(),
        }],
        moved_pairs: vec![MovedPair {
            first: "A plane takes off.".into(),
            second: "An aeroplane is taking off.".into(),
            original: 0.93,
            result: 0.91,
        }],
        phases: vec![Phase {
            name: "writing".into(),
            seconds: 2.0,
            peak_anonymous_bytes: Some(50_000_000),
            steps: vec![Step {
                name: "treating".into(),
                runs: 1,
                seconds: 1.9,
                seconds_predicted: Some(2.1),
            }],
        }],
        seconds: 12.0,
        peak_memory_bytes: Some(120_000_000),
        peak_anonymous_bytes: Some(80_000_000),
        peak_anonymous_bytes_predicted: Some(60_000_000),
        warnings: vec!["mind this".into()],
    }
}

/// What a page would run or load if it were not escaped.
const HOSTILE: &str = "<script src=\"http://example.org/x\">alert(1)</script>'\"&]]>\u{7}";

/// A report whose every text comes from somebody who means harm, or is very long.
pub(super) fn hostile() -> Report {
    let mut report = example();
    let long = format!("{HOSTILE}{}", "very long ".repeat(30));
    report.command = HOSTILE.into();
    report.finished = HOSTILE.into();
    report.model = long.clone();
    report.fingerprint = HOSTILE.into();
    report.budget = Some(HOSTILE.into());
    report.calibration = Some(HOSTILE.into());
    report.judged_on = Some(HOSTILE.into());
    report.output = long.clone().into();
    report.warnings = vec![long.clone()];
    report.inputs[0].name = HOSTILE.into();
    report.settings[0].value = HOSTILE.into();
    for (i, site) in report.sites.iter_mut().enumerate() {
        site.site = format!("{long}{i}");
        site.block = format!("{HOSTILE}{i}");
        site.kind = HOSTILE.into();
        site.scheme = HOSTILE.into();
    }
    for row in &mut report.rows[1..] {
        row.name = long.clone();
    }
    if let Some(curve) = &mut report.curve {
        curve.uniform[0].name = HOSTILE.into();
    }
    if let Some(halves) = &mut report.halves {
        halves.largest_site = HOSTILE.into();
    }
    report.candidates[0].origin = HOSTILE.into();
    report.samples[0].result = HOSTILE.into();
    report.moved_pairs[0].first = HOSTILE.into();
    report.phases[0].name = HOSTILE.into();
    report
}

/// Parses a page as XML, which is stricter than a browser.
fn parse(page: &str) -> std::result::Result<roxmltree::Document<'_>, roxmltree::Error> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(page, options)
}

/// Addresses that a page would load, and code that it would run.
fn reaches_out(page: &roxmltree::Document<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for node in page.descendants().filter(roxmltree::Node::is_element) {
        if matches!(node.tag_name().name(), "script" | "iframe" | "object" | "embed" | "img" | "base") {
            found.push(format!("<{}>", node.tag_name().name()));
        }
        for attribute in node.attributes() {
            let own = attribute.value() == "data:,";
            if matches!(attribute.name(), "src" | "href" | "srcset" | "action") && !own
                || attribute.name().starts_with("on")
            {
                found.push(format!("{}=\"{}\"", attribute.name(), attribute.value()));
            }
        }
        let style =
            node.attribute("style").into_iter().chain(node.text().filter(|_| node.has_tag_name("style")));
        for style in style.filter(|style| style.contains("url(") || style.contains("@import")) {
            found.push(style.into());
        }
    }
    found
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    for report in [example(), hostile()] {
        let page = report.to_html().unwrap();
        let parsed = parse(&page).unwrap();
        assert_eq!(reaches_out(&parsed), Vec::<String>::new());
        // Two charts at two widths, each with a title and a text.
        let drawings: Vec<_> = parsed.descendants().filter(|node| node.has_tag_name("svg")).collect();
        assert_eq!(drawings.len(), 4);
        for drawing in drawings {
            let has = |name: &str| drawing.children().any(|c| c.has_tag_name(name) && c.text().is_some());
            assert!(has("title") && has("desc"));
        }
        assert!(page.len() < 200_000, "{} bytes", page.len());
    }
}

#[test]
fn the_checks_see_what_they_look_for() {
    let page = example().to_html().unwrap();
    assert!(parse(&page.replacen("</h1>", "", 1)).is_err());
    let changed = page.replacen("</main>", "<img src=\"https://example.org/a.png\" /></main>", 1);
    assert_eq!(reaches_out(&parse(&changed).unwrap()).len(), 2);
    let changed = page.replacen("margin: 0;", "background: url(x.png);", 1);
    assert_eq!(reaches_out(&parse(&changed).unwrap()).len(), 1);
}

#[test]
fn hostile_names_are_text() {
    let page = hostile().to_html().unwrap();
    assert!(!page.contains("<script"));
    let parsed = parse(&page).unwrap();
    let shown: String = parsed.descendants().filter_map(|node| node.text()).collect();
    assert!(shown.contains("<script src=\"http://example.org/x\">alert(1)</script>'\"&]]>"));
    assert!(page.contains("Once"), "the rest is there");
}

#[test]
fn a_report_round_trips_through_its_document() {
    for report in [example(), hostile()] {
        let text = report.to_json().unwrap();
        assert_eq!(Report::from_json(&text, "r.json").unwrap(), report);
    }
    // What is absent stays absent.
    let report = Report { curve: None, halves: None, metric: None, rows: Vec::new(), ..example() };
    let text = report.to_json().unwrap();
    assert!(!text.contains("\"curve\""));
    let read = Report::from_json(&text, "r.json").unwrap();
    assert_eq!(read, report);
    assert!(parse(&read.to_html().unwrap()).is_ok());
}

#[test]
fn damaged_documents_and_other_versions_are_told_apart() {
    let text = example().to_json().unwrap();
    let error = |text: &str| Report::from_json(text, "r.json").unwrap_err().to_string();
    assert!(error(&text[..text.len() - 3]).starts_with("r.json: no report of this program: EOF"));
    assert!(error("{}").contains("report_version"));
    let other = text.replacen("\"report_version\": 1", "\"report_version\": 9", 1);
    assert!(error(&other).contains("version 9") && error(&other).contains("version 1"));
    let missing = text.replacen("\"fingerprint\"", "\"fingerprints\"", 1);
    assert!(error(&missing).contains("fingerprint"));
}

#[test]
fn a_budget_for_the_file_is_kept_by_what_was_written() {
    let written = |bytes: u64, budget_bytes: Option<u64>| {
        let mut report = Report { budget_bytes, ..example() };
        report.add_applied(&Applied { output: "out".into(), bytes, bits_per_weight: 3.0, sites: Vec::new() });
        report.kept()
    };
    assert!(!written(730_001, Some(730_000)));
    assert!(written(730_000, Some(730_000)), "control: as much as is allowed");
    assert!(written(730_001, None), "control: bits per weight do not bound the file");
}

#[test]
fn reports_lie_beside_their_output() {
    assert_eq!(page_of(Path::new("a/out-3.0bpw/")), Path::new("a/out-3.0bpw.report.html"));
    assert_eq!(json_beside(Path::new("a/out-3.0bpw.report.html")), Path::new("a/out-3.0bpw.report.json"));
}
