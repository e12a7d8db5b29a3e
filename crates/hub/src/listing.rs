//! What the hub says a repository holds.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::name::{HubName, is_commit};

/// A repository at one commit.
#[derive(Debug)]
pub struct Listing {
    pub commit: String,
    pub files: Vec<Listed>,
}

/// A file of a repository; length and hash are missing in the answers of some mirrors.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    pub size: Option<u64>,
    /// Its name in the cache: SHA-256 of a large file, git's hash of a small one.
    pub etag: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    #[serde(alias = "oid")]
    sha256: Option<String>,
    size: Option<u64>,
}

/// Where the listing of a repository is, with lengths and hashes.
pub fn address(endpoint: &str, name: &HubName) -> String {
    format!("{endpoint}/api/{}?blobs=true", name.repo().api_url())
}

/// Reads the answer from `url`.
pub fn parse(url: &str, answer: &[u8]) -> Result<Listing> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|e| Error::answer(url, format!("not the description of a repository: {e}")))?;
    if !is_commit(&answer.sha) {
        let found: String = answer.sha.chars().take(60).collect();
        return Err(Error::answer(
            url,
            format!("\"sha\" must be a commit of 40 hexadecimal digits, found {found:?}"),
        ));
    }
    let files = answer.siblings.into_iter().filter(|file| is_inside(&file.rfilename)).map(|file| {
        let large = file.lfs.as_ref();
        let etag = large.map_or(file.blob_id, |large| large.sha256.clone());
        Listed {
            name: file.rfilename,
            size: large.and_then(|large| large.size).or(file.size),
            etag: etag.filter(|etag| is_etag(etag)),
        }
    });
    Ok(Listing { commit: answer.sha, files: files.collect() })
}

/// Whether a name from the network can be that of a file in the cache.
pub fn is_etag(etag: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=128).contains(&etag.len()) && !etag.starts_with('.') && etag.bytes().all(legal)
}

/// Names that would lead out of the snapshot, or mean something else on another system, are not listed.
fn is_inside(name: &str) -> bool {
    let legal =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
    name.split('/').all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_hub() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text = format!(
            r#"{{"id":"o/n","sha":"{commit}","siblings":[
                {{"rfilename":"config.json","size":12,"blobId":"f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"}},
                {{"rfilename":"m.bin","size":3,"blobId":"aa","lfs":{{"sha256":"{sha256}","size":3,"pointerSize":9}}}},
                {{"rfilename":"plain"}}, {{"rfilename":"../out"}}, {{"rfilename":"/etc/passwd"}},
                {{"rfilename":"x","size":1,"blobId":"../../y"}}]}}"#
        );
        let listing = parse("u", text.as_bytes()).unwrap();
        assert_eq!(listing.commit, commit);
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "m.bin", "plain", "x"]);
        assert_eq!(listing.files[1].etag.as_deref(), Some(sha256));
        assert_eq!((listing.files[2].size, &listing.files[3].etag), (None, &None));
        assert!(
            parse("u", br#"{"sha":"../..","siblings":[]}"#)
                .unwrap_err()
                .to_string()
                .contains("40 hexadecimal")
        );
        assert!(parse("u", b"<html>").unwrap_err().to_string().contains("not the description"));
    }

    #[test]
    fn damaged_answers_are_refused_or_stay_inside_the_cache() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text = format!(
            r#"{{"id":"o/n","sha":"{commit}","siblings":[{{"rfilename":"a/c.json","size":12,"blobId":"f2ba8f84"}},
                {{"rfilename":"m.bin","size":3,"blobId":"aa","lfs":{{"sha256":"{sha256}","size":3}}}}]}}"#
        );
        trimtab_hostile::storm_of(text.as_bytes(), 1, |answer| {
            let Ok(listing) = parse("u", answer) else { return false };
            assert!(is_commit(&listing.commit));
            let inside = |name: &str| !name.starts_with('/') && name.split('/').all(|part| part != "..");
            assert!(listing.files.iter().all(|file| inside(&file.name)));
            assert!(
                listing.files.iter().all(|file| file.etag.as_deref().is_none_or(|etag| !etag.contains('/')))
            );
            true
        });
    }

    #[test]
    fn addresses() {
        let at = |name: &str| address("http://h", &HubName::parse(name).unwrap());
        assert_eq!(at("o/n"), "http://h/api/models/o/n/revision/main?blobs=true");
        assert_eq!(at("o/n@refs/pr/1"), "http://h/api/models/o/n/revision/refs%2Fpr%2F1?blobs=true");
    }
}
