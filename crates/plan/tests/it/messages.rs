//! Impossible and unpriced budgets: what the messages promise is true.

use trimtab_plan::{
    Budget, Costs, Error, Limits, PriceList, Resource, SiteOption, SitePrices, SolveOptions, Totals, solve,
};

/// Two sites of 64 weights, 24 or 40 bytes each, the smaller one slower.
fn prices() -> PriceList {
    let option = |label: &str, bytes, damage, latency_s| {
        let costs = Costs { latency_s: Some(latency_s), macs: Some(64), ..Costs::bytes(bytes) };
        SiteOption { costs, ..SiteOption::new(label, bytes, damage) }
    };
    let site = |name: &str| {
        SitePrices::new(name, 64, vec![option("small", 24, 1.0, 3e-3), option("large", 40, 0.1, 1e-3)])
    };
    PriceList::new("kl", vec![site("a"), site("b")]).unwrap()
}

fn totals() -> Totals {
    Totals {
        treated_weights: 128,
        file_bytes_original: 400,
        file_bytes_fixed: 51,
        latency_total_s: Some(0.010),
        latency_fixed_s: 0.001,
        macs_total: Some(200),
        macs_fixed: 7,
        ..Totals::default()
    }
}

fn try_budget(text: &str) -> Result<trimtab_plan::Allocation, Error> {
    let limits = text.parse::<Budget>()?.limits(&totals())?;
    solve(&prices(), &limits, &SolveOptions::default())
}

#[test]
fn the_nearest_budget_is_exact_and_feasible() {
    let message = try_budget("2bpw").unwrap_err().to_string();
    assert_eq!(
        message,
        "budget \"2bpw\" cannot be met: the least bytes possible is 48 bytes in the treated sites = 3bpw; \
         whole file 99 bytes = 24.75%\n\
         hint: the nearest feasible budget is 3bpw or 24.75% or 99B (99 B)"
    );
    for budget in ["3bpw", "24.75%", "99B"] {
        assert_eq!(try_budget(budget).unwrap().costs.bytes, 48, "{budget}");
    }
    for budget in ["2.99bpw", "24.74%", "98B"] {
        let Err(Error::Infeasible(why)) = try_budget(budget) else { panic!("{budget} is feasible") };
        assert_eq!((why.resource, why.nearest.bytes), (Some(Resource::Bytes), 48));
    }
}

#[test]
fn other_resources_have_their_own_units() {
    let message = try_budget("latency=2ms").unwrap_err().to_string();
    assert!(message.contains("the least latency possible is 3.00 ms"), "{message}");
    assert!(message.ends_with("latency=3000us"), "{message}");
    assert_eq!(try_budget("latency=3000us").unwrap().choice, [1, 1]);
    let message = try_budget("macs=60%").unwrap_err().to_string();
    assert!(message.ends_with("macs=135"), "{message}");
    assert!(try_budget("macs=135").is_ok());
}

#[test]
fn limits_that_contradict_each_other_are_told_apart() {
    // Each alone is possible: 48 bytes, 2 ms; together they are not.
    let Err(Error::Infeasible(why)) = try_budget("99B,latency=3ms") else { panic!("feasible") };
    assert_eq!((why.resource, why.nearest.bytes), (None, 48));
    let message = why.to_string();
    assert!(message.contains("no plan meets all") && message.contains("latency 3.00 ms"), "{message}");
}

#[test]
fn what_is_not_priced_cannot_be_budgeted() {
    assert!(matches!(try_budget("params=2M"), Err(Error::NotPriced { resource: Resource::Params, .. })));
    let limits = Limits { params: Some(5), ..Limits::default() };
    let error = solve(&prices(), &limits, &SolveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no params prices"), "{error}");
    assert!(error.to_string().contains("budget one of: bytes, latency, macs"), "{error}");
}

#[test]
fn awkward_ratios_stay_feasible_when_typed_back() {
    for weights in 1..200 {
        let site = SitePrices::new("a", weights, vec![SiteOption::new("x", 37, 0.0)]);
        let prices = PriceList::new("kl", vec![site]).unwrap();
        let totals =
            Totals { treated_weights: weights, file_bytes_original: 300 + weights, ..Totals::default() };
        let limits = Limits { totals: totals.clone(), ..Limits::bytes(36) };
        let Err(Error::Infeasible(why)) = solve(&prices, &limits, &SolveOptions::default()) else {
            panic!("36 bytes suffice")
        };
        for way in why.suggestion(Resource::Bytes).split(" or ") {
            let budget: Budget = way.split(" (").next().unwrap().parse().unwrap();
            let limits = budget.limits(&totals).unwrap();
            assert!(solve(&prices, &limits, &SolveOptions::default()).is_ok(), "{weights} weights: {way}");
        }
    }
}
