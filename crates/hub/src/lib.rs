//! Models by their name on a Hugging Face hub: `owner/name` or `owner/name@revision` to a local directory.
//!
//! The cache is that of `huggingface_hub`: content in `blobs`, one folder of links a commit in `snapshots`, branches in
//! `refs`; what one program downloaded the other finds. The names and places of repositories and files come from the
//! `hf-hub` crate. Transfers are made here, because `hf-hub` checks neither lengths nor hashes, appends the whole file
//! to a partial one when a server ignores the range it asked for, has no time limits and knows nothing of
//! `HF_HUB_OFFLINE` and `HF_HUB_CACHE`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`HubName`], [`locate`] | when a text names a repository, and when a path |
//! | [`Settings`] | `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` |
//! | [`Hub`] | downloading what a model needs |

mod cache;
mod check;
mod error;
mod hub;
mod listing;
mod name;
mod select;
mod settings;
mod transfer;

pub use error::{Error, Result};
pub use hub::{Hub, Progress, Snapshot};
pub use name::{HubName, Location, locate};
pub use settings::Settings;
