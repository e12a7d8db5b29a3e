//! Gradients of single samples, by their norms, without computing them.
//!
//! The gradient of a linear map for one sample is `sum_t l_t r_t^T` over its rows (tokens, pixels): `l_t` the gradient at the
//! output, `r_t` the input. Its squared norm needs only products of rows, `sum_ts (l_t . l_s) (r_t . r_s)`, and its inner
//! product with a given matrix only one product more. A weight with several uses (a tied embedding) has the rows of all of
//! them, so cross terms count. A lookup is the same map with `l_t` the unit vector of the token.
//!
//! Source: Goodfellow, arXiv:1510.01799; Li et al., arXiv:2110.05679, section 4 ("ghost" norms).
//!
//! A [`Capture`] is filled by the forward pass ([`crate::Ctx::capture`]): every layer adds a tensor of zeros to its output, whose
//! gradient is the gradient at that output.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, Int, Tensor};

use crate::error::{Error, Result};
use crate::weight::host;

/// What single samples do to the trained tensors of a network, as far as the forward pass can tell.
#[derive(Debug, Default)]
pub struct Capture {
    uses: Vec<Use>,
}

/// One use of a tensor by a batch. `samples` equal runs of rows belong to the samples in order.
#[derive(Debug)]
struct Use {
    tensor: String,
    samples: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// `left^T right`: rows of zeros added to the output, and the rows of the input; `[n, out]` and `[n, in]`, group by group
    /// within a sample where there are `groups`.
    Outer { left: Probe, right: Tensor<2>, groups: usize },
    /// Rows looked up by `ids`, `[n]`; the zeros were added to what was found, `[n, in]`.
    Lookup { ids: Tensor<1, Int>, right: Probe },
    /// A vector whose gradient is the sum of the rows at the output, times the rows of `factor` (`[n, C]`) if there are any.
    Sum { left: Probe, factor: Option<Tensor<2>> },
}

/// Zeros that were added to an output, and how their gradient becomes rows.
#[derive(Debug)]
enum Probe {
    /// `[n, C]`.
    Rows(Tensor<2>),
    /// `[B, C, H, W]`; the channels in so many groups.
    Planes(Tensor<4>, usize),
}

impl Probe {
    /// The gradient at the output as rows: `[B * H * W, C]`, or `[B * groups * H * W, C / groups]`, group by group within an
    /// image.
    fn rows(&self, backward: &Gradients) -> Option<Tensor<2>> {
        match self {
            Self::Rows(zeros) => zeros.grad(backward),
            Self::Planes(zeros, groups) => {
                let [b, c, h, w] = zeros.dims();
                let planes = zeros.grad(backward)?.reshape([b * groups, c / groups, h * w]);
                Some(planes.swap_dims(1, 2).reshape([b * groups * h * w, c / groups]))
            }
        }
    }
}

/// Rows of the outer products of one use, split by samples: `[samples * groups, n, width]`.
struct Rows {
    left: Left,
    right: Tensor<3>,
    groups: usize,
}

enum Left {
    Dense(Tensor<3>),
    /// `[samples, n]`.
    Unit(Tensor<2, Int>),
}

/// Rows of the gradient of a vector: `[samples, C]`.
type Sums = Tensor<2>;

impl Capture {
    /// Adds zeros to the rows `y` (`[n, out]`) that a linear map gives for the rows `x` (`[n, in]`), and remembers both.
    pub(crate) fn linear(
        &mut self,
        site: &str,
        bias: bool,
        samples: usize,
        x: &Tensor<2>,
        y: Tensor<2>,
    ) -> Tensor<2> {
        let zeros = Tensor::<2>::zeros(y.dims(), &y.device()).require_grad();
        if bias {
            let kind = Kind::Sum { left: Probe::Rows(zeros.clone()), factor: None };
            self.uses.push(Use { tensor: format!("{site}.bias"), samples, kind });
        }
        let right = x.clone().without_autodiff();
        let kind = Kind::Outer { left: Probe::Rows(zeros.clone()), right, groups: 1 };
        self.uses.push(Use { tensor: format!("{site}.weight"), samples, kind });
        y + zeros
    }

