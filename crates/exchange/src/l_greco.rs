//! L-GreCo: a level for every tensor, so that all of them together take the fewest bytes at the error of a uniform
//! level.
//!
//! Source: Alimohammadi, Markov, Frantar, Alistarh, arXiv:2210.17357, section 4. The choice is the house's exact
//! allocator and not the paper's dynamic program over rounded errors, which at `alpha = 1` cannot hold the uniform
//! point itself on its grid, and may return something larger than that (the program is kept among the tests).

use trimtab_plan::{PriceList, SiteOption, SitePrices, SolveOptions, least_bytes};

use crate::error::{Error, Result};
use crate::tables::ErrorTable;

/// One level for every tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// Place of the level in each table.
    pub picks: Vec<usize>,
    /// Sum of the payloads.
    pub bytes: u64,
    /// Sum of the errors, added in the order of the tables.
    pub error: f64,
}

impl Levels {
    /// The sums of `picks`, one a table.
    ///
    /// # Errors
    /// Fewer or more picks than tables, or one beyond its table.
    pub fn new(tables: &[ErrorTable], picks: Vec<usize>) -> Result<Self> {
        if picks.len() != tables.len() {
            return Err(Error::setting("l-greco: picks", picks.len(), "one for each table"));
        }
        let (mut bytes, mut error) = (0, 0.0);
        for (table, &pick) in tables.iter().zip(&picks) {
            let entry = table.bytes.get(pick).zip(table.errors.get(pick)).ok_or_else(|| Error::Table {
                name: table.name.clone(),
                problem: format!("no level at place {pick} of {}", table.levels.len()),
            })?;
            bytes += entry.0;
            error += entry.1;
        }
        Ok(Self { picks, bytes, error })
    }

    /// The uniform level everywhere.
    pub fn uniform(tables: &[ErrorTable]) -> Result<Self> {
        Self::new(tables, tables.iter().map(|t| t.uniform).collect())
    }
}

/// The levels of the fewest bytes whose errors add up to at most `budget`; `None` if there are none.
///
/// The budget of the paper is `alpha` times the error of the uniform levels ([`Levels::uniform`]). At `alpha >= 1` there
/// is always an answer, never larger than uniform. Levels whose error is not finite are not candidates.
///
/// # Errors
/// A table without a usable level, two of one name, or a budget that is NaN.
pub fn l_greco(tables: &[ErrorTable], budget: f64) -> Result<Option<Levels>> {
    let mut sites = Vec::with_capacity(tables.len());
    for table in tables {
        table.check()?;
        let options = (0..table.levels.len()).filter(|&i| table.errors[i].is_finite());
        let option = |i: usize| SiteOption::new(i.to_string(), table.bytes[i], table.errors[i]);
        sites.push(SitePrices::new(&table.name, 0, options.map(option).collect()));
    }
    let prices = PriceList::new("error", sites)?;
    let Some(found) = least_bytes(&prices, budget, &SolveOptions::default())? else { return Ok(None) };
    let pick = |(table, (site, &choice)): (&ErrorTable, (&SitePrices, &usize))| {
        // Labels are places; options left out shift the indices.
        site.options[choice].label.parse().unwrap_or(table.uniform)
    };
    let picks = tables.iter().zip(prices.sites.iter().zip(&found.choice)).map(pick).collect();
    let chosen = Levels::new(tables, picks)?;
    // A search that had to be thinned could miss even the uniform point.
    let uniform = Levels::uniform(tables)?;
    let better = uniform.error <= budget && uniform.bytes < chosen.bytes;
    Ok(Some(if better { uniform } else { chosen }))
}
