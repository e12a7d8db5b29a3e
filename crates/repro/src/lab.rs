//! What an experiment is given: data, and somebody to tell.

use std::path::{Path, PathBuf};

use trimtab::floors::io::ImageSet;

use crate::error::{Error, Result};

/// The surroundings of an experiment.
pub struct Lab<'a> {
    data: Option<PathBuf>,
    tell: &'a (dyn Fn(&str) + Sync),
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Lab<'a> {
    /// A lab with a folder of data, if there is one. `tell` hears of the progress, `stop` says whether to give up.
    pub fn new(
        data: Option<&Path>,
        tell: &'a (dyn Fn(&str) + Sync),
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self { data: data.map(Path::to_path_buf), tell, stop }
    }

    /// Says how far the experiment is.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it should end.
    pub fn tell(&self, what: &str) -> Result<()> {
        (self.tell)(what);
        if self.stops() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Whether to give up, for loops that have nothing to tell.
    #[must_use]
    pub fn stops(&self) -> bool {
        (self.stop)()
    }

    /// A file of the folder.
    ///
    /// # Errors
    /// [`Error::NoData`] without a folder.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let folder = self.data.as_ref().ok_or_else(|| Error::NoData { what: format!("\"{name}\"") })?;
        Ok(folder.join(name))
    }

    /// Labelled images, both splits, for the experiment of this paper.
    ///
    /// # Errors
    /// Those of [`Lab::file`], and a file that cannot be read.
    pub fn images(
        &self,
        name: &str,
        failed: impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error,
    ) -> Result<[ImageSet; 2]> {
        let file = self.file(name)?;
        let split = |split: &str| ImageSet::read(&file, split).map_err(|error| failed(Box::new(error)));
        Ok([split("train")?, split("test")?])
    }
}
