//! A network whose sites can be seen at several widths.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use trimtab_nn::{
    BatchNorm, BatchStatistics, Ctx, Grid, InputOp, LayerMut, Network, SiteKind, SiteMeta, Tap, TapRows,
    TapSet, Weight, host,
};

use super::double_rounding::{DoubleRounding, Rounding, ends};
use crate::error::{Error, Result};

/// Least start of a step, for rows and inputs of zeros.
const LEAST: f32 = 1e-5;

/// A network with what Double Rounding trains beside it. Its own batch norms are not used: every width has a set.
#[derive(Module, Debug)]
pub struct Switchable {
    /// Weights in full precision, and all that has no width.
    pub network: Network,
    /// Steps of every site that has widths, in the order of the network.
    steps: Vec<Steps>,
    /// Batch norms of every width; of mixed widths, one set for all.
    norms: Vec<NormSet>,
    #[module(skip)]
    plan: Arc<Plan>,
}

/// The steps of a site.
#[derive(Module, Debug)]
struct Steps {
    /// One for each row, `[rows]`; one such vector for each width where codes are not shared.
    weight: Vec<Param<Tensor<1>>>,
    /// Of the inputs, `[1]`, one for each width; none where inputs stay as they are.
    inputs: Vec<Param<Tensor<1>>>,
}

#[derive(Module, Debug)]
struct NormSet {
    norms: Vec<BatchNorm>,
}

#[derive(Clone, Debug)]
struct Plan {
    settings: DoubleRounding,
    /// The sites that have widths, by their place in `steps`.
    sites: BTreeMap<String, usize>,
    metas: Vec<SiteMeta>,
    /// Whether inputs may be negative.
    signed: Vec<bool>,
    /// Batch norms by their place in a set.
    norms: BTreeMap<String, usize>,
}

/// The integers of a site at the highest width.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteCodes {
    /// The site.
    pub meta: SiteMeta,
    /// `[rows, cols]`.
    pub codes: Vec<i8>,
    /// `[rows]`.
    pub steps: Vec<f32>,
}

/// What reaches a site.
#[derive(Default)]
struct Seen {
    sum: f64,
    count: f64,
    negative: bool,
}

impl Tap for Seen {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String> {
        self.sum += rows.rows.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        self.count += rows.rows.len() as f64;
        self.negative |= rows.rows.iter().any(|x| *x < 0.0);
        Ok(())
    }
}

