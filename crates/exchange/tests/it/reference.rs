//! The paper's dynamic program over rounded errors (arXiv:2210.17357, algorithm 1), for comparison only: with `cells`
//! cells as published, or with one more for each tensor and a look at the exact sums.

use trimtab_exchange::{ErrorTable, Levels};

/// Smallest payload by each total of rounded errors, and the picks that lead there.
struct Program {
    /// `[tensor][cell]`: smallest payload, and the option and cell it comes from.
    rows: Vec<Vec<Option<(u64, usize)>>>,
    /// `[tensor][option]`: rounded error; `None` if forbidden.
    cells: Vec<Vec<Option<usize>>>,
}

impl Program {
    fn new(tables: &[ErrorTable], budget: f64, unit_cells: usize, all_cells: usize) -> Self {
        let rounded = |error: f64| {
            let cell = (error * unit_cells as f64 / budget).ceil();
            // An error that is a whole number of cells must not be pushed up by the rounding of the division.
            let near = (error * unit_cells as f64 / budget).round();
            let cell =
                if (near * budget / unit_cells as f64 - error).abs() <= 1e-12 * budget { near } else { cell };
            (error <= budget).then_some((cell as usize).clamp(1, unit_cells))
        };
        let cells: Vec<Vec<Option<usize>>> =
            tables.iter().map(|t| t.errors.iter().map(|&e| rounded(e)).collect()).collect();
        let mut payload: Vec<Option<u64>> = vec![Some(0); all_cells + 1];
        let mut rows = Vec::new();
        for (table, cells) in tables.iter().zip(&cells) {
            let mut row: Vec<Option<(u64, usize)>> = vec![None; all_cells + 1];
            for (d, best) in row.iter_mut().enumerate() {
                for (k, cell) in cells.iter().enumerate() {
                    let Some(before) = cell.and_then(|cell| d.checked_sub(cell)).and_then(|at| payload[at])
                    else {
                        continue;
                    };
                    let total = before + table.bytes[k];
                    if best.is_none_or(|(least, _)| total < least) {
                        *best = Some((total, k));
                    }
                }
            }
            payload = row.iter().map(|best| best.map(|(total, _)| total)).collect();
            rows.push(row);
        }
        Self { rows, cells }
    }

    fn picks(&self, mut d: usize) -> Option<Vec<usize>> {
        let mut picks = vec![0; self.rows.len()];
        for l in (0..self.rows.len()).rev() {
            let (_, k) = self.rows[l][d]?;
            picks[l] = k;
            d -= self.cells[l][k]?;
        }
        Some(picks)
    }
}

/// As published: `d` cells.
pub fn plain(tables: &[ErrorTable], budget: f64, d: usize) -> Option<Levels> {
    let program = Program::new(tables, budget, d, d);
    program.picks(d).map(|picks| Levels::new(tables, picks).unwrap())
}

/// With a cell more for each tensor, so that all that is feasible is on the grid; whatever keeps the budget exactly
/// competes, the uniform point among it.
pub fn safeguarded(tables: &[ErrorTable], budget: f64, d: usize) -> Option<Levels> {
    let all = d + tables.len();
    let program = Program::new(tables, budget, d, all);
    let found =
        (d..=all).filter_map(|at| program.picks(at)).chain([tables.iter().map(|t| t.uniform).collect()]);
    let kept = found.map(|picks| Levels::new(tables, picks).unwrap()).filter(|l| l.error <= budget);
    kept.min_by_key(|l| l.bytes)
}

/// Every choice.
pub fn brute_force(tables: &[ErrorTable], budget: f64) -> Option<u64> {
    let mut choices = vec![vec![]];
    for table in tables {
        let longer =
            |c: &Vec<usize>| (0..table.levels.len()).map(|k| [&c[..], &[k]].concat()).collect::<Vec<_>>();
        choices = choices.iter().flat_map(longer).collect();
    }
    let all = choices.into_iter().map(|picks| Levels::new(tables, picks).unwrap());
    all.filter(|l| l.error <= budget).map(|l| l.bytes).min()
}
