//! Names of repositories, and how they differ from paths.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest `owner/name`; the hub has the same limit.
const MAX_LEN: usize = 96;

/// `owner/name`, at a revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    repository: String,
    revision: String,
}

/// What a text that is to be opened means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file or directory, which need not exist.
    Path(PathBuf),
    /// A repository.
    Hub(HubName),
}

/// What `text` means: a path if something is there, or if its folder is (a mistyped file is not asked for on a network);
/// else a repository if it looks like one, else a path.
pub fn locate(text: &str) -> Location {
    let path = Path::new(text);
    let is_here = path.exists() || path.parent().is_some_and(Path::is_dir);
    match HubName::parse(text) {
        Some(name) if !is_here => Location::Hub(name),
        _ => Location::Path(path.into()),
    }
}

impl HubName {
    /// Reads `owner/name` or `owner/name@revision`; `None` if `text` is neither.
    ///
    /// There is exactly one slash before the `@`. Owner and name are letters, digits, `-`, `_` and `.`; neither begins or
    /// ends with `-` or `.`, and there is no `--` or `..`, as on the hub. A revision may have slashes (`refs/pr/1`), but no
    /// part of it may be empty or begin with a dot. The revision is `main` by default.
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = repository.split_once('/')?;
        let legal = repository.len() <= MAX_LEN && is_part(owner) && is_part(name) && !name.ends_with(".git");
        let known = revision.len() <= 255 && revision.split('/').all(is_step);
        (legal && known).then(|| Self { repository: repository.into(), revision: revision.into() })
    }

    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    pub(crate) fn repo(&self) -> hf_hub::Repo {
        let (repository, revision) = (self.repository.clone(), self.revision.clone());
        hf_hub::Repo::with_revision(repository, hf_hub::RepoType::Model, revision)
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

fn is_part(part: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| !b"-.".contains(&byte));
    let edges = edge(part.bytes().next()) && edge(part.bytes().last());
    edges && part.bytes().all(is_letter) && !part.contains("--") && !part.contains("..")
}

fn is_step(step: &str) -> bool {
    !step.is_empty() && !step.starts_with('.') && step.bytes().all(|byte| is_letter(byte) || byte == b'+')
}

/// Whether this is a full commit hash, which never changes its meaning.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for good in ["Qwen/Qwen2.5-0.5B", "a/b", "TinyLlama/TinyLlama-1.1B_v0.1", "o/n@v1.0", "o/n@refs/pr/1"]
        {
            let name = HubName::parse(good).unwrap();
            assert_eq!(name.to_string(), good);
        }
        let bad = [
            "", "gpt2", "/a/b", "a/b/c", "./a/b", "../a", "~/a", "a/", "/a", "a//b", "a/.b", "a/b.", "-a/b",
            "a/b--c", "a/b..c", "a/b c", "a\\b", "C:/a", "ä/b", "a/b.git", "a/b@", "a/b@../x", "a/b@x//y",
            "a/b@.x", "@pico", "a/b@x y", "a/b?c", "a/b%2f",
        ];
        for bad in bad {
            assert_eq!(HubName::parse(bad), None, "{bad}");
        }
        assert_eq!(HubName::parse(&format!("a/{}", "b".repeat(95))), None);
        assert_eq!(HubName::parse("a/b").unwrap().revision(), "main");
    }

    #[test]
    fn what_exists_is_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        assert_eq!(locate(text), Location::Path(dir.path().into()));
        assert!(matches!(locate("no-such-owner/no-such-name"), Location::Hub(_)));
        assert!(matches!(locate("no/such/path"), Location::Path(_)));
        // Relative to the crate, where tests run.
        assert_eq!(locate("src/lib.rs"), Location::Path("src/lib.rs".into()));
        assert_eq!(locate("src/lbi.rs"), Location::Path("src/lbi.rs".into()));
        assert!(HubName::parse("src/lib.rs").is_some(), "it would be a legal name");
    }
}
