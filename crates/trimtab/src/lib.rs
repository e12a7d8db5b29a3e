//! Trimtab fits a neural network to a budget: it observes what each layer can bear, prices every option, plans,
//! treats block by block, proves what that cost, and ships a file that other programs run.
//!
//! This crate is the facade over the floors below: the pipeline that the command line drives, and the names that a
//! program needs who wants it as a library.

pub mod activations;
pub mod apply;
pub mod bench;
pub mod branching;
pub mod calibration;
pub mod choice;
pub mod convert;
pub mod distil;
pub mod effort;
pub mod engine;
pub mod error;
pub mod evidence;
pub mod fit;
pub mod form;
pub mod inspect;
pub mod inventory;
pub mod judge;
pub mod measure;
pub mod memory;
pub mod monitor;
pub mod planning;
pub mod pricing;
pub mod quality;
pub mod quantizer;
pub mod report;
pub mod rewriting;
pub mod scheme;
mod source;
pub mod switching;
pub mod system;
pub mod training;
pub mod treating;
pub mod tune_bias;
mod without_data;

pub use error::{Error, Result};

/// The floors below, for programs that go deeper.
pub mod floors {
    pub use trimtab_calibrate as calibrate;
    pub use trimtab_eval as eval;
    pub use trimtab_exchange as exchange;
    pub use trimtab_io as io;
    pub use trimtab_math as math;
    pub use trimtab_mend as mend;
    pub use trimtab_models as models;
    pub use trimtab_nn as nn;
    pub use trimtab_plan as plan;
    pub use trimtab_quantize as quantize;
    pub use trimtab_rewrite as rewrite;
    pub use trimtab_sample as sample;
    pub use trimtab_train as train;
}
