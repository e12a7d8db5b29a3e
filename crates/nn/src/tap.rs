//! Taps: observers that see what flows through a site and keep statistics, never activations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::site::SiteMeta;

/// Rows that reach (or leave) a site in one call: tokens, or the im2col patches of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct TapRows<'a> {
    /// `[n, width]`, row-major.
    pub rows: &'a [f32],
    /// Channels of a row.
    pub width: usize,
    /// Weight of each row in squared-error terms (`[n]`); padding has weight 0. `None` means all ones.
    pub weights: Option<&'a [f64]>,
    /// Rows that follow one another of one group of a convolution's channels; after them comes the next group, and after the last
    /// the first of the next image.
    pub run: usize,
}

impl<'a> TapRows<'a> {
    /// Rows of sites without groups.
    pub fn new(rows: &'a [f32], width: usize, weights: Option<&'a [f64]>) -> Self {
        Self { rows, width, weights, run: rows.len() / width.max(1) }
    }
}

/// An observer of one site, attached for one run.
pub trait Tap: Send {
    /// Sees the rows that enter the site (after its input operations).
    fn input(&mut self, site: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String>;

    /// Sees the rows that leave the site. Called only where [`Tap::wants_output`] says so.
    fn output(&mut self, _site: &SiteMeta, _rows: TapRows<'_>) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Whether the output has to be brought to the host for this tap.
    fn wants_output(&self) -> bool {
        false
    }
}

/// A tap that the caller keeps a handle to, to read it after the run.
impl<T: Tap> Tap for Arc<Mutex<T>> {
    fn input(&mut self, site: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String> {
        self.lock().map_err(|_| "observer was poisoned by a panic".to_string())?.input(site, rows)
    }

    fn output(&mut self, site: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String> {
        self.lock().map_err(|_| "observer was poisoned by a panic".to_string())?.output(site, rows)
    }

    fn wants_output(&self) -> bool {
        self.lock().is_ok_and(|tap| tap.wants_output())
    }
}

/// The taps of one run, by site name.
#[derive(Default)]
pub struct TapSet {
    taps: BTreeMap<String, Vec<Box<dyn Tap>>>,
    /// Sites whose taps have not seen an input yet.
    waiting: BTreeSet<String>,
    error: Option<Error>,
}

impl TapSet {
    /// No taps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches `tap` to the site called `site`.
    pub fn attach(&mut self, site: impl Into<String>, tap: impl Tap + 'static) {
        let site = site.into();
        self.waiting.insert(site.clone());
        self.taps.entry(site).or_default().push(Box::new(tap));
    }

    /// Whether every tap has seen rows and none waits for an output.
    pub fn are_satisfied(&self) -> bool {
        self.waiting.is_empty() && !self.taps.values().flatten().any(|tap| tap.wants_output())
    }

    /// Whether anything observes this site.
    pub fn observes(&self, site: &str) -> bool {
        self.taps.contains_key(site)
    }

    /// Whether an observer of this site needs its output.
    pub fn wants_output(&self, site: &str) -> bool {
        self.taps.get(site).is_some_and(|taps| taps.iter().any(|tap| tap.wants_output()))
    }

    /// Shows the input rows of a site to its taps. The first error is kept for [`TapSet::finish`].
    pub fn input(&mut self, site: &SiteMeta, rows: TapRows<'_>) {
        self.waiting.remove(&site.name);
        self.show(site, |tap| tap.input(site, rows));
    }

    /// Shows the output rows of a site to its taps.
    pub fn output(&mut self, site: &SiteMeta, rows: TapRows<'_>) {
        self.show(site, |tap| tap.output(site, rows));
    }

    fn show(
        &mut self,
        site: &SiteMeta,
        mut see: impl FnMut(&mut Box<dyn Tap>) -> std::result::Result<(), String>,
    ) {
        for tap in self.taps.get_mut(&site.name).into_iter().flatten() {
            if let Err(message) = see(tap)
                && self.error.is_none()
            {
                self.error = Some(Error::Tap { site: site.name.clone(), message });
            }
        }
    }

    /// Ends the run: the first error that a tap met, if any.
    pub fn finish(&mut self) -> Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }
}
