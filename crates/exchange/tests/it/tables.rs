//! Error tables against what compression really loses.

use trimtab_exchange::{
    Alone, Compressor, ErrorTable, Family, Input, LowRankErrors, ResidualOf, RoundingMode, TopK,
};
use trimtab_math::linalg::thin_svd;

use crate::support::{gradient, wide};

const POWER: Family = Family::PowerSgd { rank: 4, residual_of: ResidualOf::Mean };

fn measure(family: Family, gradient: &[f32], shape: [usize; 2], how: LowRankErrors) -> ErrorTable {
    let levels = family.candidates(shape[0], shape[1], 0.25, 4.0);
    ErrorTable::measure(&family, "w", gradient, shape, levels, how, 3).unwrap()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn the_svd_column_is_the_residual_of_the_truncated_product() {
    for [n, m] in [[20, 30], [30, 20], [17, 17]] {
        let gradient = gradient(0, 0, n, m);
        let svd = thin_svd(&wide(&gradient), n, m).unwrap();
        let table = measure(POWER, &gradient, [n, m], LowRankErrors::Exact);
        assert_eq!(table.levels, (1..=16).collect::<Vec<_>>());
        assert_eq!(table.uniform, 3);
        let direct = |rank: usize| {
            norm((0..n * m).map(|at| {
                let (i, j) = (at / m, at % m);
                let product: f64 =
                    (0..rank).map(|c| svd.u[i * svd.k() + c] * svd.s[c] * svd.vt[c * m + j]).sum();
                f64::from(gradient[at]) - product
            }))
        };
        let whole = norm(wide(&gradient).into_iter());
        for (at, &rank) in table.levels.iter().enumerate() {
            assert!((table.errors[at] - direct(rank)).abs() < 1e-5 * whole, "rank {rank}");
            assert_eq!(table.bytes[at], 4 * (rank * (n + m)) as u64);
        }
        // The control: the next rank's residual is another number.
        assert!((table.errors[3] - direct(5)).abs() > 1e-3 * whole);
    }
}

#[test]
fn the_subspace_is_nearly_as_good_and_never_better() {
    let gradient = gradient(0, 1, 40, 60);
    let exact = measure(POWER, &gradient, [40, 60], LowRankErrors::Exact);
    let close = measure(POWER, &gradient, [40, 60], LowRankErrors::Subspace(5));
    for (e, s) in exact.errors.iter().zip(&close.errors) {
        assert!(*s > e - 1e-5 * exact.errors[0] && *s < 1.05 * e, "{s} for {e}");
    }
    // At full rank there is nothing left.
    let full = Family::PowerSgd { rank: 4, residual_of: ResidualOf::Mean };
    let small = crate::support::gradient(0, 2, 5, 9);
    let table = measure(full, &small, [5, 9], LowRankErrors::Subspace(5));
    assert_eq!(table.levels.last(), Some(&5));
    assert!(table.errors[4] < 1e-3 * table.errors[0]);
}

#[test]
fn top_k_and_quantizer_columns_are_what_one_rank_loses() {
    let gradient = gradient(0, 3, 30, 40);
    let top_k = Family::TopK { density: 100, error_feedback: true };
    let table = measure(top_k, &gradient, [30, 40], LowRankErrors::Exact);
    for (at, &level) in table.levels.iter().enumerate() {
        let input = Input { name: "w", n: 30, m: 40, level, values: &gradient };
        let residual = TopK::new(true).reduce(&[input], &Alone).unwrap().unwrap().remove(0).residual.unwrap();
        assert!((table.errors[at] - norm(wide(&residual).into_iter())).abs() < 1e-9);
    }
    let qsgd = Family::Qsgd { bits: 4, rounding: RoundingMode::Nearest, error_feedback: true };
    let table = measure(qsgd, &gradient, [30, 40], LowRankErrors::Exact);
    assert_eq!(table.levels, (1..=8).collect::<Vec<_>>());
    for (at, &level) in table.levels.iter().enumerate() {
        let input = Input { name: "w", n: 30, m: 40, level, values: &gradient };
        let mut compressor = qsgd.compressor(0).unwrap();
        let residual = compressor.reduce(&[input], &Alone).unwrap().unwrap().remove(0).residual.unwrap();
        assert!((table.errors[at] - norm(wide(&residual).into_iter())).abs() < 1e-9);
        // 1200 numbers, three buckets.
        assert_eq!(table.bytes[at], (1200 * level as u64).div_ceil(8) + 24);
    }
    assert!(table.errors.windows(2).all(|w| w[0] > w[1]));
}

#[test]
fn senseless_gradients_are_refused() {
    let how = LowRankErrors::Exact;
    assert!(ErrorTable::measure(&POWER, "w", &[f32::NAN; 64], [8, 8], vec![4], how, 0).is_err());
    assert!(ErrorTable::measure(&POWER, "w", &[1.0; 63], [8, 8], vec![4], how, 0).is_err());
    assert!(ErrorTable::measure(&POWER, "w", &[1.0; 64], [8, 8], vec![3], how, 0).is_err());
}
