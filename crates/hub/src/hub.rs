//! From a name to a directory with a model.

use std::path::PathBuf;

use trimtab_io::fs;

use crate::cache::{RepoCache, shards};
use crate::error::{Error, Result};
use crate::listing::{self, Listed, Listing};
use crate::name::{HubName, is_commit};
use crate::select::{self, Weights};
use crate::settings::Settings;
use crate::transfer::{Client, Wanted, length};

/// End of the names of files that are not whole yet.
const INCOMPLETE: &str = "incomplete";

/// A hub and its cache.
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The directory, which `trimtab_io::Checkpoint::open` takes. Its files are links into the cache.
    pub dir: PathBuf,
    /// The commit that the revision stands for.
    pub commit: String,
    /// Bytes of files that had to be downloaded.
    pub downloaded: u64,
    /// Why the hub could not be asked, where the cache had to do: the model may be older than the hub's.
    pub unreachable: Option<String>,
}

/// How far a download is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file that comes in.
    pub file: &'a str,
    /// Bytes of all files so far, with those that were there before.
    pub done: u64,
    /// Bytes of all files that are known to be needed; grows once when an index was read.
    pub total: u64,
}

/// A file whose length and hash are known.
struct Planned {
    name: String,
    size: u64,
    etag: String,
}

impl Hub {
    /// A hub with these settings.
    pub fn new(settings: Settings) -> Self {
        let client = Client::new(&settings);
        Self { settings, client }
    }

    /// The hub of this process's environment ([`Settings::from_env`]).
    pub fn from_env() -> Self {
        Self::new(Settings::from_env())
    }

    /// The directory with what a model needs: configuration, tokenizer and weights (safetensors, else PyTorch, else
    /// GGUF). What is missing is downloaded; `progress` hears of it.
    ///
    /// A commit that is complete in the cache is not asked for again. If the hub cannot be reached, or may not be asked,
    /// the cache has to do. Files are checked against the hash that the hub lists before they enter the cache; a transfer
    /// that was cut goes on where it stopped, in this run or a later one.
    ///
    /// # Errors
    /// [`Error::NotCached`], [`Error::Unreachable`], [`Error::Status`] (unknown, private or gated), [`Error::Cut`],
    /// [`Error::WrongLength`], [`Error::WrongContent`], [`Error::NoModel`], [`Error::Answer`], and errors of the disk.
    pub fn fetch(&self, name: &HubName, progress: &mut dyn FnMut(Progress)) -> Result<Snapshot> {
        let cache = RepoCache::new(&self.settings.cache, name);
        let cached = || {
            cache.complete().map(|(commit, dir)| Snapshot { dir, commit, downloaded: 0, unreachable: None })
        };
        if self.settings.offline || is_commit(name.revision()) {
            match cached() {
                Ok(snapshot) => return Ok(snapshot),
                Err(missing) if self.settings.offline => return Err(self.not_cached(name, missing)),
                Err(_) => {}
            }
        }
        let url = listing::address(&self.settings.endpoint, name);
        let listing = match self.client.answer(&url).and_then(|answer| listing::parse(&url, &answer)) {
            Ok(listing) => listing,
            Err(error @ Error::Unreachable { .. }) => {
                let unreachable = Some(error.to_string());
                return cached().map(|snapshot| Snapshot { unreachable, ..snapshot }).map_err(|_| error);
            }
            Err(error) => return Err(error),
        };
        let downloaded = self.download(name, &cache, &listing, progress)?;
        cache.set_commit(&listing.commit)?;
        let dir = cache.snapshot(&listing.commit);
        Ok(Snapshot { dir, commit: listing.commit, downloaded, unreachable: None })
    }

    fn not_cached(&self, name: &HubName, missing: String) -> Error {
        let hint = "run once without HF_HUB_OFFLINE, or pass the path of a local directory".into();
        Error::NotCached { name: name.to_string(), cache: self.settings.cache.clone(), missing, hint }
    }

