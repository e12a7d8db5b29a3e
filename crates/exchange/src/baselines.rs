//! What L-GreCo is compared with: a uniform level of the same bytes, and a greedy allocation.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::l_greco::Levels;
use crate::tables::ErrorTable;

/// The uniform level whose bytes come nearest to `bytes` (the larger of two equally near ones), cut to what each
/// tensor has.
pub fn same_bytes_uniform(tables: &[ErrorTable], bytes: u64) -> Result<Levels> {
    tables.iter().try_for_each(ErrorTable::check)?;
    let all: BTreeSet<usize> = tables.iter().flat_map(|t| t.levels.iter().copied()).collect();
    let mut best = Levels::uniform(tables)?;
    for level in all {
        let levels = Levels::new(tables, tables.iter().map(|t| t.at_most(level)).collect())?;
        // Levels rise, and so do their bytes.
        if levels.bytes.abs_diff(bytes) <= best.bytes.abs_diff(bytes) {
            best = levels;
        }
    }
    Ok(best)
}

/// From the smallest payloads, one step at a time, whichever saves most error a byte, until the errors add up to at
/// most `budget`; `None` if they never do. A step may skip levels.
pub fn greedy(tables: &[ErrorTable], budget: f64) -> Result<Option<Levels>> {
    tables.iter().try_for_each(ErrorTable::check)?;
    let cheapest = |t: &ErrorTable| (0..t.levels.len()).min_by_key(|&i| t.bytes[i]).unwrap_or(t.uniform);
    let mut levels = Levels::new(tables, tables.iter().map(cheapest).collect())?;
    while levels.error > budget {
        let mut best: Option<(f64, usize, usize)> = None;
        for (l, table) in tables.iter().enumerate() {
            let from = levels.picks[l];
            for to in (0..table.levels.len()).filter(|&to| table.bytes[to] > table.bytes[from]) {
                let worth =
                    (table.errors[from] - table.errors[to]) / (table.bytes[to] - table.bytes[from]) as f64;
                if worth > 0.0 && best.is_none_or(|(most, ..)| worth > most) {
                    best = Some((worth, l, to));
                }
            }
        }
        let Some((_, l, to)) = best else { return Ok(None) };
        levels.picks[l] = to;
        levels = Levels::new(tables, levels.picks)?;
    }
    Ok(Some(levels))
}
