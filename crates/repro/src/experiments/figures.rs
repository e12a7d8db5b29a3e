//! Figures over seeds, as tables show them.

/// The mean; not a number for none.
pub fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

/// `mean (least .. most)` with so many decimals.
pub fn spread(all: &[f64], decimals: usize) -> String {
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.decimals$} ({least:.decimals$} .. {most:.decimals$})", mean(all))
}
