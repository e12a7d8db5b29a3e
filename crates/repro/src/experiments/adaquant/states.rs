//! Every layer at every width, by rounding and by AdaQuant.

use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::calibrate::Batch;
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::{
    ActivationGranularity, ActivationQuantizer, ActivationScheme, Ctx, Network, SiteMeta, Tap, TapRows,
    TapSet,
};
use trimtab::floors::quantize::adaquant::{AdaquantLayer, AdaquantSettings, adaquant};
use trimtab::floors::quantize::layer::Layer;

use super::super::few_bits::{FewBits, dense, rounded, scheme};
use super::super::pictures::Cause;
use crate::lab::Lab;

/// Bits of weights that are prepared.
pub const BITS: [u8; 3] = [3, 4, 5];
/// Bits of inputs.
const INPUT: u8 = 4;
/// Rows of the input that a layer is learned from, and those in a step.
const ROWS: usize = 4096;
const STEP: usize = 512;

/// A layer in few bits.
pub struct State {
    /// Its weight, decoded.
    pub weight: Vec<f32>,
    /// What rounds its input.
    pub input: ActivationQuantizer,
}

/// All treated layers.
pub struct States {
    /// Them, in the order in which they run.
    pub sites: Vec<SiteMeta>,
    /// Of each site and width, rounded and learned.
    all: Vec<Vec<[State; 2]>>,
    /// Mean squared output error of each site at 4 bits on rows of other images, rounded and learned.
    pub errors: Vec<[f64; 2]>,
}

impl States {
    /// Learns all of them, each on what reaches it in the original network.
    pub fn learn(
        subject: &FewBits,
        calibration: &[Batch],
        others: &[Batch],
        seed: u64,
        lab: &Lab<'_>,
    ) -> Result<Self, Cause> {
        let all = subject.sites();
        let sites = all[1..all.len() - 1].to_vec();
        let ranges = subject.ranges(calibration, INPUT)?;
        let mut states = Vec::new();
        let mut errors = Vec::new();
        for meta in &sites {
            let rows = rows_of(&subject.network, meta, calibration, seed)?;
            let unseen = rows_of(&subject.network, meta, others, seed + 1000)?;
            let site = subject.network.sites().find(|site| site.name() == meta.name).ok_or("no site")?;
            let weight = site.to_f32();
            let targets = product(&rows, &weight, meta);
            let layer = Layer::new(&weight, meta.rows, meta.cols, None)?;
            let of = AdaquantLayer { layer, bias: None, inputs: &rows, targets: &targets };
            let mut widths = Vec::new();
            for bits in BITS {
                let plain = State {
                    weight: rounded(meta, &weight, bits)?,
                    input: ranges.get(&meta.name).cloned().ok_or("no range")?,
                };
                let how = AdaquantSettings { rows: STEP, seed, ..AdaquantSettings::default() };
                let input = ActivationScheme::new(INPUT, ActivationGranularity::Tensor);
                let found = adaquant(&of, &scheme(bits), Some(input), &how)?;
                let learned = State {
                    weight: found.weight.pack()?.dequantize(),
                    input: found.input.ok_or("no quantizer of the input")?,
                };
                if bits == super::AVERAGE {
                    let target = product(&unseen, &weight, meta);
                    let error = |state: &State| mean_error(&unseen, &target, state, meta);
                    errors.push([error(&plain), error(&learned)]);
                }
                widths.push([plain, learned]);
            }
            states.push(widths);
            if lab.stops() {
                return Err("stopped".into());
            }
        }
        Ok(Self { sites, all: states, errors })
    }

    /// A layer at a width.
    pub fn state(&self, site: usize, bits: u8, learned: bool) -> &State {
        let width = BITS.iter().position(|&b| b == bits).unwrap_or(1);
        &self.all[site][width][usize::from(learned)]
    }

    /// The network with these bits.
    pub fn network(&self, subject: &FewBits, choice: &[u8], learned: bool) -> Result<Network, Cause> {
        let mut network = subject.network.clone();
        for (i, (meta, &bits)) in self.sites.iter().zip(choice).enumerate() {
            let state = self.state(i, bits, learned);
            let (_, site) = network.site_mut(&meta.name).ok_or("no site")?;
            site.set_weight(dense(meta, state.weight.clone()))?;
            site.set_activation(Some(state.input.clone()))?;
        }
        Ok(network)
    }
}

/// Keeps what enters a site.
#[derive(Default)]
struct Keep(Vec<f32>);

impl Tap for Keep {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> Result<(), String> {
        self.0.extend_from_slice(rows.rows);
        Ok(())
    }
}

/// Some of the rows that enter a site, drawn at random.
fn rows_of(network: &Network, meta: &SiteMeta, batches: &[Batch], seed: u64) -> Result<Vec<f32>, Cause> {
    let keep = Arc::new(Mutex::new(Keep::default()));
    let mut taps = TapSet::new();
    taps.attach(&meta.name, Arc::clone(&keep));
    for batch in batches {
        let mut ctx = Ctx { taps: Some(&mut taps), taps_only: true, ..batch.ctx() };
        network.forward(batch.input.clone(), &mut ctx)?;
    }
    let kept = keep.lock().map_err(|e| e.to_string())?;
    let n = kept.0.len() / meta.cols;
    let mut order: Vec<usize> = (0..n).collect();
    Stream::new(seed, "adaquant/rows", 0, 0).shuffle(&mut order);
    Ok(order.iter().take(ROWS).flat_map(|&i| kept.0[i * meta.cols..][..meta.cols].to_vec()).collect())
}

/// `x w^T`, `[n, rows]`.
fn product(x: &[f32], weight: &[f32], meta: &SiteMeta) -> Vec<f32> {
    let tensor = |values: &[f32], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    };
    let y = tensor(x, [x.len() / meta.cols, meta.cols])
        .matmul(tensor(weight, [meta.rows, meta.cols]).transpose());
    y.into_data().iter::<f32>().collect()
}

fn mean_error(x: &[f32], targets: &[f32], state: &State, meta: &SiteMeta) -> f64 {
    let shape = [x.len() / meta.cols, meta.cols];
    let rows = Tensor::<2>::from_data(TensorData::new(x.to_vec(), shape), &Device::flex());
    let x: Vec<f32> = state.input.rows(rows).into_data().iter::<f32>().collect();
    let found = product(&x, &state.weight, meta);
    let apart = found.iter().zip(targets).map(|(a, b)| f64::from(a - b).powi(2));
    apart.sum::<f64>() / targets.len().max(1) as f64
}
