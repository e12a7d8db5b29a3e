//! The papers: one table a family, each in its own file.

mod adapt;
mod codec;
mod generate_and_audio;
mod merge_and_unlearn;
mod normalize_and_blocks;
mod quantize;
mod restore;
mod sparsify;
mod supernet;
mod train;

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};

/// A paper and what it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paper {
    /// Number in this project, 1 to 99.
    pub number: u8,
    /// Short name in kebab case, as the command line takes it.
    pub name: &'static str,
    /// Full title.
    pub title: &'static str,
    /// Where and when it appeared, with its arXiv identifier.
    pub venue: &'static str,
    /// The family that its method belongs to.
    pub family: Family,
    /// What it claims, in one sentence: the paper's claim, not a finding of this project.
    pub claim: &'static str,
}

/// A family of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Parameter-efficient fine-tuning and composition of adapters.
    Adapt,
    /// Signals and weights as bit streams.
    Codec,
    /// Image generators and audio models.
    GenerateAndAudio,
    /// Merging, unlearning, adaptation at test time, robustness audits.
    MergeAndUnlearn,
    /// Normalization layers and efficient blocks.
    NormalizeAndBlocks,
    /// Low-bit weights and activations.
    Quantize,
    /// Image restoration and super-resolution.
    Restore,
    /// Pruning, low rank, skipping, early exit.
    Sparsify,
    /// Weight-sharing super-networks and their search.
    Supernet,
    /// Optimizers, batches, gradient exchange, losses, data.
    Train,
}

impl Family {
    /// Every family, in alphabetical order.
    pub const ALL: [Self; 10] = [
        Self::Adapt,
        Self::Codec,
        Self::GenerateAndAudio,
        Self::MergeAndUnlearn,
        Self::NormalizeAndBlocks,
        Self::Quantize,
        Self::Restore,
        Self::Sparsify,
        Self::Supernet,
        Self::Train,
    ];

    /// Name in snake case, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adapt => "adapt",
            Self::Codec => "codec",
            Self::GenerateAndAudio => "generate_and_audio",
            Self::MergeAndUnlearn => "merge_and_unlearn",
            Self::NormalizeAndBlocks => "normalize_and_blocks",
            Self::Quantize => "quantize",
            Self::Restore => "restore",
            Self::Sparsify => "sparsify",
            Self::Supernet => "supernet",
            Self::Train => "train",
        }
    }

    /// The papers of this family, by number.
    #[must_use]
    pub const fn papers(self) -> &'static [Paper] {
        match self {
            Self::Adapt => adapt::PAPERS,
            Self::Codec => codec::PAPERS,
            Self::GenerateAndAudio => generate_and_audio::PAPERS,
            Self::MergeAndUnlearn => merge_and_unlearn::PAPERS,
            Self::NormalizeAndBlocks => normalize_and_blocks::PAPERS,
            Self::Quantize => quantize::PAPERS,
            Self::Restore => restore::PAPERS,
            Self::Sparsify => sparsify::PAPERS,
            Self::Supernet => supernet::PAPERS,
            Self::Train => train::PAPERS,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Every paper, by number.
#[must_use]
pub fn all() -> Vec<&'static Paper> {
    let mut papers: Vec<_> = Family::ALL.iter().flat_map(|family| family.papers()).collect();
    papers.sort_by_key(|paper| paper.number);
    papers
}

/// The paper of this number or short name.
///
/// # Errors
/// [`Error::UnknownPaper`] when there is none.
pub fn find(asked: &str) -> Result<&'static Paper> {
    let number = asked.parse::<u8>().ok();
    all()
        .into_iter()
        .find(|paper| Some(paper.number) == number || paper.name == asked)
        .ok_or_else(|| Error::UnknownPaper { asked: asked.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_run_from_1_to_99_without_gap() {
        let numbers: Vec<u8> = all().iter().map(|paper| paper.number).collect();
        assert_eq!(numbers, (1..=99).collect::<Vec<u8>>());
    }

    #[test]
    fn each_table_holds_its_own_family_by_number() {
        for family in Family::ALL {
            assert!(family.papers().iter().all(|paper| paper.family == family), "{family}");
            assert!(family.papers().is_sorted_by(|a, b| a.number < b.number), "{family}");
            assert_eq!(serde_json::to_string(&family).unwrap(), format!("\"{family}\""));
        }
    }

    #[test]
    fn names_are_distinct_kebab_case() {
        let names: HashSet<_> = all().iter().map(|paper| paper.name).collect();
        assert_eq!(names.len(), 99);
        for name in names {
            assert!(is_kebab_case(name), "{name}");
            assert!(Family::ALL.iter().all(|family| family.name() != name), "{name} is a family");
        }
        for bad in ["", "EoRA", "-eora", "lora--lego", "lora_lego"] {
            assert!(!is_kebab_case(bad), "{bad:?}");
        }
    }

    /// Lower-case words and digits joined by single hyphens, a letter first.
    fn is_kebab_case(name: &str) -> bool {
        let word = |w: &str| {
            !w.is_empty() && w.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        name.starts_with(|first: char| first.is_ascii_lowercase()) && name.split('-').all(word)
    }

    #[test]
    fn texts_are_whole() {
        for paper in all() {
            let Paper { title, venue, claim, name, .. } = *paper;
            assert_eq!(title.trim(), title, "{name}");
            assert!(!title.is_empty() && !title.ends_with('.'), "{name}");
            assert!(arxiv(venue).is_some(), "{name}: {venue}");
            let one_sentence = claim.ends_with('.') && !claim.contains(". ");
            assert!(one_sentence && claim.starts_with(char::is_uppercase), "{name}: {claim}");
            for text in [title, venue, claim] {
                assert!(!text.contains("  ") && !text.contains('\n'), "{name}: {text}");
            }
        }
        assert_eq!(arxiv("ICLR 2024, arXiv:2310.0255"), None);
        assert_eq!(arxiv("arXiv:2310.02556"), None, "no year");
    }

    #[test]
    fn no_two_papers_share_an_arxiv_identifier() {
        let identifiers: HashSet<_> = all().iter().filter_map(|paper| arxiv(paper.venue)).collect();
        assert_eq!(identifiers.len(), 99);
    }

    /// The identifier `YYMM.NNNNN` in a venue that names a year beside it.
    fn arxiv(venue: &str) -> Option<&str> {
        let (before, rest) = venue.split_once("arXiv:")?;
        let identifier = rest.get(..10)?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let (month, serial) = identifier.split_once('.')?;
        let year = |text: &str| {
            text.split(|c: char| !c.is_ascii_digit()).any(|word| word.len() == 4 && digits(word))
        };
        let whole = month.len() == 4 && digits(month) && digits(serial);
        (whole && (year(before) || year(&rest[10..]))).then_some(identifier)
    }

    #[test]
    fn find_takes_a_name_or_a_number() {
        assert_eq!(find("eora").unwrap().number, 87);
        assert_eq!(find("87").unwrap().name, "eora");
        for asked in ["eroa", "0", "100", "256", "", "EoRA"] {
            let message = find(asked).unwrap_err().to_string();
            assert!(message.contains(&format!("{asked:?}")), "{message}");
        }
    }
}
