//! Budgets, priced options, and the allocator: one choice per site that fits a budget and hurts least.
//!
//! # The idea
//!
//! A network is a list of *sites*. Each could become many things: 4-bit codes in groups of 64, half of its
//! columns, a factor of rank 32, nothing at all. Whatever it is, to this crate it is an *option*: a label, the
//! exact amount it takes of each resource (bytes, seconds, multiply-adds, parameters), and the *damage* it does,
//! as measured. All options of all sites are a [`PriceList`]; the person says one line, a [`Budget`]; and
//! [`solve`] finds the choice with the least sum of damages within it. Quantization, pruning, rank, layer
//! skipping and adapters thus compete on one list, and nothing in here knows which is which: slices, numbers and
//! names in, the same out.
//!
//! ```
//! use trimtab_plan::{Budget, Plan, PlanHeader, PriceList, SiteOption, SitePrices, SolveOptions, Totals, solve};
//!
//! // Two sites of 64 weights, priced by whoever knows how: label, bytes, damage.
//! let options = |damage: f64| {
//!     vec![SiteOption::new("int4", 32, damage), SiteOption::new("int8", 64, damage / 256.0)]
//! };
//! let up = SitePrices::new("block.0.up", 64, options(0.02));
//! let down = SitePrices::new("block.0.down", 64, options(0.50));
//! let prices = PriceList::new("kl", vec![up, down])?;
//!
//! // What the person typed, and what it means for this model.
//! let totals = Totals { treated_weights: 128, ..Totals::default() };
//! let budget: Budget = "6bpw".parse()?;
//! let limits = budget.limits(&totals)?;
//! assert_eq!(limits.bytes, Some(96));
//!
//! // The sensitive site gets the bits.
//! let allocation = solve(&prices, &limits, &SolveOptions::default())?;
//! assert_eq!(allocation.choice, [0, 1]);
//! assert!(allocation.exact && allocation.costs.bytes == 96);
//!
//! // A plan is a file to read, compare and edit.
//! let header = PlanHeader { model: "@pico".into(), budget: Some(budget), totals, ..PlanHeader::default() };
//! let plan = Plan::new(header, prices, &allocation)?;
//! let text = plan.to_toml()?;
//! assert!(text.contains("choice = \"int8\""));
//! assert_eq!(text.parse::<Plan>()?, plan);
//!
//! // A budget that cannot be met is refused at once, with the nearest one that can.
//! let error = solve(&plan.prices, &"3bpw".parse::<Budget>()?.limits(&plan.header.totals)?, &SolveOptions::default());
//! assert!(error.unwrap_err().to_string().contains("nearest feasible budget is 4bpw"));
//! # Ok::<(), trimtab_plan::Error>(())
//! ```
//!
//! # The parts
//!
//! | file | what it does |
//! |---|---|
//! | `budget`, `budget_parse`, `limits` | `3.5bpw, latency=12ms` to numeric [`Limits`] |
//! | `resource`, `price` | [`PriceList`], [`SitePrices`], [`SiteOption`], and their checks |
//! | `fuse` | fused groups and pins become single decisions |
//! | `problem`, `lagrange`, `pareto`, `solve` | the exact allocator |
//! | `brute` | its oracle: all combinations, from the definition |
//! | `frontier` | the curve of size against damage |
//! | `least_bytes` | the fewest bytes whose damage stays within a limit: [`least_bytes`] |
//! | `two_groups` | sizes between two bounds, and two groups of sites with a metric each: [`solve_within`], [`TwoGroups`] |
//! | `bisect` | how far along an ordering a measured condition holds |
//! | `interaction` | an ordering by measured terms of single sites and pairs |
//! | `replan` | solve, measure, price again: [`refine`] |
//! | `plan_file`, `plan_read`, `plan_write`, `plan_diff`, `plan_table` | [`Plan`], its file, its tables |
//! | `select` | include, exclude and pin by glob: [`Selection`] |
//!
//! # How the allocator works
//!
//! The problem is the multiple-choice knapsack, with one or several limits. A Lagrangian relaxation gives prices
//! of the resources in damage, hence a lower bound and a feasible plan near it. The front of partial plans is
//! then extended site by site; a partial plan is dropped when another one dominates it, or when its bound shows
//! that it cannot end below a cutoff. The cutoff starts just above the lower bound and widens until a plan is
//! found: that plan is optimal. Costs are integers (latency in picoseconds), so no tolerance hides in a limit.
//! If a front outgrows [`SolveOptions::max_front`], the least promising states go, and [`Allocation::gap`] says
//! by how much the plan may miss the optimum at most.
//!
//! Damages add up only as a first guess. [`refine`] therefore measures whole plans, prices again around them, and
//! keeps what *measures* best, with the uniform plans as rivals.

mod bisect;
mod brute;
mod budget;
mod budget_parse;
mod error;
mod frontier;
mod fuse;
mod interaction;
mod lagrange;
mod least_bytes;
mod limits;
mod nearest;
mod pareto;
mod plan_diff;
mod plan_file;
mod plan_read;
mod plan_table;
mod plan_write;
mod price;
mod problem;
mod replan;
mod resource;
mod select;
mod solve;
mod two_groups;
mod units;

pub use bisect::{BisectOptions, Bisection, bisect};
pub use brute::{MAX_COMBINATIONS, brute_force};
pub use budget::Budget;
pub use error::{Error, Infeasible, Result};
pub use frontier::{FrontierPoint, frontier};
pub use interaction::Interactions;
pub use least_bytes::{Smallest, least_bytes};
pub use limits::{Limits, Totals};
pub use plan_diff::Change;
pub use plan_file::{PLAN_VERSION, Plan, PlanHeader, Predicted};
pub use plan_table::change_table;
pub use price::{PriceList, Settings, SiteOption, SitePrices, Source};
pub use replan::{Candidate, Origin, RefineOptions, Refined, refine};
pub use resource::{Costs, Resource};
pub use select::{Pin, Selection};
pub use solve::{Allocation, SolveOptions, solve};
pub use two_groups::{GroupedPlan, TwoGroups, solve_within};
