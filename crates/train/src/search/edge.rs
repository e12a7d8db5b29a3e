//! A place of the network: the mixture of what can stand there, or the one thing that does.

use std::sync::Arc;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use trimtab_math::random::Stream;
use trimtab_nn::conv::ConvGeometry;
use trimtab_nn::{Activation, Axis, BatchNorm, Ctx, Weight, host};

use super::genotype::{ConvSize, EdgeSpec};
use super::noise::{NoiseGradient, NoiseKind, mixed, noise_of};
use super::rounding::{hwgq, hwgq_step, lsq_rows, lsq_start, positive};

/// A tensor by its name: its shape and its numbers.
pub(super) type Named = (String, Vec<usize>, Vec<f32>);

/// Added to variances before their root.
const EPS: f64 = 1e-8;

/// What norms add to variances.
const NORM_EPS: f64 = 1e-5;

/// Factor and summand of deviations at first.
const DEVIATION: [f32; 2] = [1.5, 0.0];

/// Where noise comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws {
    pub(super) kind: NoiseKind,
    pub(super) gradient: NoiseGradient,
    pub(super) seed: u64,
    pub(super) step: u64,
    /// Which pass of the step.
    pub(super) pass: u64,
}

impl Draws {
    fn stream(&self, edge: &str, what: &str) -> Stream {
        Stream::new(self.seed, &format!("search/noise/{edge}.{what}"), self.step, self.pass)
    }
}

fn tensor<const D: usize>(values: Vec<f32>, dims: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, dims), device)
}

/// A convolution with a bias, and steps of its rows for each width if it is rounded.
#[derive(Module, Debug)]
struct Conv {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    steps: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    geometry: ConvGeometry,
}

impl Conv {
    /// Uniform within `1 / sqrt(inputs of an output)`, weights and bias.
    fn new(size: &ConvSize, stepped: &[u8], stream: &mut Stream, device: &Device) -> Self {
        let ConvSize { kernel, inputs, outputs, groups } = *size;
        let cols = inputs / groups * kernel * kernel;
        let bound = 1.0 / (cols as f64).sqrt();
        let mut drawn =
            |n: usize| -> Vec<f32> { (0..n).map(|_| stream.uniform_in(-bound, bound) as f32).collect() };
        let (weight, bias) = (drawn(outputs * cols), drawn(outputs));
        let start =
            |&bits: &u8| Param::from_tensor(tensor(lsq_start(&weight, outputs, bits), [outputs], device));
        Self {
            steps: stepped.iter().map(start).collect(),
            weight: Param::from_tensor(tensor(weight, [outputs, cols], device)),
            bias: Param::from_tensor(tensor(bias, [outputs], device)),
            geometry: ConvGeometry { groups, ..ConvGeometry::same(kernel, 1) },
        }
    }

    fn convolve(&self, x: Tensor<4>, weight: Tensor<2>) -> Tensor<4> {
        let [rows, _] = weight.dims();
        let weight = Weight::Dense(Param::initialized(ParamId::new(), weight));
        self.geometry.convolve(x, &weight, Some(self.bias.val()), rows)
    }

    /// With the weight rounded to one of its widths.
    fn rounded(&self, x: Tensor<4>, width: usize, bits: u8) -> Tensor<4> {
        self.convolve(x, lsq_rows(self.weight.val(), self.steps[width].val(), bits))
    }
}

/// An operation: its convolutions, one after another.
#[derive(Module, Debug)]
struct Op {
    convs: Vec<Conv>,
}

/// A place: `f(norm(x)) * phi(deviation of x)`, and `x` itself if it has a skip (adaptive deviation). `f` is the sum over operations.
#[derive(Module, Debug)]
pub(super) struct Edge {
    norm: BatchNorm,
    ops: Vec<Op>,
    /// `phi(u) = a u + c`, `[2]`.
    deviation: Param<Tensor<1>>,
    #[module(skip)]
    pub(super) spec: Arc<EdgeSpec>,
}

