//! Arbitrary and damaged input: errors, never panics; and what is accepted means what it says.

use proptest::prelude::*;
use trimtab_plan::{Budget, Pin, Plan, PlanHeader, Selection, SolveOptions, Totals, solve};

use crate::support::{Random, quantization_list};

/// A small but complete plan file.
fn plan_text() -> String {
    let mut prices = quantization_list(9, 3);
    for site in &mut prices.sites {
        site.options.truncate(5);
        site.options[0].params.insert("bits".into(), toml::Value::Integer(2));
    }
    prices.sites[1].pinned = Some(prices.sites[1].options[4].label.clone());
    let budget: Budget = "3.1bpw".parse().unwrap();
    let totals = Totals { treated_weights: prices.weights(), ..Totals::default() };
    let allocation = solve(&prices, &budget.limits(&totals).unwrap(), &SolveOptions::default()).unwrap();
    let header = PlanHeader { model: "m".into(), budget: Some(budget), totals, ..PlanHeader::default() };
    Plan::new(header, prices, &allocation).unwrap().to_toml().unwrap()
}

/// A text with a few random edits: bytes replaced, lines dropped, doubled or swapped, the tail cut off.
fn damage(text: &str, seed: u64) -> String {
    let mut random = Random(seed);
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    for _ in 0..1 + random.below(3) {
        let i = random.below(lines.len() as u64) as usize;
        let j = random.below(lines.len() as u64) as usize;
        match random.below(6) {
            0 if lines.len() > 1 => drop(lines.remove(i)),
            1 => lines.insert(j, lines[i].clone()),
            2 => lines.swap(i, j),
            3 => lines.truncate(i.max(1)),
            _ => {
                // One character, of those that matter to TOML.
                let alphabet = b"0123456789-.e\"[]{}=,#nai \\_x\n";
                let mut chars: Vec<char> = lines[i].chars().collect();
                let at = random.below(chars.len() as u64 + 1) as usize;
                let new = alphabet[random.below(alphabet.len() as u64) as usize] as char;
                if at < chars.len() {
                    chars[at] = new
                } else {
                    chars.push(new)
                }
                lines[i] = chars.into_iter().collect();
            }
        }
    }
    lines.join("\n")
}

/// If a text is accepted, it is a plan that survives its own round trip.
fn check_plan(text: &str) -> bool {
    let Ok(mut plan) = Plan::parse(text, "p.toml") else { return false };
    let written = plan.to_toml().unwrap();
    assert_eq!(Plan::parse(&written, "p.toml").unwrap(), plan);
    plan.reprice().unwrap();
    assert!(!plan.reprice().unwrap());
    plan.allocation().unwrap();
    let _ = plan.to_string();
    true
}

#[test]
fn damaged_plan_files_are_refused_or_consistent() {
    let text = plan_text();
    assert!(check_plan(&text));
    let accepted = (0..4000).filter(|seed| check_plan(&damage(&text, *seed))).count();
    // Both outcomes occur, or the test would say nothing.
    assert!(accepted > 100 && accepted < 3900, "{accepted} of 4000 accepted");
}

proptest! {
    #[test]
    fn any_budget_text(text in "\\PC{0,20}") {
        if let Ok(budget) = text.parse::<Budget>() {
            prop_assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget);
        }
    }

    #[test]
    fn likely_budget_text(text in "(latency=|macs=|params=|bytes=)?[0-9]{1,17}(\\.[0-9]{0,17})?(bpw|%|[kMGT]i?B|ms|us|M|)(,[0-9]%)?") {
        if let Ok(budget) = text.parse::<Budget>() {
            prop_assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget.clone());
            let huge = Totals {
                treated_weights: u64::MAX,
                file_bytes_original: u64::MAX,
                macs_total: Some(u64::MAX),
                params_total: Some(1),
                latency_total_s: Some(f64::MAX),
                ..Totals::default()
            };
            let _ = budget.limits(&huge);
        }
    }

    #[test]
    fn any_plan_text(text in "\\PC{0,200}") {
        let _ = Plan::parse(&text, "p.toml");
        let _ = Plan::parse(&format!("version = 1\n{text}"), "p.toml");
    }

    #[test]
    fn any_pattern(text in "\\PC{0,40}") {
        if let Ok(pin) = text.parse::<Pin>() {
            let mut prices = quantization_list(1, 2);
            let _ = Selection { pins: vec![pin], ..Selection::default() }.pin(&mut prices);
        }
        let _ = Selection { include: vec![text], ..Selection::default() }.treated(&["a.b", "漢"]);
    }
}
