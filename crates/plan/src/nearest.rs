//! "Did you mean": the names nearest to a mistyped one.

/// Edit distance (insert, delete, replace, each 1) in characters, by the two-row recurrence.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The `count` candidates nearest to `name`, best first; ties keep the order of the candidates.
pub(crate) fn nearest<'a>(name: &str, candidates: &[&'a str], count: usize) -> Vec<&'a str> {
    // Texts from outside may be of any length; the beginning is enough to judge by.
    let head = |s: &str| s.chars().take(200).collect::<String>().to_lowercase();
    let name = head(name);
    let mut scored: Vec<(usize, &str)> = candidates.iter().map(|c| (distance(&name, &head(c)), *c)).collect();
    scored.sort_by_key(|(score, _)| *score);
    scored.into_iter().take(count).map(|(_, c)| c).collect()
}

/// `; did you mean "…"?` if a candidate is close, else an empty text.
pub(crate) fn did_you_mean(name: &str, candidates: &[&str]) -> String {
    match nearest(name, candidates, 1).first() {
        // More than half of the characters wrong is a guess, not a correction.
        Some(best) if distance(name, best) * 2 <= name.chars().count().max(2) => {
            format!("; did you mean \"{best}\"?")
        }
        _ => String::new(),
    }
}

/// `"a", "b", "c"`.
pub(crate) fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_hand() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
        assert_eq!(distance("ab", "ba"), 2);
    }

    #[test]
    fn suggestions_are_close_or_absent() {
        let labels = ["int4 g64", "int8 g64", "int3 g32"];
        assert_eq!(did_you_mean("int4g64", &labels), "; did you mean \"int4 g64\"?");
        assert_eq!(did_you_mean("nothing alike", &labels), "");
        assert_eq!(did_you_mean("x", &[]), "");
        assert_eq!(nearest("int8", &labels, 2), ["int8 g64", "int4 g64"]);
    }
}
