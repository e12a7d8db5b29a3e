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

/// Mean and spread of shares, in percent: `61.20 (60.90 .. 61.50)`.
pub fn percents(of: &[f64]) -> String {
    spread(&of.iter().map(|share| 100.0 * share).collect::<Vec<_>>(), 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        assert_eq!(spread(&[1.0, 2.0, 6.0], 1), "3.0 (1.0 .. 6.0)");
        assert_eq!(percents(&[0.5, 0.52]), "51.00 (50.00 .. 52.00)");
    }
}