impl Switchable {
    /// A network, on a device with gradients, that is to be trained at several widths. `run` runs a network on a few items, by which
    /// the steps of the inputs begin (LSQ: `2 mean|x| / sqrt(largest code)`).
    ///
    /// # Errors
    /// [`Error::Setting`] for senseless widths, for a network without a site to treat and for a site that these items do not reach, and
    /// what the network meets.
    pub fn new(
        network: Network,
        settings: &DoubleRounding,
        run: impl FnOnce(&Network, &mut Ctx<'_>) -> Result<()>,
    ) -> Result<Self> {
        settings.check()?;
        let all: Vec<&SiteMeta> =
            network.sites().map(|site| site.meta()).filter(|meta| meta.kind != SiteKind::Embedding).collect();
        let kept = |i: usize, meta: &SiteMeta| match &settings.keep {
            Some(keep) => !keep.0.is_empty() && keep.has(&meta.name),
            None => i == 0 || i + 1 == all.len(),
        };
        let chosen = all.iter().enumerate().filter(|(i, meta)| !kept(*i, meta));
        let metas: Vec<SiteMeta> = chosen.map(|(_, meta)| (*meta).clone()).collect();
        if metas.is_empty() {
            return Err(Error::setting("quantization.keep", "leaves no site to treat"));
        }
        let seen = match settings.inputs {
            true => observe(&network, &metas, run)?,
            false => metas.iter().map(|_| Seen::default()).collect(),
        };
        let sites = metas.iter().enumerate().map(|(i, meta)| (meta.name.clone(), i)).collect();
        let mut steps = Vec::new();
        let mut signed = Vec::new();
        for (meta, seen) in metas.iter().zip(&seen) {
            if settings.inputs && seen.count == 0.0 {
                let message = format!(
                    "none of the first items reaches \"{}\", whose inputs are to be rounded\nhint: inputs = false, or keep = [\"{0}\"]",
                    meta.name
                );
                return Err(Error::setting("quantization", message));
            }
            let site = network.sites().find(|site| site.name() == meta.name);
            let site = site.expect("the site was found among those of the network");
            let Weight::Dense(weight) = &site.weight else {
                let message = format!("the weight of \"{}\" is no parameter", meta.name);
                return Err(Error::setting("quantization", message));
            };
            let device = weight.val().device();
            steps.push(Steps {
                weight: weight_steps(settings, &site.to_f32(), meta.cols, &device),
                inputs: input_steps(settings, seen, &device),
            });
            signed.push(seen.negative);
        }
        let sets = if settings.mixed.is_some() { 1 } else { settings.widths.len() };
        let norms: Vec<BatchNorm> = network
            .layers()
            .filter_map(|layer| match layer {
                trimtab_nn::Layer::BatchNorm(norm) => Some(norm.clone()),
                _ => None,
            })
            .collect();
        let names = norms.iter().enumerate().map(|(i, norm)| (norm.name().to_string(), i)).collect();
        let sets = (0..sets).map(|_| NormSet { norms: norms.iter().map(own).collect() }).collect();
        let plan = Plan { settings: settings.clone(), sites, metas, signed, norms: names };
        Ok(Self { network, steps, norms: sets, plan: Arc::new(plan) })
    }

    /// Settings.
    pub fn settings(&self) -> &DoubleRounding {
        &self.plan.settings
    }

    /// The sites that have widths.
    pub fn sites(&self) -> &[SiteMeta] {
        &self.plan.metas
    }

    /// The network with all sites at the width with this index.
    pub fn at(&self, width: usize) -> Network {
        self.mixed(&vec![width; self.steps.len()])
    }

    /// The network with each site at a width of its own, by index. Norms are those of the first site's width, or the shared ones.
    pub fn mixed(&self, widths: &[usize]) -> Network {
        let set = &self.norms[self.set_of(widths)];
        let mut network = self.network.clone();
        for stage in 0..network.stages().len() {
            for layer in network.stage_mut(stage).layers_mut() {
                match layer {
                    LayerMut::Site(site) => {
                        let Some(&i) = self.plan.sites.get(site.name()) else { continue };
                        let (weight, grid) =
                            (self.weight(i, widths[i], &site.weight), self.grid(i, widths[i]));
                        site.weight = Weight::Dense(Param::initialized(ParamId::new(), weight));
                        site.input.extend(grid.map(InputOp::Grid));
                    }
                    LayerMut::BatchNorm(norm) => {
                        if let Some(&i) = self.plan.norms.get(norm.name()) {
                            *norm = set.norms[i].clone();
                        }
                    }
                    _ => {}
                }
            }
        }
        network
    }

    fn set_of(&self, widths: &[usize]) -> usize {
        if self.norms.len() == 1 { 0 } else { widths.first().copied().unwrap_or(0) }
    }

    fn weight(&self, site: usize, width: usize, weight: &Weight) -> Tensor<2> {
        let Weight::Dense(weight) = weight else { unreachable!("only dense weights were taken") };
        let steps = &self.steps[site].weight;
        self.settings().weights(weight.val(), steps[width.min(steps.len() - 1)].val(), width)
    }

    fn grid(&self, site: usize, width: usize) -> Option<Grid> {
        let step = self.steps[site].inputs.get(width)?;
        Some(Grid::new(step.clone(), self.input_ends(site, width)))
    }

    /// The smallest and the largest code of the inputs of a site at a width.
    pub fn input_ends(&self, site: usize, width: usize) -> [i32; 2] {
        ends(self.settings().widths[width], self.plan.signed[site])
    }

    /// The step of the inputs of a site at a width; `None` where they stay as they are.
    pub fn input_step(&self, site: usize, width: usize) -> Option<f32> {
        self.steps[site].inputs.get(width).map(|step| host(step.val())[0])
    }

    /// The batch norms of a width.
    pub fn norms(&self, width: usize) -> &[BatchNorm] {
        &self.norms[width.min(self.norms.len() - 1)].norms
    }

    /// The integers of every site at the highest width: what all widths are switched from.
    ///
    /// # Errors
    /// [`Error::Setting`] where codes are not shared.
    pub fn codes(&self) -> Result<Vec<SiteCodes>> {
        if self.settings().rounding != Rounding::Double {
            let message = "only double rounding has codes that all widths are rounded from";
            return Err(Error::setting("quantization.rounding", message));
        }
        let highest = self.at(0);
        let of = |(meta, steps): (&SiteMeta, &Steps)| {
            let site = highest.sites().find(|site| site.name() == meta.name);
            let steps = host(steps.weight[0].val());
            let numbers = site.map(|site| site.to_f32()).unwrap_or_default();
            // A number is a code times its step, rounded once: dividing and rounding gives the code back.
            let code = |(i, x): (usize, &f32)| (x / steps[i / meta.cols]).round() as i8;
            SiteCodes { meta: meta.clone(), codes: numbers.iter().enumerate().map(code).collect(), steps }
        };
        Ok(self.plan.metas.iter().zip(&self.steps).map(of).collect())
    }

    /// `|W_b - W|^2` of every site at every width: `[site][width]`.
    pub fn weight_errors(&self) -> Vec<Vec<f64>> {
        let of_site = |(i, meta): (usize, &SiteMeta)| {
            let site = self.network.sites().find(|site| site.name() == meta.name);
            let Some(site) = site else { return Vec::new() };
            let original = site.to_f32();
            let at = |width| {
                let seen = host(self.weight(i, width, &site.weight));
                seen.iter().zip(&original).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            (0..self.settings().widths.len()).map(at).collect()
        };
        self.plan.metas.iter().enumerate().map(of_site).collect()
    }

    /// Gives what norms saw the paths of the norms of this set.
    pub(super) fn rename(&self, widths: &[usize], seen: &mut [BatchStatistics]) {
        let set = self.set_of(widths);
        for statistics in seen {
            if let Some(i) = self.plan.norms.get(&statistics.norm) {
                statistics.norm = format!("norms.{set}.norms.{i}");
            }
        }
    }
}

/// A copy of a norm whose parameters are its own.
fn own(norm: &BatchNorm) -> BatchNorm {
    let fresh = |param: &Param<Tensor<1>>| {
        let tensor = param.val();
        Tensor::from_data(TensorData::new(host(tensor.clone()), tensor.dims()), &tensor.device())
    };
    let parts = [&norm.gain, &norm.bias, &norm.mean, &norm.variance].map(fresh);
    norm.with_parts(parts)
}

fn observe(
    network: &Network,
    metas: &[SiteMeta],
    run: impl FnOnce(&Network, &mut Ctx<'_>) -> Result<()>,
) -> Result<Vec<Seen>> {
    let handles: Vec<Arc<Mutex<Seen>>> = metas.iter().map(|_| Arc::default()).collect();
    let mut taps = TapSet::new();
    for (meta, handle) in metas.iter().zip(&handles) {
        taps.attach(meta.name.as_str(), Arc::clone(handle));
    }
    run(&network.valid(), &mut Ctx { taps: Some(&mut taps), ..Ctx::default() })?;
    taps.finish()?;
    drop(taps);
    let taken = |handle: Arc<Mutex<Seen>>| {
        handle.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default()
    };
    Ok(handles.into_iter().map(taken).collect())
}

fn vector(values: Vec<f32>, device: &Device) -> Param<Tensor<1>> {
    let n = values.len();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, [n]), device))
}

