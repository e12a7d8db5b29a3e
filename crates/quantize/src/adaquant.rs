//! AdaQuant: the weights of a layer, their ranges, the range of its input and its bias, learned together (paper 28).
//!
//! Source: Hubara et al., ICML 2021, arXiv:2006.10518. With `Q_w` and `Q_x` the quantizers of weight and input,
//!
//! ```text
//! min over V, ranges, b'  ‖ W X + b − (Q_w(W + V) Q_x(X) + b') ‖²
//! ```
//!
//! by Adam, through the roundings as if they were not there and through the clippings as they are; each kind of number has a rate of
//! its own. The loop is that of [`calibrate::reconstruct`](trimtab_calibrate::reconstruct()): the numbers that are best on held-out
//! rows are returned, those of plain rounding to the extremes if none were better.
//!
//! [`adaquant`] sees rows of the input. [`adaquant_by_moment`] is the same for weights alone: without a quantizer of the input the loss
//! depends on the data by their second moment `H` only, and the rows of a root of `H` stand for them.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use trimtab_calibrate::reconstruct::{Target, Trainee, train};
use trimtab_calibrate::{Batch, ReconstructSettings};
use trimtab_math::linalg::{Damping, cholesky_damped};
use trimtab_nn::activation::fake_quantize;
use trimtab_nn::{ActivationGranularity, ActivationQuantizer, ActivationScheme, ActivationStep, Ctx, Flow};

use crate::error::{Error, Result, check_length};
use crate::layer::{Layer, LayerReport, Quantized};
use crate::range::RangeFinder;
use crate::rtn::{RtnSettings, rtn};
use crate::scheme::WeightScheme;

/// Name in reports.
const METHOD: &str = "adaquant";

/// Settings. Defaults are those of the authors' code; rates are those of Adam.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaquantSettings {
    /// Steps.
    pub iterations: usize,
    /// Rows of the input in a step.
    pub rows: usize,
    /// Rate of the weights.
    pub weight_rate: f64,
    /// Rate of range and least value of each group of weights.
    pub range_rate: f64,
    /// Rate of range and least value of the input.
    pub input_rate: f64,
    /// Rate of the bias.
    pub bias_rate: f64,
    /// Share of the rows that is held out to judge by.
    pub held_out: f64,
    /// Names the order of the rows.
    pub seed: u64,
}

impl Default for AdaquantSettings {
    fn default() -> Self {
        Self {
            iterations: 100,
            rows: 2048,
            weight_rate: 1e-5,
            range_rate: 1e-3,
            input_rate: 1e-1,
            bias_rate: 1e-3,
            held_out: 0.125,
            seed: 0,
        }
    }
}

impl AdaquantSettings {
    fn check(&self) -> Result<()> {
        let rates = [self.weight_rate, self.range_rate, self.input_rate, self.bias_rate];
        if let Some(found) = rates.into_iter().find(|rate| !(*rate > 0.0 && rate.is_finite())) {
            return Err(Error::Setting {
                what: "adaquant: a rate",
                expected: "a finite number > 0",
                found: found.to_string(),
            });
        }
        if self.rows == 0 || !(0.0..1.0).contains(&self.held_out) {
            let found = format!("{} and {}", self.rows, self.held_out);
            let expected = "at least 1, and a share in [0, 1)";
            return Err(Error::Setting { what: "adaquant: rows and held_out", expected, found });
        }
        Ok(())
    }
}

/// A layer and what reaches it.
#[derive(Clone, Copy, Debug)]
pub struct AdaquantLayer<'a> {
    /// The weight.
    pub layer: Layer<'a>,
    /// Its bias, `[d_output]`: trained where there is one.
    pub bias: Option<&'a [f32]>,
    /// Rows of the input as the quantized layer will see them, `[n, d_input]`.
    pub inputs: &'a [f32],
    /// What is to come out, `[n, d_output]`: in parallel mode that of the same rows, in sequential mode that of the original ones.
    pub targets: &'a [f32],
}

/// A layer in codes, and its input too if that was asked for.
#[derive(Clone, Debug)]
pub struct Adaquant {
    /// The weight.
    pub weight: Quantized,
    /// The bias.
    pub bias: Option<Vec<f32>>,
    /// What rounds the input.
    pub input: Option<ActivationQuantizer>,
    /// Mean squared difference from the targets on held-out rows, of rounding to the extremes.
    pub before: f64,
    /// The same of the result: at most `before`.
    pub after: f64,
}

