//! Ranges of settings. Every message begins with the name of the field.

use crate::error::{Error, Result};

/// Longest side of an image, in pixels.
pub(in crate::data) const LONGEST_SIDE: usize = 16_384;

fn check(field: &str, sound: bool, message: impl FnOnce() -> String) -> Result<()> {
    if sound { Ok(()) } else { Err(Error::invalid(field, message())) }
}

/// A probability.
pub(super) fn probability(field: &str, p: f64) -> Result<()> {
    check(field, (0.0..=1.0).contains(&p), || format!("expected [0, 1], found {p}"))
}

/// A finite number from 0.
pub(super) fn strength(field: &str, value: f64) -> Result<()> {
    check(field, value >= 0.0 && value.is_finite(), || format!("expected a number from 0, found {value}"))
}

/// A finite number above 0.
pub(super) fn positive(field: &str, value: f64) -> Result<()> {
    check(field, value > 0.0 && value.is_finite(), || format!("expected a positive number, found {value}"))
}

/// Least and greatest of a positive range.
pub(super) fn ascending(field: &str, [low, high]: [f64; 2]) -> Result<()> {
    let sound = 0.0 < low && low <= high && high.is_finite();
    check(field, sound, || format!("expected positive numbers, ascending, found [{low:?}, {high:?}]"))
}

/// A side, in pixels, or another count that may not run away.
pub(super) fn side(field: &str, side: usize) -> Result<()> {
    let sound = (1..=LONGEST_SIDE).contains(&side);
    check(field, sound, || format!("expected 1 to {LONGEST_SIDE}, found {side}"))
}

/// `[height, width]`.
pub(in crate::data) fn sides(field: &str, sides: [usize; 2]) -> Result<()> {
    sides.into_iter().try_for_each(|n| side(field, n))
}
