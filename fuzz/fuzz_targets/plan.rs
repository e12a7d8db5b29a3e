//! A plan file, a budget, a pin, a pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::parts;
use trimtab_plan::{Budget, Pin, Plan, Selection, SolveOptions, solve};

fuzz_target!(|input: &[u8]| {
    let Ok(input) = std::str::from_utf8(input) else { return };
    let [plan, budget, pin, pattern] =
        parts(input.as_bytes()).map(|part| std::str::from_utf8(part).unwrap_or(""));
    let budget = budget.parse::<Budget>();
    if let Ok(budget) = &budget {
        assert_eq!(&budget.to_string().parse::<Budget>().expect("it was written"), budget);
    }
    let pins = pin.parse::<Pin>().into_iter().collect();
    let selection = Selection { include: vec![pattern.into()], exclude: Vec::new(), pins };
    let _ = selection.treated(&["model.layers.0.up", "漢", ""]);
    let Ok(mut plan) = Plan::parse(plan, "p.toml") else { return };
    let text = plan.to_toml().expect("what was read can be written");
    assert_eq!(Plan::parse(&text, "p.toml").expect("what was written can be read"), plan);
    let _ = plan.to_string();
    let _ = selection.pin(&mut plan.prices);
    if plan.reprice().is_ok() {
        assert!(!plan.reprice().expect("it was done once"));
        let _ = plan.allocation();
    }
    if let Ok(limits) = budget.and_then(|budget| budget.limits(&plan.header.totals)) {
        let _ = solve(&plan.prices, &limits, &SolveOptions { max_front: 256 });
    }
});