/// Learns a layer by rows of its input; `input` are the codes of the input, of one step for the whole tensor.
///
/// # Errors
/// Settings out of range, shapes that do not fit, numbers that are not finite, real zeros, and codes of the input by channel or token.
pub fn adaquant(
    of: &AdaquantLayer<'_>,
    scheme: &WeightScheme,
    input: Option<ActivationScheme>,
    settings: &AdaquantSettings,
) -> Result<Adaquant> {
    settings.check()?;
    let (m, n) = (of.layer.d_output(), of.layer.d_input());
    let rows = of.inputs.len() / n.max(1);
    check_length("adaquant: inputs", rows * n, of.inputs.len())?;
    check_length("adaquant: targets", rows * m, of.targets.len())?;
    check_length("adaquant: bias", m, of.bias.map_or(m, <[f32]>::len))?;
    if let Some(found) = input.filter(|scheme| scheme.granularity != ActivationGranularity::Tensor) {
        let expected = "one step for the whole tensor, such as \"int4 tensor\"";
        return Err(Error::Setting {
            what: "adaquant: codes of the input",
            expected,
            found: found.to_string(),
        });
    }
    let mut learned = Learned::new(of, scheme, input, settings)?;
    let device = Device::flex();
    let size = settings.rows.min(rows.max(1));
    let batches: Vec<Batch> = (0..rows.div_ceil(size))
        .map(|i| {
            let part = i * size..rows.min((i + 1) * size);
            let tensor = |values: &[f32], width: usize| {
                let values = values[part.start * width..part.end * width].to_vec();
                Flow::Vector(Tensor::from_data(TensorData::new(values, [part.len(), width]), &device))
            };
            Batch {
                input: Flow::both(tensor(of.inputs, n), tensor(of.targets, m)),
                mask: None,
                row_weights: None,
            }
        })
        .collect();
    let inputs = |i: usize| Ok(batches[i].input.clone());
    // What is to come out travels beside what goes in.
    let target = |flow: Flow, _: &mut Ctx<'_>| Ok(flow.pair("targets")?.1);
    let held = if batches.len() > 1 { settings.held_out } else { 0.0 };
    let trained =
        batches.len() - if held > 0.0 { ((held * batches.len() as f64).ceil() as usize).max(1) } else { 0 };
    let how = ReconstructSettings {
        rate: 1.0,
        epochs: settings.iterations.div_ceil(trained.max(1)),
        batch: size,
        betas: [0.9, 0.999],
        held_out: held,
        seed: settings.seed,
        ..ReconstructSettings::default()
    };
    // A layer is learned in seconds; between layers whoever asks for them looks whether to stop.
    let of = Target { batches: &batches, inputs: &inputs, target: &target, stop: &|| false };
    let found = train(&mut learned, &of, &how);
    let found = found.map_err(|e| Error::Learning { message: e.to_string() })?;
    learned.finish(&found.values, [found.before, found.after])
}

/// Learns the weight of a layer alone, by the second moment of its input.
///
/// # Errors
/// As [`adaquant`], and a missing second moment.
pub fn adaquant_by_moment(
    layer: &Layer<'_>,
    scheme: &WeightScheme,
    settings: &AdaquantSettings,
) -> Result<Quantized> {
    let h = layer.need_hessian(METHOD)?;
    let factor = cholesky_damped(h, &Damping { first: 1e-6, ..Damping::default() })?;
    let (m, n) = (layer.d_output(), layer.d_input());
    // H = L Lᵀ: the columns of L are rows x with Σ x xᵀ = H.
    let mut inputs = vec![0.0f32; n * n];
    for i in 0..n {
        for j in 0..=i {
            inputs[j * n + i] = (factor.lower.at(i, j) * (n as f64).sqrt()) as f32;
        }
    }
    let device = Device::flex();
    let rows = Tensor::<2>::from_data(TensorData::new(inputs.clone(), [n, n]), &device);
    let weight = Tensor::<2>::from_data(TensorData::new(layer.weight().to_vec(), [m, n]), &device);
    let targets: Vec<f32> = rows.matmul(weight.transpose()).into_data().iter::<f32>().collect();
    // All rows in each step: they are no samples, and none can be held out.
    let settings = AdaquantSettings { rows: n.max(1), held_out: 0.0, ..settings.clone() };
    let of = AdaquantLayer { layer: *layer, bias: None, inputs: &inputs, targets: &targets };
    Ok(adaquant(&of, scheme, None, &settings)?.weight)
}

