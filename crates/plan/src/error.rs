//! The one error type of this crate, and the message of an impossible budget.

use std::fmt;

use crate::limits::Limits;
use crate::resource::{Costs, Resource};
use crate::units::{bytes_exact, bytes_short, ceil_to, count_short, seconds_short};

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can be wrong with a budget, a price list, a plan file or a selection.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A budget string that does not parse.
    #[error(
        "budget \"{text}\": at character {position}: expected {expected}, found {found}\n\
         hint: examples: 3.5bpw, 40%, 900MB, latency=12ms, macs=60%, params=2M; join several with commas"
    )]
    Budget {
        /// The whole text.
        text: String,
        /// One-based character at which reading stopped.
        position: usize,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
    },
    /// A budget on a resource that was not priced.
    #[error(
        "budget \"{budget}\": no {resource} prices: {missing}\n\
         hint: measure {resource} when pricing the options, or budget one of: {priced}"
    )]
    NotPriced {
        /// The budget, or the limit, that was asked for.
        budget: String,
        /// The resource without prices.
        resource: Resource,
        /// What is missing, and where.
        missing: String,
        /// The resources that do have prices.
        priced: String,
    },
    /// The part of the model that no option touches is already above the budget.
    #[error(
        "budget \"{budget}\": the untreated part alone takes {fixed}, the budget allows {allowed}\n\
         hint: raise the budget, or treat more sites (embeddings and heads are often the largest)"
    )]
    BelowFixed {
        /// The budget as text.
        budget: String,
        /// What the untreated part takes, with its unit.
        fixed: String,
        /// What the budget allows, with its unit.
        allowed: String,
    },
    /// No choice of options satisfies the limits.
    #[error("{0}")]
    Infeasible(Box<Infeasible>),
    /// The search was cut short before it met any feasible plan; there may or may not be one.
    #[error(
        "no feasible plan among the {states} states kept, and the search was thinned\n\
         hint: raise max_front (now {max_front}), or relax one of the limits"
    )]
    Undecided {
        /// States visited.
        states: usize,
        /// The front limit in force.
        max_front: usize,
    },
    /// A price list that contradicts itself.
    #[error("price list: site \"{site}\": {problem}")]
    Prices {
        /// Site that is wrong (empty: the list itself).
        site: String,
        /// What is wrong, what was expected, and a hint.
        problem: String,
    },
    /// A label that a site does not offer.
    #[error(
        "{place}: site \"{site}\" has no option \"{label}\"{suggestion}\nhint: its options are: {listed}"
    )]
    UnknownLabel {
        /// File and line, or the flag, where the label stands.
        place: String,
        /// The site.
        site: String,
        /// The label asked for.
        label: String,
        /// `; did you mean "…"?`, or nothing.
        suggestion: String,
        /// The labels that exist, quoted and joined by commas.
        listed: String,
    },
    /// A selection pattern that is malformed or matches nothing.
    #[error("{flag} '{pattern}': {problem}")]
    Pattern {
        /// `include`, `exclude` or `pin`.
        flag: &'static str,
        /// The pattern.
        pattern: String,
        /// What is wrong, the nearest names, and a hint.
        problem: String,
    },
    /// A plan file that cannot be read as one.
    #[error("{place}: {problem}")]
    PlanFile {
        /// `plan.toml`, with the line where it is known.
        place: String,
        /// What is wrong, what was expected, and a hint.
        problem: String,
    },
    /// A list of choices that does not fit the price list.
    #[error("choices: {problem}")]
    Choice {
        /// What is wrong.
        problem: String,
    },
    /// A problem too large for the exhaustive search.
    #[error("brute force: {combinations} combinations, limit {limit}\nhint: use solve()")]
    TooLarge {
        /// Number of combinations (saturating).
        combinations: u64,
        /// Largest number accepted.
        limit: u64,
    },
}

/// Why a budget cannot be met, and the nearest one that can.
#[derive(Debug, Clone, PartialEq)]
pub struct Infeasible {
    /// The limits that were asked for.
    pub limits: Limits,
    /// The resource that cannot get this low; `None` if each limit alone is possible, but not all together.
    pub resource: Option<Resource>,
    /// Costs of the treated sites in the plan that needs least of `resource` (with `None`: the least of each
    /// resource, which no single plan may reach).
    pub nearest: Costs,
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.limits.describe();
        match self.resource {
            Some(resource) => {
                write!(f, "budget {asked} cannot be met: ")?;
                write!(f, "the least {resource} possible is {}", self.amount(resource))?;
                write!(f, "\nhint: the nearest feasible budget is {}", self.suggestion(resource))
            }
            None => {
                write!(
                    f,
                    "budget {asked} cannot be met: each limit alone is possible, but no plan meets all"
                )?;
                let least: Vec<String> =
                    self.limits.resources().into_iter().map(|r| format!("{r} {}", self.amount(r))).collect();
                write!(f, "\nhint: relax one; the least possible of each alone: {}", least.join(", "))
            }
        }
    }
}

impl Infeasible {
    /// The smallest achievable amount of `resource`, with units (bytes also as bits per weight and share of the file).
    fn amount(&self, resource: Resource) -> String {
        let totals = &self.limits.totals;
        match resource {
            Resource::Bytes => {
                let mut text = format!("{} in the treated sites", bytes_exact(self.nearest.bytes));
                if let Some(bpw) = totals.bits_per_weight(self.nearest.bytes) {
                    text += &format!(" = {}bpw", ceil_to(bpw, 4));
                }
                if let Some(share) = totals.file_share(self.nearest.bytes) {
                    let file = totals.file_bytes(self.nearest.bytes);
                    text += &format!("; whole file {} = {}%", bytes_exact(file), ceil_to(100.0 * share, 2));
                }
                text
            }
            Resource::Latency => {
                seconds_short(self.nearest.latency_s.unwrap_or(0.0) + totals.latency_fixed_s)
            }
            Resource::Macs => count_short(self.nearest.macs.unwrap_or(0).saturating_add(totals.macs_fixed)),
            Resource::Params => {
                count_short(self.nearest.params.unwrap_or(0).saturating_add(totals.params_fixed))
            }
        }
    }

    /// A budget string, in every unit that makes sense, that [`crate::Budget`] parses and that is feasible.
    pub fn suggestion(&self, resource: Resource) -> String {
        let totals = &self.limits.totals;
        match resource {
            Resource::Bytes => {
                let mut ways = Vec::new();
                if let Some(bpw) = totals.bits_per_weight(self.nearest.bytes) {
                    ways.push(format!("{}bpw", ceil_to(bpw, 4)));
                }
                if let Some(share) = totals.file_share(self.nearest.bytes) {
                    ways.push(format!("{}%", ceil_to(100.0 * share, 2)));
                }
                let file = totals.file_bytes(self.nearest.bytes);
                ways.push(format!("{file}B ({})", bytes_short(file)));
                ways.join(" or ")
            }
            Resource::Latency => {
                let s = self.nearest.latency_s.unwrap_or(0.0) + totals.latency_fixed_s;
                format!("latency={}us", ceil_to(s * 1e6, 3))
            }
            Resource::Macs => {
                format!("macs={}", self.nearest.macs.unwrap_or(0).saturating_add(totals.macs_fixed))
            }
            Resource::Params => {
                format!("params={}", self.nearest.params.unwrap_or(0).saturating_add(totals.params_fixed))
            }
        }
    }
}
