//! What holds for every price list and every budget.

use proptest::prelude::*;
use trimtab_plan::{Limits, Plan, PlanHeader, SolveOptions, solve};

use crate::support::{Random, Shape, random_list};

const SHAPE: Shape =
    Shape { max_sites: 6, max_options: 5, max_cost: 40, max_eighths: 24, groups: true, pins: true };

proptest! {
    #[test]
    fn a_plan_is_the_same_after_a_file(seed in any::<u64>(), budget in 0u64..240) {
        let prices = random_list(&mut Random(seed), SHAPE);
        let Ok(allocation) = solve(&prices, &Limits::bytes(budget), &SolveOptions::default()) else { return Ok(()) };
        let header = PlanHeader { model: "a \"b\" ü\n#".into(), seed: seed >> 1, ..PlanHeader::default() };
        let plan = Plan::new(header, prices, &allocation).unwrap();
        let text = plan.to_toml().unwrap();
        let read = Plan::parse(&text, "p.toml").unwrap();
        prop_assert_eq!(&read, &plan);
        prop_assert_eq!(read.to_toml().unwrap(), text);
    }

    #[test]
    fn more_room_never_hurts_and_no_plan_takes_more_than_it_may(seed in any::<u64>()) {
        let prices = random_list(&mut Random(seed), SHAPE);
        let mut last: Option<f64> = None;
        for budget in (0..=240).step_by(12) {
            match solve(&prices, &Limits::bytes(budget), &SolveOptions::default()) {
                Ok(found) => {
                    prop_assert!(found.costs.bytes <= budget, "{} of {budget} bytes", found.costs.bytes);
                    let (costs, damage) = prices.total(&found.choice).unwrap();
                    prop_assert_eq!((costs.bytes, damage), (found.costs.bytes, found.damage));
                    prop_assert!(last.is_none_or(|last| found.damage <= last), "{} after {last:?}", found.damage);
                    last = Some(found.damage);
                }
                Err(error) => prop_assert!(last.is_none(), "less room had a plan: {error}"),
            }
        }
        prop_assert!(last.is_some(), "240 bytes hold six options of 40");
    }
}