/// Where each vector of numbers stands in the order of [`Trainee::start`]: `V`, steps, then what there is of the rest.
#[derive(Clone, Copy)]
struct Places {
    lows: Option<usize>,
    bias: Option<usize>,
    input: Option<usize>,
}

struct Learned<'a> {
    of: &'a AdaquantLayer<'a>,
    scheme: &'a WeightScheme,
    input: Option<ActivationScheme>,
    settings: &'a AdaquantSettings,
    places: Places,
    start: Vec<Vec<f32>>,
    weight: Tensor<2>,
    now: Option<Now>,
}

/// What the numbers stand for: weight, bias `[1, m]`, and step and zero of the input.
struct Now {
    weight: Tensor<2>,
    bias: Option<Tensor<2>>,
    input: Option<[Tensor<2>; 2]>,
}

impl<'a> Learned<'a> {
    fn new(
        of: &'a AdaquantLayer<'a>,
        scheme: &'a WeightScheme,
        input: Option<ActivationScheme>,
        settings: &'a AdaquantSettings,
    ) -> Result<Self> {
        if scheme.real_zero || scheme.narrow {
            let found = "real zeros or narrow codes".to_string();
            return Err(Error::Setting {
                what: "adaquant: scheme",
                expected: "whole zeros, all codes",
                found,
            });
        }
        let plain = rtn(&of.layer, scheme, &RtnSettings { range: RangeFinder::MinMax })?;
        let mut start = vec![vec![0.0; of.layer.weight().len()], plain.scales.clone()];
        let mut places = Places { lows: None, bias: None, input: None };
        let mut push = |values: Vec<f32>| {
            start.push(values);
            start.len() - 1
        };
        if !scheme.symmetric {
            let low = |(zero, scale): (&u8, &f32)| -f32::from(*zero) * scale;
            places.lows = Some(push(plain.zeros.iter().zip(&plain.scales).map(low).collect()));
        }
        places.bias = of.bias.map(|bias| push(bias.to_vec()));
        if let Some(scheme) = input {
            let ends = of.inputs.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
            let step = scheme.step(ends.0, ends.1);
            places.input = Some(push(vec![step.scale]));
            push(vec![-f32::from(step.zero) * step.scale]);
        }
        let shape = [of.layer.d_output(), of.layer.d_input()];
        let data = TensorData::new(of.layer.weight().to_vec(), shape);
        let weight = Tensor::from_data(data, &Device::flex().autodiff());
        Ok(Self { of, scheme, input, settings, places, start, weight, now: None })
    }

    /// A value a group as one a column, `[m, n]`.
    fn spread(&self, values: Tensor<1>) -> Tensor<2> {
        let [m, n] = self.weight.dims();
        let (groups, width) = (self.scheme.groups(n), self.scheme.group_width(n));
        let each = values.reshape([m, groups, 1]).expand([m, groups, width]);
        each.reshape([m, groups * width]).narrow(1, 0, n)
    }

    fn finish(&self, values: &[Vec<f32>], [before, after]: [f64; 2]) -> Result<Adaquant> {
        let (m, n) = (self.of.layer.d_output(), self.of.layer.d_input());
        let (grid, groups, width) = (self.scheme.grid(), self.scheme.groups(n), self.scheme.group_width(n));
        let scales = values[1].clone();
        let zeros: Vec<u8> = match self.places.lows {
            Some(at) => {
                values[at].iter().zip(&scales).map(|(&low, &s)| zero_of(low, s, grid.highest())).collect()
            }
            None => vec![grid.middle(); scales.len()],
        };
        let code = |i: usize| {
            let group = i / n * groups + i % n / width;
            let whole = ((self.of.layer.weight()[i] + values[0][i]) / scales[group]).round_ties_even();
            (whole + f32::from(zeros[group])).clamp(0.0, f32::from(grid.highest())) as u8
        };
        let codes = (0..m * n).map(code).collect();
        let report = LayerReport { method: METHOD.into(), ..LayerReport::default() };
        let (g_idx, real_zeros, scheme) = (None, None, *self.scheme);
        let weight =
            Quantized { d_output: m, d_input: n, scheme, codes, scales, zeros, real_zeros, g_idx, report };
        let bias = self.places.bias.map(|at| values[at].clone());
        let input = match (self.places.input, self.input) {
            (Some(at), Some(scheme)) => {
                let scale = values[at][0];
                let zero = zero_of(values[at + 1][0], scale, scheme.highest());
                let made = ActivationQuantizer::new(scheme, vec![ActivationStep { scale, zero }]);
                Some(made.map_err(|e| Error::Learning { message: e.to_string() })?)
            }
            _ => None,
        };
        Ok(Adaquant { weight, bias, input, before, after })
    }
}

