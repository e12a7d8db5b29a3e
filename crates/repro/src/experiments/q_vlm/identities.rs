//! Exact identities of the parts.

use std::convert::Infallible;

use trimtab::floors::math::random::Stream;
use trimtab::floors::quantize::qvlm::{ClipSearch, Entropy, Way, partition, search};

use super::super::wikilm::Attempt;
use crate::experiment::Check;

pub(super) fn all() -> Attempt<Vec<Check>> {
    let mut stream = Stream::new(95, "q-vlm/checks", 0, 0);
    // Alike over 50 tokens in size, whatever the sign.
    let mut entropy = Entropy::new(8);
    let rows: Vec<f32> = (0..50 * 8).map(|_| if stream.below(2) == 0 { 0.25 } else { -0.25 }).collect();
    entropy.see(&rows, None);
    let alike = (entropy.nats() - 50f64.ln()).abs();
    // Random tables of errors: the search against all combinations, and blocks of one layer against a loop.
    let (mut brute, mut single, mut covered) = (0.0f64, 0.0f64, 0.0f64);
    for _ in 0..50 {
        let table: Vec<f64> = (0..343).map(|_| stream.uniform()).collect();
        let at = |chosen: &[usize]| table[chosen.iter().fold(0, |sum, &digit| 7 * sum + digit)];
        let run = |start: &[usize], way| {
            search(start, &ClipSearch { way, ..ClipSearch::default() }, |chosen| {
                Ok::<_, Infallible>(at(chosen))
            })
            .map(|found| found.after)
            .unwrap_or(f64::NAN)
        };
        let least = table.iter().copied().fold(f64::INFINITY, f64::min);
        brute = brute.max((run(&[0; 3], Way::Enumerate) - least).abs());
        let row = table[..7].iter().copied().fold(f64::INFINITY, f64::min);
        let both = [Way::Enumerate, Way::Descend].map(|way| (run(&[0], way) - row).abs());
        single = single.max(both[0]).max(both[1]);
        let begins: Vec<bool> = (0..343).map(|k| k % 4 == 0).collect();
        let blocks = partition(&table, &begins, 3);
        let all: Vec<usize> = blocks.iter().cloned().flatten().collect();
        let crosses = blocks.iter().filter(|block| block.start / 4 != (block.end - 1) / 4 || block.len() > 3);
        covered += crosses.count() as f64 + f64::from(u8::from(all != (0..343).collect::<Vec<_>>()));
    }
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check("the entropy of numbers alike in size is the logarithm of their count", alike, 1e-9),
        check("a joint search finds the least of all combinations", brute, 0.0),
        check("a block of one layer is the usual search", single, 0.0),
        check("a partition holds every layer once and crosses no block of the network", covered, 0.0),
    ])
}