/// The deviation of each image over channels and pixels, `[B, 1]`.
fn deviation(x: Tensor<4>) -> Tensor<2> {
    let [b, c, h, w] = x.dims();
    let n = c * h * w;
    let rows = x.reshape([b, n]);
    let centred = rows.clone() - rows.mean_dim(1);
    (centred.square().sum_dim(1).div_scalar((n - 1).max(1) as f64).add_scalar(EPS)).sqrt()
}

fn add(sum: Option<Tensor<4>>, y: Tensor<4>) -> Option<Tensor<4>> {
    Some(match sum {
        Some(sum) => sum + y,
        None => y,
    })
}

impl Edge {
    /// Number `index` of the network; with steps if it is to be rounded.
    pub(super) fn new(index: usize, spec: EdgeSpec, stepped: bool, seed: u64, device: &Device) -> Self {
        let channels = spec.inputs;
        let parts = [1.0, 0.0, 0.0, 1.0].map(|v| tensor(vec![v; channels], [channels], device));
        // By the path of its parameters, where statistics are looked for.
        let norm = BatchNorm::new(
            format!("edges.{index}.norm"),
            NORM_EPS,
            Axis::new(spec.name.clone(), channels),
            parts,
        );
        let widths = if stepped { &spec.bits[..] } else { &[] };
        let ops = spec.ops.iter().map(|op| {
            let mut stream = Stream::new(seed, &format!("search/init/{}.{op}", spec.name), 0, 0);
            let sizes = op.convolutions(spec.inputs, spec.outputs);
            Op { convs: sizes.iter().map(|size| Conv::new(size, widths, &mut stream, device)).collect() }
        });
        Self {
            ops: ops.collect(),
            norm,
            deviation: Param::from_tensor(tensor(DEVIATION.to_vec(), [2], device)),
            spec: Arc::new(spec),
        }
    }

    /// With coefficients of its candidates, `[ops * bits]`, or of the only one, 1; rounded, or by noise.
    pub(super) fn forward(
        &self,
        x: Tensor<4>,
        alpha: Option<&Tensor<1>>,
        draws: Option<&Draws>,
        ctx: &mut Ctx<'_>,
    ) -> Tensor<4> {
        let normal = self.norm.forward(x.clone(), ctx);
        let one;
        let alpha = match alpha {
            Some(alpha) => alpha,
            None => {
                one = Tensor::ones([1], &x.device());
                &one
            }
        };
        let y = match draws {
            Some(draws) => self.noisy(normal, alpha, draws),
            None => self.rounded(normal, alpha),
        };
        let phi = self.deviation.val();
        let (a, c) = (phi.clone().narrow(0, 0, 1).reshape([1, 1]), phi.narrow(0, 1, 1).reshape([1, 1]));
        let factor = deviation(x.clone()) * a + c;
        let y = y * factor.reshape([-1, 1, 1, 1]);
        if self.spec.skip { y + x } else { y }
    }

    /// Every operation in every width, each rounded.
    fn rounded(&self, x: Tensor<4>, alpha: &Tensor<1>) -> Tensor<4> {
        let (mut sum, bits) = (None, &self.spec.bits);
        for (width, &bits_here) in bits.iter().enumerate() {
            let step = hwgq_step(bits_here).expect("bits were checked when the network was made");
            let inputs = hwgq(x.clone(), bits_here, step);
            for (i, op) in self.ops.iter().enumerate() {
                let first = op.convs[0].rounded(inputs.clone(), width, bits_here);
                let y = op.convs[1..]
                    .iter()
                    .fold(first, |y, conv| conv.rounded(hwgq(y, bits_here, step), width, bits_here));
                let y = match self.spec.is_open() {
                    true => y * alpha.clone().narrow(0, i * bits.len() + width, 1).reshape([1; 4]),
                    false => y,
                };
                sum = add(sum, y);
            }
        }
        sum.expect("a place has an operation")
    }

