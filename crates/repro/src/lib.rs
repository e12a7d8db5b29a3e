//! The papers behind Trimtab and what became of their claims here.
//!
//! Ninety-nine papers stand in [`papers`], one table a family. An [`Experiment`] checks one of them: exact identities in
//! seconds, and the claimed effect at a scale that fits a laptop. [`registry`] joins the two into one row a paper, which
//! `trimtab reproduce --list` prints and [`docs`] renders to `docs/papers.md`.
//!
//! A new experiment is one file in `experiments` that implements [`Experiment`] and one line in [`registry::EXPERIMENTS`].

pub mod docs;
pub mod error;
pub mod experiment;
mod experiments;
pub mod lab;
pub mod papers;
pub mod registry;
pub mod report;

pub use error::{Error, Result};
pub use experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
pub use lab::Lab;
pub use papers::{Family, Paper};
pub use registry::Row;
pub use report::Reproduction;
