//! L-GreCo's choice against brute force, the paper's program and the baselines, on 2000 random instances of each kind.

use trimtab_exchange::{ErrorTable, Levels, greedy, l_greco, same_bytes_uniform};
use trimtab_math::random::Stream;

use crate::reference::{brute_force, plain, safeguarded};

const INSTANCES: u64 = 2000;

/// Up to `max_tensors` tensors of up to 5 levels. Errors fall and sizes grow with the level. `unit`: errors are whole
/// numbers of this unit, otherwise arbitrary.
fn instance(seed: u64, max_tensors: usize, whole: bool) -> Vec<ErrorTable> {
    let mut stream = Stream::new(seed, "test/instance", 0, 0);
    let n = 1 + stream.below(max_tensors);
    let table = |l: usize| {
        let n_levels = 1 + stream.below(5);
        let scale = (3.0 * stream.uniform()).exp();
        let mut errors: Vec<f64> = (0..n_levels)
            .map(|_| if whole { 1.0 + stream.below(40) as f64 } else { scale * stream.uniform() + 1e-3 })
            .collect();
        errors.sort_by(|a, b| b.total_cmp(a));
        let mut bytes: Vec<u64> = (0..n_levels).map(|_| 1 + stream.below(500) as u64).collect();
        bytes.sort_unstable();
        let levels = (1..=n_levels).collect();
        ErrorTable { name: format!("t{l}"), levels, errors, bytes, uniform: stream.below(n_levels) }
    };
    (0..n).map(table).collect()
}

#[test]
fn the_choice_is_optimal_and_never_worse_than_uniform() {
    let (mut smaller, mut greedy_worse) = (0, 0);
    for seed in 0..INSTANCES {
        let tables = instance(seed, 6, seed % 2 == 0);
        let uniform = Levels::uniform(&tables).unwrap();
        let found = l_greco(&tables, uniform.error).unwrap().unwrap();
        assert_eq!(Some(found.bytes), brute_force(&tables, uniform.error), "seed {seed}");
        assert!(found.error <= uniform.error && found.bytes <= uniform.bytes, "seed {seed}");
        smaller += u64::from(found.bytes < uniform.bytes);
        // Another budget, which may be out of reach.
        let tight = 0.6 * uniform.error;
        let found = l_greco(&tables, tight).unwrap();
        assert_eq!(found.as_ref().map(|l| l.bytes), brute_force(&tables, tight), "seed {seed}, tight");
        // The greedy choice keeps the budget, too, but is not always smallest.
        if let Some(greedy) = greedy(&tables, tight).unwrap() {
            let best = found.expect("greedy found one");
            assert!(greedy.error <= tight && greedy.bytes >= best.bytes, "seed {seed}");
            greedy_worse += u64::from(greedy.bytes > best.bytes);
        }
    }
    // The controls: the choice has something to save, and a worse allocator is told from it.
    assert!(smaller > INSTANCES / 4 && greedy_worse > INSTANCES / 20, "{smaller}, {greedy_worse}");
}

#[test]
fn the_papers_program_is_optimal_on_whole_cells() {
    let cells = 200;
    for seed in 0..INSTANCES {
        let mut tables = instance(seed, 6, true);
        // Errors are whole multiples of a cell of budget / cells.
        let cell = 0.37;
        tables.iter_mut().flat_map(|t| &mut t.errors).for_each(|e| *e *= cell);
        // A hair of room for the sums of rounded products, in the brute force as in the program.
        let budget = cell * cells as f64 * (1.0 + 1e-12);
        let found = plain(&tables, budget, cells).map(|l| l.bytes);
        assert_eq!(found, brute_force(&tables, budget), "seed {seed}");
    }
}

#[test]
fn the_papers_program_lies_between_two_optima_and_the_safeguard_holds() {
    // Few cells, then as many as published.
    for (cells, instances) in [(200, INSTANCES), (10_000, INSTANCES / 20)] {
        let mut worse_than_uniform = 0;
        for seed in 0..instances {
            let tables = instance(seed, 5, false);
            let uniform = Levels::uniform(&tables).unwrap();
            let budget = uniform.error;
            let best = brute_force(&tables, budget).unwrap();
            let size = plain(&tables, budget, cells).map_or(u64::MAX, |l| l.bytes);
            let tighter = budget * (1.0 - tables.len() as f64 / cells as f64);
            let upper = brute_force(&tables, tighter).unwrap_or(u64::MAX);
            assert!(best <= size && size <= upper, "seed {seed}: {best} {size} {upper}");
            // Nothing found counts as worse.
            worse_than_uniform += u64::from(size > uniform.bytes);

            let safe = safeguarded(&tables, budget, cells).unwrap();
            assert!(safe.error <= budget && safe.bytes <= uniform.bytes && safe.bytes >= best, "seed {seed}");
            // The house's allocator is at least as good as either.
            let house = l_greco(&tables, budget).unwrap().unwrap();
            assert!(house.bytes <= safe.bytes && house.bytes <= size);
        }
        // What the safeguard is for: rounding up loses the uniform point at alpha = 1, however fine the grid.
        assert!(worse_than_uniform > instances / 10, "{cells} cells: {worse_than_uniform} worse");
    }
}

#[test]
fn same_bytes_and_at_most() {
    let tables = instance(3, 6, false);
    let every: Vec<Levels> = (1..=5)
        .map(|level| Levels::new(&tables, tables.iter().map(|t| t.at_most(level)).collect()).unwrap())
        .collect();
    for bytes in [0, 100, every[1].bytes, every[2].bytes + 1, u64::MAX / 2] {
        let found = same_bytes_uniform(&tables, bytes).unwrap();
        let nearest = every.iter().map(|l| l.bytes.abs_diff(bytes)).min().unwrap();
        assert!(found.bytes.abs_diff(bytes) <= nearest);
    }
}

#[test]
fn unusable_tables_are_errors_and_bad_levels_are_passed_over() {
    let table = |errors: [f64; 2]| ErrorTable {
        name: "w".to_string(),
        levels: vec![1, 2],
        errors: errors.to_vec(),
        bytes: vec![10, 20],
        uniform: 1,
    };
    assert_eq!(l_greco(&[table([f64::NAN, 1.0])], 1.0).unwrap().unwrap().picks, [1]);
    assert!(l_greco(&[table([f64::NAN, f64::INFINITY])], 1.0).is_err());
    assert!(l_greco(&[table([2.0, 1.0])], f64::NAN).is_err());
    assert_eq!(l_greco(&[table([2.0, 1.0])], 0.5).unwrap(), None);
    let short = ErrorTable { bytes: vec![10], ..table([2.0, 1.0]) };
    assert!(
        l_greco(std::slice::from_ref(&short), 1.0)
            .unwrap_err()
            .to_string()
            .contains("2 levels, 2 errors, 1 sizes")
    );
    assert!(greedy(std::slice::from_ref(&short), 1.0).is_err() && same_bytes_uniform(&[short], 10).is_err());
    assert!(l_greco(&[ErrorTable { uniform: 2, ..table([2.0, 1.0]) }], 1.0).is_err());
    assert_eq!(l_greco(&[], 0.0).unwrap().unwrap().bytes, 0);
}