    /// The same for a convolution: `patches` as [`crate::conv::ConvGeometry::patches`] gives them, `y` `[B, out, H, W]`.
    pub(crate) fn convolution(
        &mut self,
        site: &str,
        bias: bool,
        groups: usize,
        patches: Tensor<2>,
        y: Tensor<4>,
    ) -> Tensor<4> {
        let samples = y.dims()[0];
        let zeros = Tensor::<4>::zeros(y.dims(), &y.device()).require_grad();
        if bias {
            let kind = Kind::Sum { left: Probe::Planes(zeros.clone(), 1), factor: None };
            self.uses.push(Use { tensor: format!("{site}.bias"), samples, kind });
        }
        let right = patches.without_autodiff();
        let kind = Kind::Outer { left: Probe::Planes(zeros.clone(), groups), right, groups };
        self.uses.push(Use { tensor: format!("{site}.weight"), samples, kind });
        y + zeros
    }

    /// The same for rows `y` (`[B, T, in]`) that were looked up by `ids` (`[B, T]`).
    pub(crate) fn lookup(&mut self, site: &str, ids: &Tensor<2, Int>, y: Tensor<3>) -> Tensor<3> {
        let [b, t, width] = y.dims();
        let zeros = Tensor::<2>::zeros([b * t, width], &y.device()).require_grad();
        let kind = Kind::Lookup { ids: ids.clone().reshape([b * t]), right: Probe::Rows(zeros.clone()) };
        self.uses.push(Use { tensor: format!("{site}.weight"), samples: b, kind });
        y + zeros.reshape([b, t, width])
    }

    /// The same for a norm: `y` are its outputs as rows `[n, C]`, `normalized` what its gain multiplies.
    pub(crate) fn norm(
        &mut self,
        norm: &str,
        bias: bool,
        samples: usize,
        normalized: Tensor<2>,
        y: Tensor<2>,
    ) -> Tensor<2> {
        let zeros = Tensor::<2>::zeros(y.dims(), &y.device()).require_grad();
        let mut add = |part: &str, factor| {
            let kind = Kind::Sum { left: Probe::Rows(zeros.clone()), factor };
            self.uses.push(Use { tensor: format!("{norm}.{part}"), samples, kind });
        };
        add("weight", Some(normalized.without_autodiff()));
        if bias {
            add("bias", None);
        }
        y + zeros
    }

    /// Takes the gradients at the outputs out of a backward pass over the *sum* of the losses of the samples.
    pub fn resolve(self, backward: &Gradients) -> Resolved {
        let mut resolved = Resolved::default();
        for Use { tensor, samples, kind } in self.uses {
            resolved.samples = resolved.samples.max(samples);
            let split = |rows: Tensor<2>, parts: usize| {
                let [n, width] = rows.dims();
                rows.reshape([parts, n / parts, width])
            };
            match kind {
                Kind::Outer { left, right, groups } => {
                    let Some(left) = left.rows(backward) else { continue };
                    let parts = samples * groups;
                    let rows =
                        Rows { left: Left::Dense(split(left, parts)), right: split(right, parts), groups };
                    resolved.outer.entry(tensor).or_default().push(rows);
                }
                Kind::Lookup { ids, right } => {
                    let Some(right) = right.rows(backward) else { continue };
                    let [n] = ids.dims();
                    let left = Left::Unit(ids.reshape([samples, n / samples]));
                    let rows = Rows { left, right: split(right, samples), groups: 1 };
                    resolved.outer.entry(tensor).or_default().push(rows);
                }
                Kind::Sum { left, factor } => {
                    let Some(rows) = left.rows(backward) else { continue };
                    let rows = match factor {
                        Some(factor) => rows * factor,
                        None => rows,
                    };
                    let [_, width] = rows.dims();
                    let sums = split(rows, samples).sum_dim(1).reshape([samples, width]);
                    resolved.vectors.entry(tensor).or_default().push(sums);
                }
            }
        }
        resolved
    }
}

