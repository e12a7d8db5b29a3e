use super::*;
use crate::linalg::square::tests::{max_difference, product, random_spd, transpose};
use crate::linalg::{Damping, cholesky_damped, lower_inverse, thin_svd};

fn normals(name: &str, n: usize) -> Vec<f64> {
    let mut stream = Stream::new(3, name, 0, n as u64);
    (0..n).map(|_| stream.normal()).collect()
}

/// A second moment with a decaying spectrum.
fn moment(n: usize) -> Square {
    let mut s = random_spd(n, 2 * n + 3, 11);
    let loud: Vec<f64> = (0..n).map(|i| 1.0 + 6.0 / (1.0 + i as f64)).collect();
    for i in 0..n {
        for j in 0..n {
            s.as_mut_slice()[i * n + j] *= loud[i] * loud[j];
        }
    }
    s
}

/// The published recipe: factor `S = P Pᵀ`, decompose `E P`, multiply by the inverse of `P`.
fn as_published(
    e: &[f64],
    rows: usize,
    n: usize,
    p: &[f64],
    p_inverse: &[f64],
    rank: usize,
) -> (Vec<f64>, Vec<f64>) {
    let svd = thin_svd(&product(e, p, rows, n, n), rows, n).unwrap();
    let k = svd.k();
    let b: Vec<f64> = (0..rows * rank).map(|i| svd.u[i / rank * k + i % rank] * svd.s[i % rank]).collect();
    let a = product(&svd.vt[..rank * n], p_inverse, rank, n, n);
    (product(&b, &a, rows, rank, n), svd.s)
}