impl Trainee for Learned<'_> {
    fn start(&self) -> Vec<Vec<f32>> {
        self.start.clone()
    }

    fn rates(&self) -> Vec<f64> {
        let (how, codes) = (self.settings, f64::from(self.scheme.grid().highest()));
        // A range is its step times the highest code, so that the rate of a step is that of a range by as much.
        let mut rates = vec![how.range_rate; self.start.len()];
        (rates[0], rates[1]) = (how.weight_rate, how.range_rate / codes);
        if let Some(at) = self.places.bias {
            rates[at] = how.bias_rate;
        }
        if let (Some(at), Some(scheme)) = (self.places.input, self.input) {
            rates[at] = how.input_rate / f64::from(scheme.highest());
            rates[at + 1] = how.input_rate;
        }
        rates
    }

    fn stored(&self, mut values: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        for (at, (values, start)) in values.iter_mut().zip(&self.start).enumerate() {
            for (x, &start) in values.iter_mut().zip(start) {
                let kept = if at == 1 { self.scheme.scale_dtype.round(x.max(0.0)) } else { *x };
                let step = at == 1 || Some(at) == self.places.input;
                // What left its range stays what it was.
                *x = if kept.is_finite() && (!step || kept > 0.0) { kept } else { start };
            }
        }
        values
    }

    fn install(&mut self, values: &[Tensor<1>]) -> trimtab_calibrate::Result<()> {
        let [m, n] = self.weight.dims();
        let grid = self.scheme.grid();
        let zeros = match self.places.lows {
            Some(at) => whole_zero(values[at].clone(), values[1].clone(), grid.highest()),
            None => values[1].clone().detach() * 0.0 + f32::from(grid.middle()),
        };
        let moved = self.weight.clone() + values[0].clone().reshape([m, n]);
        let weight = fake_quantize(
            moved,
            self.spread(positive(values[1].clone())),
            self.spread(zeros),
            grid.highest(),
        );
        let bias = self.places.bias.map(|at| values[at].clone().reshape([1, m]));
        let input = match (self.places.input, self.input) {
            (Some(at), Some(scheme)) => {
                let zero = if scheme.symmetric {
                    values[at].clone().detach() * 0.0 + f32::from(scheme.middle())
                } else {
                    whole_zero(values[at + 1].clone(), values[at].clone(), scheme.highest())
                };
                Some([positive(values[at].clone()), zero].map(|x| x.reshape([1, 1])))
            }
            _ => None,
        };
        self.now = Some(Now { weight, bias, input });
        Ok(())
    }

    fn forward(&self, flow: Flow, _: &mut Ctx<'_>) -> trimtab_calibrate::Result<Flow> {
        let x = flow.pair(METHOD)?.0.vector(METHOD)?;
        let Some(now) = &self.now else {
            let message = "nothing was installed".into();
            return Err(trimtab_calibrate::Error::Reconstruction { message });
        };
        let x = match (&now.input, self.input) {
            (Some([scale, zero]), Some(scheme)) => {
                let dims = x.dims();
                fake_quantize(x, scale.clone().expand(dims), zero.clone().expand(dims), scheme.highest())
            }
            _ => x,
        };
        let y = x.matmul(now.weight.clone().transpose());
        Ok(Flow::Vector(match &now.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        }))
    }
}

/// A step that is one.
fn positive(scale: Tensor<1>) -> Tensor<1> {
    scale.clamp_min(1e-10)
}

/// The code of zero for a least value `low` and a step, whole; its gradient is that of the number before it was rounded.
fn whole_zero(low: Tensor<1>, scale: Tensor<1>, highest: u8) -> Tensor<1> {
    let zero = (low.neg() / positive(scale)).clamp(0.0, f64::from(highest));
    zero.clone().detach().round() + (zero.clone() - zero.detach())
}

fn zero_of(low: f32, scale: f32, highest: u8) -> u8 {
    (-low / scale).clamp(0.0, f32::from(highest)).round_ties_even() as u8
}

#[cfg(test)]
mod tests;
