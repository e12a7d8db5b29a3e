//! What sites of a stage give: for searches that compare a stage with what it is to be like, candidate after candidate.

use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use trimtab_nn::{Ctx, Flow, SiteMeta, Stage, Tap, TapRows, TapSet};

use crate::batch::Batch;
use crate::error::Result;

/// Rows that left a site in one batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// `[n, width]`, row-major; empty where none reached the site.
    pub rows: Vec<f32>,
    /// Channels of a row.
    pub width: usize,
    /// Weight of each row; padding has weight 0. `None`: all ones.
    pub weights: Option<Vec<f64>>,
}

/// What each of `sites` gives in each of `inputs`, as far as the stage has to be run for that: `[batch][site]`. Batches run at once.
///
/// # Errors
/// A stage that fails.
pub fn outputs(stage: &dyn Stage, inputs: &[(Flow, Batch)], sites: &[&str]) -> Result<Vec<Vec<Output>>> {
    let run = |(flow, batch): &(Flow, Batch)| -> Result<Vec<Output>> {
        let records: Vec<_> = sites.iter().map(|_| Arc::new(Mutex::new(Record::default()))).collect();
        let mut taps = TapSet::new();
        for (site, record) in sites.iter().zip(&records) {
            taps.attach(*site, Arc::clone(record));
        }
        let mut ctx = Ctx { taps: Some(&mut taps), taps_only: true, ..batch.ctx() };
        stage.forward(flow.clone(), &mut ctx)?;
        taps.finish()?;
        let take = |record: Arc<Mutex<Record>>| {
            std::mem::take(&mut record.lock().expect("no tap panics").seen).unwrap_or_default()
        };
        Ok(records.into_iter().map(take).collect())
    };
    inputs.par_iter().map(run).collect()
}

/// A tap that keeps what leaves a site in one batch.
#[derive(Default)]
struct Record {
    seen: Option<Output>,
}

impl Tap for Record {
    fn input(&mut self, _: &SiteMeta, _: TapRows<'_>) -> std::result::Result<(), String> {
        Ok(())
    }

    fn output(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String> {
        let weights = rows.weights.map(<[f64]>::to_vec);
        self.seen = Some(Output { rows: rows.rows.to_vec(), width: rows.width, weights });
        Ok(())
    }

    fn wants_output(&self) -> bool {
        self.seen.is_none()
    }
}
