//! Bisection on an ordering: how many sites, in a given order, can be treated before a real check fails.
//!
//! For conditions that are measured rather than added up, such as "the accuracy stays above 99%". Source:
//! Schaefer et al., arXiv:2306.04879 (sensitivity-ordered bisection). Measured conditions are not quite
//! monotone, so the next few counts after the bisection's answer are tried as well.

use crate::error::Error;

/// Settings of [`bisect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BisectOptions {
    /// Counts tried beyond the answer of the bisection, to step over a small dent; 2 as published.
    pub retries: usize,
}

impl Default for BisectOptions {
    fn default() -> Self {
        Self { retries: 2 }
    }
}

/// What [`bisect`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bisection {
    /// Largest feasible count met; `None` if not even zero is feasible.
    pub count: Option<usize>,
    /// Every check made, in order: count and outcome.
    pub checks: Vec<(usize, bool)>,
}

/// The largest `k` for which treating the first `k` entries of `order` is feasible.
///
/// `feasible` sees the prefix, and is taken to be monotone (once false, false for longer prefixes); at most
/// `log2(n) + 2 + retries` checks. The result is always a prefix that was seen to be feasible.
pub fn bisect<E, F>(order: &[usize], options: &BisectOptions, mut feasible: F) -> Result<Bisection, E>
where
    E: From<Error>,
    F: FnMut(&[usize]) -> Result<bool, E>,
{
    let mut checks = Vec::new();
    let mut check = |k: usize, checks: &mut Vec<(usize, bool)>| -> Result<bool, E> {
        let outcome = feasible(&order[..k])?;
        checks.push((k, outcome));
        Ok(outcome)
    };
    if !check(0, &mut checks)? {
        return Ok(Bisection { count: None, checks });
    }
    let (mut good, mut bad) = (0, order.len() + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if check(middle, &mut checks)? { good = middle } else { bad = middle }
    }
    // `bad = good + 1` has been checked (or is out of range): the retries start there and skip what is known.
    for k in good + 1..=(good + options.retries).min(order.len()) {
        let known = checks.iter().any(|(seen, _)| *seen == k);
        if !known && check(k, &mut checks)? {
            good = k;
        }
    }
    Ok(Bisection { count: Some(good), checks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: usize, retries: usize, feasible: impl Fn(usize) -> bool) -> Bisection {
        let order: Vec<usize> = (0..n).rev().collect();
        let check = |prefix: &[usize]| -> Result<bool, Error> {
            assert_eq!(prefix, &order[..prefix.len()]);
            Ok(feasible(prefix.len()))
        };
        bisect(&order, &BisectOptions { retries }, check).unwrap()
    }

    #[test]
    fn every_threshold_is_found_with_few_checks() {
        for n in 0..40 {
            for threshold in 0..=n {
                let found = run(n, 2, |k| k <= threshold);
                assert_eq!(found.count, Some(threshold));
                assert!(found.checks.len() <= (n + 1).ilog2() as usize + 4, "{n}: {:?}", found.checks);
            }
            assert_eq!(run(n, 2, |_| false).count, None);
        }
    }

    #[test]
    fn a_dent_is_stepped_over_only_with_retries() {
        let dented = |k: usize| k != 5 && k <= 6; // 5 fails, 6 holds
        let with = run(9, 2, dented);
        let without = run(9, 0, dented);
        assert_eq!(with.count, Some(6));
        assert_eq!(without.count, Some(4)); // the negative control: bisection alone stops before the dent
    }

    #[test]
    fn errors_of_the_check_pass_through() {
        let failed = bisect(&[1, 2], &BisectOptions::default(), |_| {
            Err::<bool, Error>(Error::Choice { problem: "no data".into() })
        });
        assert!(failed.is_err());
    }
}
