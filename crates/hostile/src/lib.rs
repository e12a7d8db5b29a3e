//! For the tests of parsers: damaged inputs, and what a parser may cost.
//!
//! Whatever is wrong with a file, reading it must not panic, take longer than a second, or hold more than 1 GB.
//! [`storm`] makes inputs and holds a parser to that. A binary that links this crate allocates through its counting
//! allocator, so only tests may depend on it.

mod draws;
#[allow(unsafe_code)] // An allocator can be counted in no other way.
mod meter;
mod mutate;

pub use draws::Draws;
pub use meter::{Cost, Excess, Limits, cost};
pub use mutate::{change_text, mutate};

/// Inputs for each parser.
pub const INPUTS: usize = 10_000;

/// Makes `count` inputs and parses each within [`Limits::INPUT`]; returns how many `parse` took.
///
/// # Panics
/// If `parse` panics, or an input costs more than that.
pub fn storm<I>(
    count: usize,
    seed: u64,
    make: impl Fn(&mut Draws) -> I,
    parse: impl Fn(&I) -> bool,
) -> usize {
    let mut draws = Draws(seed);
    let mut taken = 0;
    for number in 0..count {
        let input = make(&mut draws);
        match Limits::INPUT.hold(|| parse(&input)) {
            Ok(accepted) => taken += usize::from(accepted),
            Err(excess) => panic!("input {number} of seed {seed}: {excess}"),
        }
    }
    taken
}

/// A [`storm`] of changed versions of one sound text or file. Both outcomes have to occur, or the test would say nothing:
/// if every input were refused at the door, or none damaged.
///
/// # Panics
/// As [`storm`], and if all inputs are taken or refused, or the whole is refused.
pub fn storm_of(whole: &[u8], seed: u64, parse: impl Fn(&[u8]) -> bool) {
    assert!(parse(whole), "the undamaged input is refused");
    let damage = |draws: &mut Draws| match draws.below(8) {
        0 => whole[..draws.below(whole.len())].to_vec(),
        _ => mutate(whole, draws),
    };
    let taken = storm(INPUTS, seed, damage, |input| parse(input));
    assert!((1..INPUTS).contains(&taken), "{taken} of {INPUTS} taken");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "input 3 of seed 1: 1100000000 bytes are held at once")]
    fn a_parser_that_believes_a_length_is_caught() {
        let lengths = |draws: &mut Draws| {
            draws.below(2);
            1usize
        };
        let calls = std::cell::Cell::new(0);
        // Never touched, so this costs no memory but what is asked for.
        storm(10, 1, lengths, |_| {
            calls.set(calls.get() + 1);
            let length = if calls.get() == 4 { 1_100_000_000 } else { 1000 };
            Vec::<u8>::with_capacity(length).capacity() > 0
        });
    }

    #[test]
    #[should_panic(expected = "all")]
    fn a_parser_that_panics_is_caught() {
        storm(1, 1, |_| (), |()| panic!("all"));
    }

    #[test]
    #[should_panic(expected = "10000 of 10000 taken")]
    fn a_storm_without_damage_is_no_test() {
        storm_of(b"text", 1, |_| true);
    }
}