fn subtract(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[test]
fn error_is_the_tail_and_eigen_and_cholesky_factors_give_the_same_product() {
    for (rows, n) in [(24, 24), (12, 30), (40, 17)] {
        let (e, s) = (normals("test/e", rows * n), moment(n));
        let eigen = symmetric_eigen(&s).unwrap();
        let q = eigen.vectors.as_slice();
        let root = |k: usize| eigen.values[k].sqrt();
        let p: Vec<f64> = (0..n * n).map(|i| q[i] * root(i % n)).collect();
        let p_inverse: Vec<f64> =
            transpose(q, n, n).iter().enumerate().map(|(i, x)| x / root(i / n)).collect();
        let l = cholesky_damped(&s, &Damping::NONE).unwrap().lower;
        let l_inverse = lower_inverse(&l).unwrap();
        let total = metric_norm(&e, rows, None, Metric::Full(&s)).unwrap();
        for rank in [1, 4, 10] {
            let found = low_rank(&e, rows, None, Metric::Full(&s), rank, Path::Exact).unwrap();
            let ba = found.product();
            let (by_eigen, values) = as_published(&e, rows, n, &p, &p_inverse, rank);
            let (by_cholesky, _) = as_published(&e, rows, n, l.as_slice(), l_inverse.as_slice(), rank);
            let scale = ba.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            assert!(max_difference(&ba, &by_eigen) < 1e-9 * scale, "{rows} x {n}, rank {rank}");
            assert!(max_difference(&ba, &by_cholesky) < 1e-9 * scale, "{rows} x {n}, rank {rank}");
            let tail: f64 = values[rank..].iter().map(|s| s * s).sum();
            let measured = metric_norm(&subtract(&e, &ba), rows, None, Metric::Full(&s)).unwrap();
            assert!((measured / tail - 1.0).abs() < 1e-9, "{measured} {tail}");
            assert!((found.residual(total, rank) / tail - 1.0).abs() < 1e-9);
            // Control: a factor that is not one of S gives another product.
            let (other, _) = as_published(&e, rows, n, &p, l_inverse.as_slice(), rank);
            assert!(max_difference(&ba, &other) > 1e-3 * scale);
        }
    }
}

#[test]
fn full_rank_leaves_nothing_also_where_the_moment_is_singular() {
    let (rows, n) = (9, 14);
    let e = normals("test/full", rows * n);
    // Five tokens show five directions of fourteen.
    let few = random_spd(n, 5, 2);
    for s in [moment(n), few] {
        let found = low_rank(&e, rows, None, Metric::Full(&s), 99, Path::Exact).unwrap();
        assert_eq!(found.rank(), rows);
        assert!(max_difference(&found.product(), &e) < 1e-9, "nothing is left, seen or not");
        let less = low_rank(&e, rows, None, Metric::Full(&s), 4, Path::Exact).unwrap();
        assert!(max_difference(&less.product(), &e) > 0.1);
    }
}

#[test]
fn beats_random_pairs_and_equals_alternating_least_squares() {
    let (rows, n, rank) = (10, 12, 3);
    let (e, s) = (normals("test/als", rows * n), moment(n));
    let total = metric_norm(&e, rows, None, Metric::Full(&s)).unwrap();
    let best = low_rank(&e, rows, None, Metric::Full(&s), rank, Path::Exact).unwrap().residual(total, rank);
    let error = |ba: &[f64]| metric_norm(&subtract(&e, ba), rows, None, Metric::Full(&s)).unwrap();
    // For a given A the best B is least squares: B = E S Aᵀ (A S Aᵀ)⁻¹; for a given B, A = (BᵀB)⁻¹ Bᵀ E.
    let best_b = |a: &[f64]| {
        let at = transpose(a, rank, n);
        let sa = product(s.as_slice(), &at, n, n, rank);
        let small = Square::new(rank, product(a, &sa, rank, n, rank)).unwrap();
        let factor = cholesky_damped(&small, &Damping::NONE).unwrap();
        let right = transpose(&product(&e, &sa, rows, n, rank), rows, rank);
        transpose(&factor.solve(&right, rows).unwrap(), rank, rows)
    };
    let best_a = |b: &[f64]| {
        let bt = transpose(b, rows, rank);
        let small = Square::new(rank, product(&bt, b, rank, rows, rank)).unwrap();
        let factor = cholesky_damped(&small, &Damping::NONE).unwrap();
        factor.solve(&product(&bt, &e, rank, rows, n), n).unwrap()
    };
    let mut closest = f64::INFINITY;
    for i in 0..1000 {
        let a = normals(&format!("test/pair {i}"), rank * n);
        // Even with the best B that this A can have.
        closest = closest.min(error(&product(&best_b(&a), &a, rows, rank, n)));
    }
    assert!(best < closest, "{best} {closest}");
    let mut a = normals("test/start", rank * n);
    let mut b = best_b(&a);
    for _ in 0..2000 {
        a = best_a(&b);
        b = best_b(&a);
    }
    let converged = error(&product(&b, &a, rows, rank, n));
    assert!((converged / best - 1.0).abs() < 1e-6, "{converged} {best}");
}

#[test]
fn diagonal_metrics_on_both_sides_are_those_of_the_scaled_matrix() {
    let (rows, n, rank) = (11, 8, 3);
    let e = normals("test/diagonal", rows * n);
    let left: Vec<f64> = (0..rows).map(|i| 0.2 + i as f64).collect();
    let right: Vec<f64> = (0..n).map(|i| 3.0 / (1.0 + i as f64)).collect();
    let found = low_rank(&e, rows, Some(&left), Metric::Diagonal(&right), rank, Path::Exact).unwrap();
    let scaled: Vec<f64> = (0..rows * n).map(|i| e[i] * (left[i / n] * right[i % n]).sqrt()).collect();
    let svd = thin_svd(&scaled, rows, n).unwrap();
    assert!(max_difference(&found.singular, &svd.s[..rank]) < 1e-9);
    let error =
        |ba: &[f64]| metric_norm(&subtract(&e, ba), rows, Some(&left), Metric::Diagonal(&right)).unwrap();
    let tail: f64 = svd.s[rank..].iter().map(|s| s * s).sum();
    assert!((error(&found.product()) / tail - 1.0).abs() < 1e-9);
    // Controls: what is best under another metric is not best here.
    let plain = low_rank(&e, rows, None, Metric::Identity, rank, Path::Exact).unwrap();
    let one_sided = low_rank(&e, rows, None, Metric::Diagonal(&right), rank, Path::Exact).unwrap();
    assert!(error(&plain.product()) > 1.01 * tail && error(&one_sided.product()) > 1.01 * tail);
    // As a full matrix the diagonal means the same.
    let square = Square::diagonal_matrix(&right);
    let full = low_rank(&e, rows, Some(&left), Metric::Full(&square), rank, Path::Exact).unwrap();
    assert!(max_difference(&full.product(), &found.product()) < 1e-9);
    // A row without weight is left alone.
    let mut blind = left.clone();
    blind[4] = 0.0;
    let found = low_rank(&e, rows, Some(&blind), Metric::Diagonal(&right), rank, Path::Exact).unwrap();
    assert!(found.b[4 * rank..5 * rank].iter().all(|&x| x == 0.0));
}

#[test]
fn by_hand_and_balanced() {
    // diag(3, 1) with inputs of power 1 and 25: the second direction weighs 1 * 5 > 3 * 1.
    let e = [3.0, 0.0, 0.0, 1.0];
    let seen = low_rank(&e, 2, None, Metric::Diagonal(&[1.0, 25.0]), 1, Path::Exact).unwrap();
    assert!((seen.singular[0] - 5.0).abs() < 1e-12);
    assert!(max_difference(&seen.product(), &[0.0, 0.0, 0.0, 1.0]) < 1e-12);
    let blind = low_rank(&e, 2, None, Metric::Identity, 1, Path::Exact).unwrap();
    assert!(max_difference(&blind.product(), &[3.0, 0.0, 0.0, 0.0]) < 1e-12);
    assert!((blind.b[0] - 3f64.sqrt()).abs() < 1e-12 && (blind.a[0] - 3f64.sqrt()).abs() < 1e-12);
    let nothing = low_rank(&[0.0; 6], 2, None, Metric::Identity, 1, Path::Exact).unwrap();
    assert!(nothing.product().iter().all(|&x| x == 0.0) && nothing.residual(0.0, 1) == 0.0);
    assert_eq!(low_rank(&e, 2, None, Metric::Identity, 0, Path::Auto).unwrap().rank(), 0);
}

#[test]
fn the_randomized_path_is_within_a_thousandth_of_the_best_error() {
    let (rows, n, rank) = (300, 330, 8);
    let s = moment(n);
    // White errors, whose spectrum hardly decays: the hard case.
    let e = normals("test/white", rows * n);
    let total = metric_norm(&e, rows, None, Metric::Full(&s)).unwrap();
    let run = |path| low_rank(&e, rows, None, Metric::Full(&s), rank, path).unwrap();
    let best = run(Path::Exact).residual(total, rank);
    let fast = run(Path::Randomized(Sketch::default()));
    let reached = fast.residual(total, rank);
    let measured = metric_norm(&subtract(&e, &fast.product()), rows, None, Metric::Full(&s)).unwrap();
    assert!(
        (reached / measured - 1.0).abs() < 1e-9,
        "the residual is that of the pair: {reached} {measured}"
    );
    assert!(reached >= best * (1.0 - 1e-12) && reached < 1.001 * best, "{reached} {best}");
    // Control: two blocks without further directions are too few.
    let hasty = Sketch { oversampling: 0, blocks: 2, seed: 0 };
    assert!(run(Path::Randomized(hasty)).residual(total, rank) > 1.001 * best);
    assert_eq!(fast, run(Path::Randomized(Sketch::default())), "the same seed, the same bytes");
    assert_ne!(fast, run(Path::Randomized(Sketch { seed: 1, ..Sketch::default() })));
}

#[test]
fn the_randomized_path_finds_all_where_little_is_to_find() {
    // An error of rank 2: after the first product nothing new is left to span.
    let (rows, n) = (200, 190);
    let (left, right) = (normals("test/thin left", rows * 2), normals("test/thin right", 2 * n));
    let e = product(&left, &right, rows, 2, n);
    let s = moment(n);
    let total = metric_norm(&e, rows, None, Metric::Full(&s)).unwrap();
    let found = low_rank(&e, rows, None, Metric::Full(&s), 4, Path::Randomized(Sketch::default())).unwrap();
    assert!(found.residual(total, 2) < 1e-9 * total, "{:?}", found.singular);
    assert!(max_difference(&found.product(), &e) < 1e-6);
    let one = found.residual(total, 1);
    let exact = low_rank(&e, rows, None, Metric::Full(&s), 1, Path::Exact).unwrap().residual(total, 1);
    assert!((one / exact - 1.0).abs() < 1e-6, "{one} {exact}");
}

#[test]
fn same_bytes_at_any_number_of_threads() {
    let (rows, n) = (300, 290);
    let (e, s) = (normals("test/threads", rows * n), moment(n));
    for path in [Path::Exact, Path::Randomized(Sketch::default())] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| low_rank(&e, rows, None, Metric::Full(&s), 8, path).unwrap())
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}

#[test]
fn bad_input_is_an_error() {
    let e = [1.0; 6];
    let wrong =
        |left: Option<&[f64]>, right: Metric<'_>| low_rank(&e, 2, left, right, 1, Path::Auto).unwrap_err();
    assert!(matches!(wrong(None, Metric::Diagonal(&[1.0; 2])), Error::Length { .. }));
    assert!(matches!(wrong(Some(&[1.0]), Metric::Identity), Error::Length { .. }));
    assert!(matches!(wrong(Some(&[1.0, -1.0]), Metric::Identity), Error::Value { column: 1, .. }));
    assert!(matches!(wrong(None, Metric::Diagonal(&[1.0, f64::NAN, 1.0])), Error::Value { column: 1, .. }));
    let nan = low_rank(&[1.0, f64::NAN], 1, None, Metric::Identity, 1, Path::Auto);
    assert!(matches!(nan, Err(Error::Value { row: 0, column: 1, .. })));
}