    fn download(
        &self,
        name: &HubName,
        cache: &RepoCache,
        listing: &Listing,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64> {
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        let mut wanted = select::side(&names);
        let weights = select::weights(name, &names)?;
        cache.create(&listing.commit)?;
        let index = match weights {
            Weights::Files(files) => {
                wanted.extend(files);
                None
            }
            Weights::Index(index) => {
                wanted.push(index.clone());
                Some(index)
            }
        };
        let mut tally = Tally { done: 0, total: 0, downloaded: 0 };
        self.files(name, cache, listing, &wanted, &mut tally, progress)?;
        if let Some(index) = index {
            let path = cache.snapshot(&listing.commit).join(&index);
            self.files(name, cache, listing, &shards(&path)?, &mut tally, progress)?;
        }
        Ok(tally.downloaded)
    }

    /// Brings files into the snapshot.
    fn files(
        &self,
        name: &HubName,
        cache: &RepoCache,
        listing: &Listing,
        wanted: &[String],
        tally: &mut Tally,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let find = |file: &String| {
            let listed = listing.files.iter().find(|listed| listed.name == *file);
            let listed = listed.ok_or_else(|| Error::NoModel {
                name: name.to_string(),
                message: format!("the index names {file:?}, which the repository does not hold"),
                hint: "the repository is broken; choose another revision",
            })?;
            self.plan(name, &listing.commit, listed)
        };
        let planned: Vec<Planned> = wanted.iter().map(find).collect::<Result<_>>()?;
        let blob = |file: &Planned| cache.blob(&file.etag);
        let is_there = |file: &Planned| {
            blob(file).metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size)
        };
        let part = |file: &Planned| blob(file).with_added_extension(INCOMPLETE);
        let missing = planned.iter().filter(|file| !is_there(file));
        let needed = missing.map(|file| file.size.saturating_sub(length(&part(file)))).sum();
        trimtab_io::ensure_space(&cache.snapshot(&listing.commit), needed)?;
        tally.total += planned.iter().map(|file| file.size).sum::<u64>();
        for file in &planned {
            if !is_there(file) {
                let _lock = cache.lock(&file.etag)?;
                // Another process may have brought it while this one waited.
                if !is_there(file) {
                    let (url, part) = (self.address(name, &listing.commit, &file.name), part(file));
                    let before = tally.done;
                    let mut on = |done: u64| {
                        progress(Progress { file: &file.name, done: before + done, total: tally.total });
                    };
                    let wanted = Wanted { url: &url, part: &part, size: file.size, etag: &file.etag };
                    self.client.download(&wanted, &mut on)?;
                    let blob = blob(file);
                    fs::rename(&part, &blob).map_err(|e| Error::io("rename", &part, e))?;
                    let blobs = blob.parent().unwrap_or(&blob);
                    fs::sync_dir(blobs).map_err(|e| Error::io("sync", blobs, e))?;
                    tally.downloaded += file.size;
                }
            }
            tally.done += file.size;
            cache.link(&listing.commit, &file.name, &file.etag)?;
            progress(Progress { file: &file.name, done: tally.done, total: tally.total });
        }
        Ok(())
    }

    /// Length and hash of a file: from the listing, or, where a mirror lists neither, from the headers of the file.
    fn plan(&self, name: &HubName, commit: &str, listed: &Listed) -> Result<Planned> {
        let file = listed.name.clone();
        if let (Some(size), Some(etag)) = (listed.size, listed.etag.clone()) {
            return Ok(Planned { name: file, size, etag });
        }
        let url = self.address(name, commit, &file);
        let api = hf_hub::api::sync::ApiBuilder::from_cache(hf_hub::Cache::new(self.settings.cache.clone()))
            .with_endpoint(self.settings.endpoint.clone())
            .with_token(self.settings.token.clone())
            .with_progress(false)
            .build();
        let metadata = api.and_then(|api| api.metadata(&url));
        let metadata = metadata.map_err(|e| {
            Error::answer(&url, format!("length and hash of the file are not to be had: {e}"))
        })?;
        let etag = metadata.etag().trim_start_matches("W/").to_owned();
        if !listing::is_etag(&etag) {
            return Err(Error::answer(&url, "the ETag of the file cannot be the name of a file"));
        }
        Ok(Planned { name: file, size: metadata.size() as u64, etag })
    }

    /// Where a file lies.
    fn address(&self, name: &HubName, commit: &str, file: &str) -> String {
        let endpoint = &self.settings.endpoint;
        format!("{endpoint}/{}/resolve/{commit}/{}", name.repository(), escape(file))
    }
}

/// Sums over the files of a model.
struct Tally {
    done: u64,
    total: u64,
    downloaded: u64,
}

/// Percent-encodes what may not stand in the path of an address.
fn escape(file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    file.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(escape("a b/ü#?.json"), "a%20b/%C3%BC%23%3F.json");
        assert_eq!(escape("model-00001-of-00002.safetensors"), "model-00001-of-00002.safetensors");
    }
}