/// Gradients of single samples in a form from which their norms follow.
#[derive(Default)]
pub struct Resolved {
    samples: usize,
    outer: BTreeMap<String, Vec<Rows>>,
    vectors: BTreeMap<String, Vec<Sums>>,
}

impl Resolved {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Whether this knows the tensor with this name.
    pub fn knows(&self, tensor: &str) -> bool {
        self.outer.contains_key(tensor) || self.vectors.contains_key(tensor)
    }

    /// Squared norm of the gradient of every sample over the tensors that are `wanted`, `[samples]`.
    ///
    /// # Errors
    /// A tensor with several uses in groups, which no layer has.
    pub fn squared_norms(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<f64>> {
        let mut sum = vec![0.0; self.samples];
        for (_, uses) in self.outer.iter().filter(|(name, _)| wanted(name)) {
            for (i, a) in uses.iter().enumerate() {
                for b in &uses[..i] {
                    add(&mut sum, cross(a, b)?, 2.0);
                }
                add(&mut sum, own(a), 1.0);
            }
        }
        for (_, parts) in self.vectors.iter().filter(|(name, _)| wanted(name)) {
            add(&mut sum, host(total(parts).square().sum_dim(1).reshape([self.samples])), 1.0);
        }
        Ok(sum)
    }

    /// Inner product of the gradient of every sample with `direction`, which has a tensor of each name or none; matrices
    /// `[out, in]` and vectors as one row. `[samples]`.
    pub fn products(&self, direction: impl Fn(&str) -> Option<Tensor<1>>) -> Vec<f64> {
        let mut sum = vec![0.0; self.samples];
        for (name, uses) in &self.outer {
            let Some(direction) = direction(name) else { continue };
            for rows in uses {
                add(&mut sum, rows.product(direction.clone()), 1.0);
            }
        }
        for (name, parts) in &self.vectors {
            let Some(direction) = direction(name) else { continue };
            let product = total(parts) * direction.unsqueeze();
            add(&mut sum, host(product.sum_dim(1).reshape([self.samples])), 1.0);
        }
        sum
    }
}

fn total(parts: &[Sums]) -> Sums {
    parts[1..].iter().fold(parts[0].clone(), |sum, part| sum + part.clone())
}

/// Adds `factor * values`, of which equally many belong to each sample.
fn add(sum: &mut [f64], values: Vec<f32>, factor: f64) {
    let run = values.len() / sum.len();
    for (sum, values) in sum.iter_mut().zip(values.chunks(run.max(1))) {
        *sum += factor * values.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
}

/// `sum over the last two dimensions`: `[p, n, m] -> [p]`.
fn sums(x: Tensor<3>) -> Vec<f32> {
    let [parts, n, m] = x.dims();
    host(x.reshape([parts, n * m]).sum_dim(1).reshape([parts]))
}

/// Squared norms of `l^T r`, the cheaper way round.
fn own(rows: &Rows) -> Vec<f32> {
    if let Left::Dense(left) = &rows.left {
        let ([_, n, out], [_, _, width]) = (left.dims(), rows.right.dims());
        if n * (out + width) > out * width {
            return sums(left.clone().swap_dims(1, 2).matmul(rows.right.clone()).square());
        }
    }
    let right = rows.right.clone().matmul(rows.right.clone().swap_dims(1, 2));
    sums(lefts(rows, rows) * right)
}

/// Inner products of `l_a^T r_a` and `l_b^T r_b`.
fn cross(a: &Rows, b: &Rows) -> Result<Vec<f32>> {
    if a.groups != 1 || b.groups != 1 {
        return Err(Error::Load("a weight with groups has one use".into()));
    }
    Ok(sums(lefts(a, b) * a.right.clone().matmul(b.right.clone().swap_dims(1, 2))))
}

/// Products of all left rows of a sample in `a` with all of them in `b`: `[p, n_a, n_b]`.
fn lefts(a: &Rows, b: &Rows) -> Tensor<3> {
    match (&a.left, &b.left) {
        (Left::Dense(a), Left::Dense(b)) => a.clone().matmul(b.clone().swap_dims(1, 2)),
        (Left::Unit(a), Left::Unit(b)) => {
            let ([samples, n], [_, m]) = (a.dims(), b.dims());
            let (a, b) = (a.clone().reshape([samples, n, 1]), b.clone().reshape([samples, 1, m]));
            a.expand([samples, n, m]).equal(b.expand([samples, n, m])).float()
        }
        // The product of a unit vector with a row is one of its entries.
        (Left::Unit(ids), Left::Dense(rows)) => {
            let ([samples, n], [_, m, _]) = (ids.dims(), rows.dims());
            let ids = ids.clone().reshape([samples, 1, n]).expand([samples, m, n]);
            rows.clone().gather(2, ids).swap_dims(1, 2)
        }
        (Left::Dense(_), Left::Unit(_)) => lefts(b, a).swap_dims(1, 2),
    }
}

impl Rows {
    /// Inner products with a matrix, given as one row.
    fn product(&self, matrix: Tensor<1>) -> Vec<f32> {
        let [parts, n, width] = self.right.dims();
        match &self.left {
            Left::Dense(left) => {
                let [_, _, out] = left.dims();
                let (samples, groups) = (parts / self.groups, self.groups);
                let matrix = matrix.reshape([1, groups, out, width]).swap_dims(2, 3);
                let right = self.right.clone().reshape([samples, groups, n, width]);
                sums(right.matmul(matrix).reshape([parts, n, out]) * left.clone())
            }
            Left::Unit(ids) => {
                let matrix: Tensor<2> = matrix.reshape([-1, width as isize]);
                let rows = matrix.select(0, ids.clone().reshape([parts * n])).reshape([parts, n, width]);
                sums(rows * self.right.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::axis::Axis;
    use crate::conv::ConvGeometry;
    use crate::ctx::Ctx;
    use crate::norm::{Norm, NormKind};
    use crate::site::{Site, SiteKind, SiteMeta};
    use crate::weight::Weight;

    fn tensor<const D: usize>(seed: usize, shape: [usize; D]) -> Tensor<D> {
        let n: usize = shape.iter().product();
        let value = |i: usize| ((i * 37 + seed * 101 + i * i * 3) % 97) as f32 / 48.0 - 1.0;
        Tensor::from_data(TensorData::new((0..n).map(value).collect(), shape), &Device::flex().autodiff())
    }

    fn site(name: &str, kind: SiteKind, [rows, cols]: [usize; 2], bias: bool) -> Site {
        let meta = SiteMeta {
            name: name.into(),
            kind,
            rows,
            cols,
            transposed: false,
            input: Axis::new("in", cols),
            output: Axis::new("out", rows),
            reads: name.into(),
            fused: None,
        };
        let bias = bias.then(|| tensor(rows, [rows]));
        Site::new(meta, Weight::dense(tensor(cols + rows, [rows, cols])), bias).unwrap()
    }

    type Tensors = BTreeMap<String, Vec<f32>>;

    /// Gradients of the dense tensors of `sites` and norms, by their names.
    fn gradients(backward: &Gradients, sites: &[&Site], norms: &[&Norm]) -> Tensors {
        let one = |name: String, param: &Param<Tensor<1>>| (name, host(param.val().grad(backward).unwrap()));
        let mut all = Tensors::new();
        for site in sites {
            let Weight::Dense(weight) = &site.weight else { panic!("dense") };
            all.insert(format!("{}.weight", site.name()), host(weight.val().grad(backward).unwrap()));
            all.extend(site.bias.iter().map(|bias| one(format!("{}.bias", site.name()), bias)));
        }
        for norm in norms {
            all.extend([one(format!("{}.weight", norm.name()), &norm.gain)]);
            all.extend(norm.bias.iter().map(|bias| one(format!("{}.bias", norm.name()), bias)));
        }
        all
    }

    fn dot(a: &Tensors, b: &Tensors) -> f64 {
        let pairs = a.iter().flat_map(|(name, a)| a.iter().zip(&b[name]));
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// Norms and products from captures against gradients of one sample after another. `run(sample, ctx)` gives the loss of
    /// one sample, or the sum over all.
    fn check(
        samples: usize,
        run: impl Fn(Option<usize>, &mut Ctx<'_>) -> Tensor<1>,
        sites: &[&Site],
        norms: &[&Norm],
    ) {
        let alone: Vec<Tensors> = (0..samples)
            .map(|i| gradients(&run(Some(i), &mut Ctx::default()).backward(), sites, norms))
            .collect();
        let mut capture = Capture::default();
        let loss = run(None, &mut Ctx { capture: Some(&mut capture), ..Ctx::default() });
        let backward = loss.backward();
        let whole = gradients(&backward, sites, norms);
        let resolved = capture.resolve(&backward);
        assert_eq!(resolved.samples(), samples);
        assert!(whole.keys().all(|name| resolved.knows(name)));
        let found = resolved.squared_norms(|_| true).unwrap();
        let along = resolved.products(|name| {
            let values = whole[name].clone();
            let n = values.len();
            Some(Tensor::from_data(TensorData::new(values, [n]), &Device::flex()))
        });
        for (i, own) in alone.iter().enumerate() {
            let (norm, product) = (dot(own, own), dot(own, &whole));
            assert!((found[i] - norm).abs() < 1e-5 * norm, "sample {i}: {} {norm}", found[i]);
            assert!((along[i] - product).abs() < 1e-5 * dot(&whole, &whole), "{} {product}", along[i]);
        }
        // Each tensor counts: without any one of them the norms are others.
        for name in whole.keys() {
            let part = resolved.squared_norms(|other| other != name).unwrap();
            assert!(part.iter().zip(&found).any(|(a, b)| (a - b).abs() > 1e-3 * b), "{name}");
        }
    }

    #[test]
    fn a_tied_embedding_a_linear_map_and_norms() {
        let embed = site("embed", SiteKind::Embedding, [7, 4], false);
        let up = site("up", SiteKind::Linear, [4, 4], true);
        let parts = |seed| tensor(seed, [4]);
        let layer = Norm::new("layer", (NormKind::Layer, 1e-5), Axis::new("c", 4), parts(1), Some(parts(2)));
        let rms = Norm::new("rms", (NormKind::Rms, 1e-5), Axis::new("c", 4), parts(3), None);
        // Repeated tokens within and between samples.
        let ids = [[1i64, 3, 1], [0, 0, 6], [2, 3, 5]];
        let run = |sample: Option<usize>, ctx: &mut Ctx<'_>| {
            let chosen: Vec<i64> = match sample {
                Some(i) => ids[i].to_vec(),
                None => ids.concat(),
            };
            let shape = [chosen.len() / 3, 3];
            let ids = Tensor::<2, Int>::from_data(TensorData::new(chosen, shape), &Device::flex().autodiff());
            let x = layer.forward(embed.lookup(ids, ctx), ctx);
            let x = x.clone() + up.forward(x, ctx).tanh();
            let x = rms.forward(x, ctx);
            embed.forward(x, ctx).square().sum()
        };
        check(3, run, &[&embed, &up], &[&layer, &rms]);
    }

    #[test]
    fn convolutions_in_groups_and_on_many_and_few_pixels() {
        for (groups, size) in [(1, 9), (2, 5), (2, 2)] {
            let geometry = ConvGeometry { kernel: [3, 3], stride: [2, 2], padding: [1, 1], groups };
            let conv = site("conv", SiteKind::Conv(geometry), [6, 4 / groups * 9], true);
            let head = site("head", SiteKind::Linear, [3, 6], true);
            let images = tensor(size, [4, 4, size, size]);
            let run = |sample: Option<usize>, ctx: &mut Ctx<'_>| {
                let x = match sample {
                    Some(i) => images.clone().narrow(0, i, 1),
                    None => images.clone(),
                };
                let y = conv.convolve(x, ctx).unwrap().tanh();
                let [b, c, h, w] = y.dims();
                let mean = y.reshape([b, c, h * w]).mean_dim(2).reshape([b, c]);
                head.forward(mean, ctx).square().sum()
            };
            check(4, run, &[&conv, &head], &[]);
        }
    }
}
