//! Pairs of sentences with a score, as in the STS benchmark.

use std::path::Path;

use crate::error::{Error, Result};

/// Two sentences and how alike people find them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// One sentence.
    pub first: String,
    /// The other.
    pub second: String,
    /// Human judgement; 0 to 5 in the STS benchmark.
    pub score: f64,
}

/// Reads a csv file of rows `sentence,sentence,score`, quoted where needed. A first row whose third field is no number is
/// a heading.
///
/// # Errors
/// [`Error::Row`] with the line of a row that has another form; [`Error::Malformed`] if there is no pair at all;
/// [`Error::Io`].
pub fn read_pairs(path: impl AsRef<Path>) -> Result<Vec<Pair>> {
    let path = path.as_ref();
    let file = crate::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
    let mut pairs = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|e| {
            let line = e.position().map_or(0, csv::Position::line);
            Error::Row { path: path.into(), line, message: e.to_string() }
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |message: String| Error::Row { path: path.into(), line, message };
        if record.len() != 3 {
            return Err(wrong(format!("expected sentence,sentence,score, found {} fields", record.len())));
        }
        match record[2].trim().parse::<f64>() {
            Ok(score) if score.is_finite() => {
                pairs.push(Pair { first: record[0].into(), second: record[1].into(), score });
            }
            _ if index == 0 => {}
            _ => return Err(wrong(format!("the third field must be a number, found \"{}\"", &record[2]))),
        }
    }
    if pairs.is_empty() {
        return Err(Error::malformed(
            &path.display().to_string(),
            "no pairs: expected rows of sentence,sentence,score",
        ));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Pair>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.csv");
        std::fs::write(&path, text).unwrap();
        read_pairs(&path)
    }

    #[test]
    fn quotes_and_headings() {
        let pairs = read("sentence1,sentence2,score\n\"a, b\",c,2.5\nd,\"e \"\"f\"\"\",0\n").unwrap();
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[0], Pair { first: "a, b".into(), second: "c".into(), score: 2.5 });
        assert_eq!(pairs[1].second, "e \"f\"");
        assert_eq!(read("a,b,1\n").unwrap().len(), 1);
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        assert!(matches!(read("a,b,1\nc,d\n"), Err(Error::Row { line: 2, .. })));
        assert!(matches!(read("a,b,1\nc,d,much\n"), Err(Error::Row { line: 2, .. })));
        assert!(matches!(read("a,b,1\nc,d,nan\n"), Err(Error::Row { line: 2, .. })));
        assert!(matches!(read("x,y,z\n"), Err(Error::Malformed { .. })));
    }
}