    /// Every operation once, with noise of all widths. Operations share the noise of their input.
    fn noisy(&self, x: Tensor<4>, alpha: &Tensor<1>, draws: &Draws) -> Tensor<4> {
        let EdgeSpec { name, bits, ops, .. } = &*self.spec;
        let positive = |x: Tensor<4>| Activation::Relu.forward(x);
        let x = positive(x);
        let own = noise_of(&x, bits, draws.kind, &mut draws.stream(name, "input"));
        let mut sum = None;
        for (i, (op, kind)) in self.ops.iter().zip(ops).enumerate() {
            let alpha = alpha.clone().narrow(0, i * bits.len(), bits.len());
            let mut y = x.clone();
            for (j, conv) in op.convs.iter().enumerate() {
                let noise = match j {
                    0 => own.clone(),
                    _ => {
                        y = positive(y);
                        noise_of(&y, bits, draws.kind, &mut draws.stream(name, &format!("{kind}.{j}.input")))
                    }
                };
                let inputs = mixed(y, alpha.clone(), noise, draws.gradient);
                let weight = conv.weight.val();
                let stream = &mut draws.stream(name, &format!("{kind}.{j}.weight"));
                let noise = noise_of(&weight, bits, draws.kind, stream);
                y = conv.convolve(inputs, mixed(weight, alpha.clone(), noise, draws.gradient));
            }
            sum = add(sum, y * alpha.sum().reshape([1; 4]));
        }
        sum.expect("a place has an operation")
    }

    /// All numbers by their names; weights of a place that is rounded are those that it multiplies with.
    pub(super) fn tensors(&self) -> Vec<Named> {
        let (name, mut all) = (&self.spec.name, Vec::new());
        let mut vector = |part: String, values: Vec<f32>| {
            all.push((format!("{name}.{part}"), vec![values.len()], values));
        };
        for (part, values) in ["weight", "bias", "running_mean", "running_var"].iter().zip(self.norm_parts())
        {
            vector(format!("norm.{part}"), values);
        }
        vector("deviation".into(), host(self.deviation.val()));
        for (i, op) in self.ops.iter().enumerate() {
            for (j, conv) in op.convs.iter().enumerate() {
                let base = format!("{name}.{}.{j}", self.spec.ops[i]);
                let mut weight = conv.weight.val();
                let dims = weight.dims();
                if let ([bits], [steps]) = (&self.spec.bits[..], &conv.steps[..]) {
                    weight = lsq_rows(weight, steps.val(), *bits);
                }
                all.push((format!("{base}.weight"), dims.to_vec(), host(weight)));
                all.push((format!("{base}.bias"), vec![dims[0]], host(conv.bias.val())));
                for (bits, steps) in self.spec.bits.iter().zip(&conv.steps) {
                    let steps = host(positive(steps.val()));
                    all.push((format!("{base}.step.int{bits}"), vec![dims[0]], steps));
                }
            }
        }
        all
    }

    fn norm_parts(&self) -> [Vec<f32>; 4] {
        let BatchNorm { gain, bias, mean, variance, .. } = &self.norm;
        [gain, bias, mean, variance].map(|part| host(part.val()))
    }

    /// The same place with the numbers that `read` has for the names of [`Edge::tensors`].
    pub(super) fn filled<E>(
        mut self,
        device: &Device,
        read: impl Fn(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let name = self.spec.name.clone();
        let vector = |part: String, n: usize| -> Result<Tensor<1>, E> {
            Ok(tensor(read(&format!("{name}.{part}"), &[n])?, [n], device))
        };
        let norm = |part: &str| vector(format!("norm.{part}"), self.spec.inputs);
        let parts = [norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?];
        self.norm = self.norm.with_parts(parts);
        self.deviation = Param::from_tensor(vector("deviation".into(), 2)?);
        for (op, kind) in self.ops.iter_mut().zip(&self.spec.ops) {
            for (j, conv) in op.convs.iter_mut().enumerate() {
                let [rows, cols] = conv.weight.dims();
                let weight = read(&format!("{name}.{kind}.{j}.weight"), &[rows, cols])?;
                conv.weight = Param::from_tensor(tensor(weight, [rows, cols], device));
                conv.bias = Param::from_tensor(vector(format!("{kind}.{j}.bias"), rows)?);
                for (bits, steps) in self.spec.bits.iter().zip(&mut conv.steps) {
                    *steps = Param::from_tensor(vector(format!("{kind}.{j}.step.int{bits}"), rows)?);
                }
            }
        }
        Ok(self)
    }
}
