//! Arbitrary and damaged input: errors, never panics; and what is accepted means what it says.

use proptest::prelude::*;
use trimtab_hostile::{INPUTS, change_text, storm, storm_of};
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
    let lines = |draws: &mut trimtab_hostile::Draws| damage(&text, draws.below(usize::MAX) as u64);
    let accepted = storm(INPUTS, 1, lines, |text| check_plan(text));
    // Both outcomes occur, or the test would say nothing.
    assert!(accepted > INPUTS / 40 && accepted < INPUTS - INPUTS / 40, "{accepted} of {INPUTS} accepted");
    storm_of(text.as_bytes(), 2, |text| std::str::from_utf8(text).is_ok_and(check_plan));
}

/// Totals at which sums and products overflow where they can.
fn huge() -> Totals {
    Totals {
        treated_weights: u64::MAX,
        file_bytes_original: u64::MAX,
        macs_total: Some(u64::MAX),
        params_total: Some(1),
        latency_total_s: Some(f64::MAX),
        ..Totals::default()
    }
}

#[test]
fn damaged_budgets_are_refused_or_consistent() {
    let whole = ["3.5bpw", "90%", "200kB, latency=12ms", "macs=1.5M,params=50%", "bytes=3GiB, latency=80%"];
    let make = |draws: &mut trimtab_hostile::Draws| change_text(whole[draws.below(whole.len())], draws);
    let accepted = storm(INPUTS, 3, make, |text| {
        let Ok(budget) = text.parse::<Budget>() else { return false };
        assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget, "{text}");
        let _ = (budget.limits(&huge()), budget.limits(&Totals::default()));
        true
    });
    assert!((100..INPUTS - 100).contains(&accepted), "{accepted} of {INPUTS} accepted");
}

#[test]
fn damaged_pins_and_patterns_are_refused_or_used() {
    let whole = ["model.layers.{0,1}.*=int4 g64", "**.[a-f]?.up=dense", "*=int8 row"];
    let make = |draws: &mut trimtab_hostile::Draws| change_text(whole[draws.below(whole.len())], draws);
    let accepted = storm(INPUTS, 4, make, |text| {
        let selection = Selection { include: vec![text.clone()], ..Selection::default() };
        let _ = selection.treated(&["model.layers.0.up", "a.b", "\u{6f22}", ""]);
        let Ok(pin) = text.parse::<Pin>() else { return false };
        let mut prices = quantization_list(1, 2);
        Selection { pins: vec![pin], ..Selection::default() }.pin(&mut prices).is_ok()
    });
    assert!((1..INPUTS).contains(&accepted), "{accepted} of {INPUTS} accepted");
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
            let _ = budget.limits(&huge());
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
