//! Where the hub and its cache are, as the environment says.

use std::path::PathBuf;
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";

/// Where the hub and its cache are, and how patient transfers are.
#[derive(Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Sent to the hub, and to no other host that it redirects to.
    pub token: Option<String>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// How often a transfer that was cut is taken up again without having gone on.
    pub retries: u32,
    /// Wait before the first of them; doubled each time, up to 10 seconds.
    pub backoff: Duration,
    /// Longest silence of the hub.
    pub timeout: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        let token = self.token.as_ref().map(|_| "(set)");
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &token)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The settings of this process; empty variables count as not set.
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `HF_ENDPOINT` | another hub or mirror |
    /// | `HF_HUB_CACHE` | the cache; else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub` |
    /// | `HF_TOKEN` | the token; else the content of `HF_TOKEN_PATH`, else of `token` beside the cache |
    /// | `HF_HUB_OFFLINE` | `1`, `true`, `yes` or `on`: nothing is asked of the network |
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The same, of variables that `get` looks up.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let get =
            |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let home = path("HF_HOME").or_else(|| path("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")));
        // As the crate finds it, but without its panic where there is no home directory.
        let user = || std::env::home_dir().unwrap_or_default().join(".cache").join("huggingface");
        let home = home.unwrap_or_else(user);
        let cache = path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let from_file = || std::fs::read_to_string(token_file).ok().map(|text| text.trim().to_owned());
        let token = get("HF_TOKEN").or_else(from_file);
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let is_on = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
        Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache,
            // A token with a line break would be another header.
            token: token
                .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())),
            offline: get("HF_HUB_OFFLINE").is_some_and(is_on),
            retries: 5,
            backoff: Duration::from_millis(500),
            timeout: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Settings::from_variables(find)
    }

    #[test]
    fn the_order_of_the_variables() {
        assert_eq!(settings(&[("HF_HOME", "/h")]).cache, PathBuf::from("/h/hub"));
        assert_eq!(settings(&[("XDG_CACHE_HOME", "/x")]).cache, PathBuf::from("/x/huggingface/hub"));
        let all =
            [("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c"), ("HF_ENDPOINT", "http://m/"), ("HF_TOKEN", " t ")];
        let found = settings(&all);
        assert_eq!((found.cache, found.endpoint.as_str()), ("/c".into(), "http://m"));
        assert_eq!(found.token.as_deref(), Some("t"));
        assert!(!found.offline);
        let plain = settings(&[("HF_HOME", "/h"), ("HF_ENDPOINT", "")]);
        assert_eq!((plain.endpoint.as_str(), plain.token), (ENDPOINT, None));
        for (value, offline) in
            [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false), ("no", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn tokens_come_from_files_and_stay_secret() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_secret\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let found = settings(&[("HF_HOME", home)]);
        assert_eq!(found.token.as_deref(), Some("hf_secret"));
        assert!(!format!("{found:?}").contains("hf_secret"));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", "other")]).token.as_deref(), Some("other"));
        assert_eq!(settings(&[("HF_TOKEN", "a\nX-Header: b"), ("HF_HOME", "/none")]).token, None);
    }
}