fn weight_steps(
    settings: &DoubleRounding,
    weight: &[f32],
    cols: usize,
    device: &Device,
) -> Vec<Param<Tensor<1>>> {
    let rows = || weight.chunks(cols.max(1));
    if settings.rounding == Rounding::Direct {
        let of_width = |&bits: &u8| {
            let high = ends(bits, true)[1] as f32;
            let step = |row: &[f32]| {
                (2.0 * row.iter().map(|w| w.abs()).sum::<f32>() / row.len() as f32 / high.sqrt()).max(LEAST)
            };
            vector(rows().map(step).collect(), device)
        };
        return settings.widths.iter().map(of_width).collect();
    }
    let high = ends(settings.highest(), true)[1] as f32;
    let step = |row: &[f32]| (row.iter().fold(0.0f32, |most, w| most.max(w.abs())) / high).max(LEAST);
    vec![vector(rows().map(step).collect(), device)]
}

fn input_steps(settings: &DoubleRounding, seen: &Seen, device: &Device) -> Vec<Param<Tensor<1>>> {
    if !settings.inputs {
        return Vec::new();
    }
    let mean = seen.sum / seen.count.max(1.0);
    let of_width = |&bits: &u8| {
        let high = f64::from(ends(bits, seen.negative)[1]);
        vector(vec![((2.0 * mean / high.sqrt()) as f32).max(LEAST)], device)
    };
    settings.widths.iter().map(of_width).collect()
}
