//! The names that look most like a wrong one.

/// The `n` names closest to `wanted` by edit distance, best first; ties in the order given.
///
/// Names that share less than half of their letters are left out.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>, n: usize) -> Vec<String> {
    let wanted: Vec<char> = wanted.chars().collect();
    let mut scored: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let letters: Vec<char> = name.chars().collect();
            let limit = wanted.len().max(letters.len()) / 2;
            if wanted.len().abs_diff(letters.len()) > limit {
                return None;
            }
            let distance = edit_distance(&wanted, &letters);
            (distance <= limit).then_some((distance, name))
        })
        .collect();
    scored.sort_by_key(|&(distance, _)| distance);
    scored.into_iter().take(n).map(|(_, name)| name.to_owned()).collect()
}

/// Smallest number of insertions, deletions and replacements that turn `a` into `b`.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let d =
            |a: &str, b: &str| edit_distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!(d("kitten", "sitting"), 3);
        assert_eq!(d("", "abc"), 3);
        assert_eq!(d("abc", "abc"), 0);
    }

    #[test]
    fn the_best_names_come_first_and_strangers_not_at_all() {
        let names = ["layers.0.q_proj.weight", "layers.0.k_proj.weight", "layers.0.q_proj.bias", "norm"];
        let found = nearest("layers.0.q_prj.weight", names.into_iter(), 2);
        assert_eq!(found, ["layers.0.q_proj.weight", "layers.0.k_proj.weight"]);
        assert!(nearest("zzzz", names.into_iter(), 2).is_empty());
    }
}
