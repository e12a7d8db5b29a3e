//! The branches of a model as an adapter beside it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use trimtab_io::{AdapterModule, OutDir, adapter_files};
use trimtab_models::Model;
use trimtab_nn::{SiteKind, SiteMeta, StageSource, Task};

use crate::apply::OutputSettings;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::source;

/// An adapter that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrittenAdapter {
    /// The directory.
    pub output: PathBuf,
    /// Modules with a branch.
    pub modules: usize,
    /// The largest rank.
    pub rank: usize,
}

/// The branches of a model, ready to be written; looked at before anything is written.
pub(super) struct Branches {
    modules: Vec<AdapterModule>,
    transposed: bool,
}

impl Branches {
    /// Of all sites.
    ///
    /// # Errors
    /// A model without branches, and what PEFT has no form for.
    pub fn of(model: &Model) -> Result<Self> {
        let (mut modules, mut transposed) = (Vec::new(), false);
        for site in model.stages().iter().flat_map(|info| &info.sites) {
            let Some(branch) = source::branch(model, site)? else { continue };
            transposed |= site.transposed;
            modules.push(AdapterModule { name: site.name.clone(), kernel: kernel(site)?, branch });
        }
        if modules.is_empty() {
            let message = format!(
                "{} has no branches\nhint: trimtab apply --eora-rank 16 makes a model that has",
                model.checkpoint().path().display()
            );
            return Err(Error::Setting { what: "--adapter", message });
        }
        Ok(Self { modules, transposed })
    }

    /// Writes them; `base` is the model that they stand beside.
    pub fn write(&self, model: &Model, base: &Path, out: &Path, force: bool) -> Result<WrittenAdapter> {
        let task = match model.task() {
            Task::Language => Some("CAUSAL_LM"),
            Task::Encoder => Some("FEATURE_EXTRACTION"),
            Task::Pairs | Task::Images => None,
        };
        let base = base.display().to_string();
        let job = format!("adapter {} {base}", model.checkpoint().fingerprint());
        let dir = OutDir::create(out, &trimtab_io::sha256(job.as_bytes()), force)?;
        for (name, bytes) in adapter_files(&self.modules, &base, task, self.transposed)? {
            dir.put_file(name, &bytes)?;
        }
        let rank = self.modules.iter().map(|module| module.branch.rank()).max().unwrap_or(0);
        Ok(WrittenAdapter { output: dir.finish()?, modules: self.modules.len(), rank })
    }
}

/// Checks the place of an adapter.
pub(super) fn check_place(out: &Path, model: &Path, force: bool) -> Result<()> {
    if out == model {
        let message = "the adapter needs a directory of its own, not that of the model".into();
        return Err(Error::Setting { what: "--adapter", message });
    }
    OutputSettings { output: out.into(), form: Form::Packed, force }.check(0)
}

fn kernel(site: &SiteMeta) -> Result<Option<Vec<usize>>> {
    match &site.kind {
        SiteKind::Conv(geometry) | SiteKind::Conv1d(geometry) if geometry.groups > 1 => {
            let message = "PEFT has no adapter for a convolution with groups\nhint: convert without --adapter merges it";
            Err(Error::Site { site: site.name.clone(), message: message.into() })
        }
        SiteKind::Conv(_) | SiteKind::Conv1d(_) => Ok(Some(site.stored_shape()[1..].to_vec())),
        SiteKind::Linear | SiteKind::Embedding => Ok(None),
    }
}
