//! The site: a named linear map, the place where models and methods meet.
//!
//! A site stores four things and no more: a weight, a bias, operations on its input, and additive branches. All that
//! belongs to one call travels in the [`Ctx`] of [`Site::forward`]. Every network of the house is built from sites,
//! so every method works on every network.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use trimtab_io::{BranchFactors, RawTensor};

use crate::activation::ActivationQuantizer;
use crate::axis::Axis;
use crate::constant::ConstantRows;
use crate::conv::ConvGeometry;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::input_op::InputOp;
use crate::kernels::{self, DenseView};
use crate::tap::TapRows;
use crate::weight::{Weight, host, on_host};

/// What kind of linear map a site is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// `y = x W^T + b`.
    Linear,
    /// Rows of the weight by token; also `y = x W^T` where a tied head borrows it.
    Embedding,
    /// A convolution, seen as the same linear map on im2col patches.
    Conv(ConvGeometry),
    /// A convolution along the last dimension, stored as `[out, in, kw]`; its images have the height 1.
    Conv1d(ConvGeometry),
}

/// What is known of a site without its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteMeta {
    /// Module path in the checkpoint, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Kind of map.
    pub kind: SiteKind,
    /// Output channels.
    pub rows: usize,
    /// Inputs of one output channel.
    pub cols: usize,
    /// Whether the checkpoint stores `[in, out]` (the Conv1D of GPT-2).
    pub transposed: bool,
    /// Axis of the inputs.
    pub input: Axis,
    /// Axis of the outputs.
    pub output: Axis,
    /// Sites of a stage with the same value read the very same rows (query, key and value; gate and up).
    pub reads: String,
    /// Sites that some engines fuse into one matrix, and that must then share one scheme.
    pub fused: Option<String>,
}

impl SiteMeta {
    /// A linear map of its own axes, `[rows, cols]`, that shares its input with no other.
    pub fn linear(name: impl Into<String>, rows: usize, cols: usize) -> Self {
        let name = name.into();
        Self {
            kind: SiteKind::Linear,
            rows,
            cols,
            transposed: false,
            input: Axis::new(format!("{name}.in"), cols),
            output: Axis::new(format!("{name}.out"), rows),
            reads: name.clone(),
            fused: None,
            name,
        }
    }

    /// Weights of the site.
    pub fn numel(&self) -> usize {
        self.rows * self.cols
    }

    /// Channels of the input: of a convolution, those of its images.
    pub fn input_channels(&self) -> usize {
        match &self.kind {
            SiteKind::Conv(conv) | SiteKind::Conv1d(conv) => {
                self.cols / (conv.kernel[0] * conv.kernel[1]) * conv.groups
            }
            SiteKind::Linear | SiteKind::Embedding => self.cols,
        }
    }

    /// Groups of channels that do not meet: rows of the weight go with them in order. 1 but for convolutions with groups.
    pub fn conv_groups(&self) -> usize {
        match &self.kind {
            SiteKind::Conv(conv) | SiteKind::Conv1d(conv) => conv.groups,
            SiteKind::Linear | SiteKind::Embedding => 1,
        }
    }

    /// Name of the weight tensor in a dense checkpoint.
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Shape of the weight tensor in a dense checkpoint.
    pub fn stored_shape(&self) -> Vec<usize> {
        match &self.kind {
            SiteKind::Conv(conv) => {
                let [kh, kw] = conv.kernel;
                vec![self.rows, self.cols / (kh * kw), kh, kw]
            }
            SiteKind::Conv1d(conv) => vec![self.rows, self.cols / conv.kernel[1], conv.kernel[1]],
            _ if self.transposed => vec![self.cols, self.rows],
            _ => vec![self.rows, self.cols],
        }
    }
}

/// An additive side path.
#[derive(Module, Debug)]
pub enum Branch {
    /// `scale * B (A x)`.
    LowRank(LowRank),
}

/// A low-rank branch: `scale * B (A x)`, `A [r, in]`, `B [out, r]`. The scale is never folded silently.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, r]`.
    pub b: Param<Tensor<2>>,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    #[module(skip)]
    pub scale: f64,
}

/// A named linear map.
#[derive(Module, Debug)]
pub struct Site {
    /// The matrix, `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Operations on the input, in order.
    pub input: Vec<InputOp>,
    /// Additive side paths.
    pub branches: Vec<Branch>,
    #[module(skip)]
    constant: Option<Arc<ConstantRows>>,
    #[module(skip)]
    meta: Arc<SiteMeta>,
}

impl Site {
    /// A site whose weight and bias have the shapes that `meta` states.
    pub fn new(meta: SiteMeta, weight: Weight, bias: Option<Tensor<1>>) -> Result<Self> {
        let found = weight.dims();
        if found != [meta.rows, meta.cols] {
            return Err(Error::Shape {
                site: meta.name,
                expected: vec![meta.rows, meta.cols],
                found: found.to_vec(),
            });
        }
        if let Some(bias) = &bias
            && bias.dims() != [meta.rows]
        {
            return Err(Error::Shape {
                site: format!("{}.bias", meta.name),
                expected: vec![meta.rows],
                found: bias.dims().to_vec(),
            });
        }
        let bias = bias.map(Param::from_tensor);
        Ok(Self {
            weight,
            bias,
            input: Vec::new(),
            branches: Vec::new(),
            constant: None,
            meta: Arc::new(meta),
        })
    }

    /// What is known of the site without its numbers.
    pub fn meta(&self) -> &SiteMeta {
        &self.meta
    }

    /// Name of the site.
    pub fn name(&self) -> &str {
        &self.meta.name
    }

    /// Puts another weight in place. Its shape must be that of the site.
    pub fn set_weight(&mut self, weight: Weight) -> Result<()> {
        let [rows, cols] = weight.dims();
        if [rows, cols] != [self.meta.rows, self.meta.cols] {
            return Err(Error::Shape {
                site: self.meta.name.clone(),
                expected: vec![self.meta.rows, self.meta.cols],
                found: vec![rows, cols],
            });
        }
        self.weight = weight;
        Ok(())
    }

    /// Puts other branches in place of those that are there. Their shapes must be that of the weight.
    pub fn set_branches(&mut self, branches: Vec<Branch>) -> Result<()> {
        for Branch::LowRank(branch) in &branches {
            let (a, b) = (branch.a.dims(), branch.b.dims());
            if [b[0], a[1]] != [self.meta.rows, self.meta.cols] || a[0] != b[1] {
                return Err(Error::Shape {
                    site: format!("{}, branch", self.meta.name),
                    expected: vec![self.meta.rows, self.meta.cols],
                    found: vec![b[0], a[1]],
                });
            }
        }
        self.branches = branches;
        Ok(())
    }

    /// Rounds the input from now on as `quantizer` says, in place of what rounded it before; `None` leaves it as it comes.
    ///
    /// # Errors
    ///
    /// Steps for another number of channels, or a table, which reads none.
    pub fn set_activation(&mut self, quantizer: Option<ActivationQuantizer>) -> Result<()> {
        let channels = self.meta.input_channels();
        if let Some(quantizer) = &quantizer {
            let refuse = |why: String| {
                Err(Error::Activation { message: format!("site \"{}\": {why}", self.meta.name) })
            };
            if self.meta.kind == SiteKind::Embedding {
                return refuse("a table reads no activations that could be quantized".into());
            }
            if !quantizer.fits(channels) {
                let found = quantizer.steps().len();
                return refuse(format!("its input has {channels} channels, but {found} steps are given"));
            }
        }
        self.input.retain(|op| !matches!(op, InputOp::Quantize(_)));
        self.input.extend(quantizer.map(InputOp::Quantize));
        Ok(())
    }

    /// What rounds the input.
    pub fn activation(&self) -> Option<&ActivationQuantizer> {
        self.input.iter().find_map(|op| match op {
            InputOp::Quantize(quantizer) => Some(quantizer),
            _ => None,
        })
    }

    /// Answers these input rows by what is known of them from now on, in passes without gradients; `None` multiplies all rows.
    ///
    /// # Errors
    ///
    /// Rows of another site's widths.
    pub fn set_constant(&mut self, constant: Option<ConstantRows>) -> Result<()> {
        if let Some(found) = constant
            .as_ref()
            .map(ConstantRows::widths)
            .filter(|widths| *widths != [self.meta.cols, self.meta.rows])
        {
            return Err(Error::Shape {
                site: format!("{}, constant rows", self.meta.name),
                expected: vec![self.meta.cols, self.meta.rows],
                found: found.to_vec(),
            });
        }
        self.constant = constant.map(Arc::new);
        Ok(())
    }

    /// The numbers of the whole map, `[out, in]`: the weight with its branches in it.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = self.weight.to_f32();
        for Branch::LowRank(branch) in &self.branches {
            let (a, b) = (branch.a.val(), branch.b.val());
            let product = host(b.matmul(a) * branch.scale);
            values.iter_mut().zip(product).for_each(|(w, change)| *w += change);
        }
        values
    }

    /// The linear map: `[.., in] -> [.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &mut Ctx<'_>) -> Tensor<D> {
        let mut dims: [usize; D] = x.dims();
        let (n, samples) = (dims[..D - 1].iter().product(), dims[0]);
        let x = self.beside_branches(x.reshape([n, dims[D - 1]]));
        let constant = self.constant.as_ref().filter(|_| !x.device().is_autodiff());
        let constant = constant.map(|constant| (constant, constant.places(&host(x.clone()))));
        let unrounded = self.prepare(x);
        let integers = self.integers(&unrounded, ctx);
        let x = match self.input.last() {
            // Where integers are multiplied, rounded numbers are only for those who look at them.
            Some(InputOp::Quantize(quantizer)) if integers.is_none() || self.shows_input(ctx) => {
                quantizer.rows(unrounded.clone())
            }
            _ => unrounded.clone(),
        };
        self.show_input(&x, None, ctx);
        if ctx.is_done() {
            dims[D - 1] = self.meta.rows;
            return Tensor::zeros(dims, &x.device());
        }
        let added: Vec<Tensor<2>> = self.branches.iter().map(|branch| branch.forward(x.clone())).collect();
        let mut y = match integers {
            Some(quantizer) => self.weight.multiply_codes(quantizer, unrounded),
            None if self.takes_signs() => self.weight.multiply_signs(x.clone()),
            None => self.weight.multiply(x.clone()),
        };
        if let Some(bias) = &self.bias {
            y = y + bias.val().unsqueeze();
        }
        y = added.into_iter().fold(y, |y, part| y + part);
        if let Some(capture) = ctx.capture.as_deref_mut() {
            y = capture.linear(self.name(), self.bias.is_some(), samples, &x, y);
        }
        if let Some((constant, places)) = constant {
            y = constant.answer(y, &places);
        }
        self.show_output(&y, ctx);
        dims[D - 1] = self.meta.rows;
        y.reshape(dims)
    }

    /// Rows of the weight: `[B, T] -> [B, T, in]`.
    pub fn lookup(&self, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let added = self.branches.iter().map(|branch| branch.lookup(ids.clone()));
        let rows = added.fold(self.weight.lookup(ids.clone()), |rows, part| rows + part);
        let Some(capture) = ctx.capture.as_deref_mut() else { return rows };
        capture.lookup(self.name(), &ids, rows)
    }

    /// The convolution: `[B, C, H, W] -> [B, out, H', W']`. Taps see patches, `[B * groups * H' * W', in/groups * kh * kw]`
    /// image by image and group by group. Panics if the site is no convolution.
    ///
    /// # Errors
    ///
    /// Images with other channels, or smaller than the kernel.
    pub fn convolve(&self, x: Tensor<4>, ctx: &mut Ctx<'_>) -> Result<Tensor<4>> {
        let (SiteKind::Conv(geometry) | SiteKind::Conv1d(geometry)) = &self.meta.kind else {
            panic!("site \"{}\" is not a convolution", self.meta.name)
        };
        let [b, c, h, w] = x.dims();
        let ConvGeometry { kernel, padding, groups, .. } = *geometry;
        let channels = self.meta.input_channels();
        let Some(size) = geometry.output([h, w]).filter(|_| c == channels) else {
            let least = [0, 1].map(|i| kernel[i].saturating_sub(2 * padding[i]).max(1));
            return Err(Error::Image { site: self.meta.name.clone(), channels, least, found: [c, h, w] });
        };
        let x = self.input.iter().fold(self.beside_branches(x), |x, op| op.planes(x));
        if ctx.taps.as_ref().is_some_and(|taps| taps.observes(self.name())) {
            self.show_input(&geometry.patches(x.clone()), Some(size[0] * size[1]), ctx);
        }
        if ctx.is_done() {
            return Ok(Tensor::zeros([b, self.meta.rows, size[0], size[1]], &x.device()));
        }
        let bias = self.bias.as_ref().map(|b| b.val());
        let whole = self.with_branches(&x.device());
        let mut y =
            geometry.convolve(x.clone(), whole.as_ref().unwrap_or(&self.weight), bias, self.meta.rows);
        if let Some(capture) = ctx.capture.as_deref_mut() {
            let patches = geometry.patches(x);
            y = capture.convolution(self.name(), self.bias.is_some(), groups, patches, y);
        }
        if ctx.taps.as_ref().is_some_and(|taps| taps.wants_output(self.name())) {
            let [b, c, h, w] = y.dims();
            self.show_output(&y.clone().permute([0, 2, 3, 1]).reshape([b * h * w, c]), ctx);
        }
        Ok(y)
    }

    /// The weight of a convolution with its branches in it, as the kernel takes it; `None` without branches.
    fn with_branches(&self, device: &Device) -> Option<Weight> {
        if self.branches.is_empty() {
            return None;
        }
        let start = self.weight_tensor(device);
        let product = |Branch::LowRank(branch): &Branch| {
            let [a, b] = branch.on(device);
            b.matmul(a) * branch.scale
        };
        Some(Weight::dense(self.branches.iter().map(product).fold(start, |sum, part| sum + part)))
    }

    /// Whether what is multiplied with the weight are signs.
    fn takes_signs(&self) -> bool {
        matches!(self.input.last(), Some(InputOp::Signs(_)))
    }

    /// The input where the gradients of its branches flow: what frozen weights gave before the first branch carries none yet.
    fn beside_branches<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let trained = self.branches.iter().any(|Branch::LowRank(branch)| branch.a.val().is_autodiff());
        if trained { x.autodiff() } else { x }
    }

    /// The input after all operations, but for a last one that rounds it.
    fn prepare(&self, x: Tensor<2>) -> Tensor<2> {
        let rounds = matches!(self.input.last(), Some(InputOp::Quantize(_)));
        self.input[..self.input.len() - usize::from(rounds)].iter().fold(x, |x, op| op.rows(x))
    }

    /// What makes codes of the input, where codes are multiplied as integers.
    fn integers(&self, x: &Tensor<2>, ctx: &Ctx<'_>) -> Option<&ActivationQuantizer> {
        let Some(InputOp::Quantize(quantizer)) = self.input.last() else { return None };
        let possible = on_host(&x.device()) && ctx.capture.is_none() && quantizer.steps_rows();
        (possible && self.weight.takes_codes()).then_some(quantizer)
    }

    /// Whether somebody but the weight reads the input.
    fn shows_input(&self, ctx: &Ctx<'_>) -> bool {
        !self.branches.is_empty() || ctx.taps.as_ref().is_some_and(|taps| taps.observes(self.name()))
    }

    /// `run`: [`TapRows::run`], where it is not all rows.
    fn show_input(&self, x: &Tensor<2>, run: Option<usize>, ctx: &mut Ctx<'_>) {
        let Some(taps) = ctx.taps.as_mut().filter(|taps| taps.observes(&self.meta.name)) else { return };
        let [n, width] = x.dims();
        let rows = host(x.clone());
        let spread = spread(ctx.row_weights, n);
        let run = run.unwrap_or(n);
        taps.input(&self.meta, TapRows { rows: &rows, width, weights: spread.as_deref(), run });
    }

    fn show_output(&self, y: &Tensor<2>, ctx: &mut Ctx<'_>) {
        let Some(taps) = ctx.taps.as_mut().filter(|taps| taps.wants_output(&self.meta.name)) else { return };
        let [n, width] = y.dims();
        let rows = host(y.clone());
        let spread = spread(ctx.row_weights, n);
        taps.output(&self.meta, TapRows::new(&rows, width, spread.as_deref()));
    }

    /// The matrix as a tensor of the framework.
    pub fn weight_tensor(&self, device: &Device) -> Tensor<2> {
        self.weight.to_tensor(device)
    }
}

/// Weights of `n` rows from the weights of fewer items: every item (an image) owns an equal run of rows (its patches).
fn spread(weights: Option<&[f64]>, n: usize) -> Option<Vec<f64>> {
    let weights = weights.filter(|w| !w.is_empty())?;
    let run = n / weights.len();
    Some(weights.iter().flat_map(|&w| std::iter::repeat_n(w, run)).collect())
}

/// `x M^T` for rows `x` (`[n, in]`) and a matrix `[out, in]`; on the host by the kernel of dense weights.
fn through(x: Tensor<2>, matrix: Tensor<2>) -> Tensor<2> {
    let device = x.device();
    if !on_host(&device) || matrix.device().is_autodiff() {
        return x.matmul(matrix.transpose());
    }
    let ([n, _], [rows, cols]) = (x.dims(), matrix.dims());
    let mut y = vec![0.0f32; n * rows];
    kernels::matmul_dense(&DenseView::f32(rows, cols, &host(matrix)), &host(x), n, &mut y)
        .expect("the shapes of a branch agree since it was put in place");
    Tensor::from_data(TensorData::new(y, [n, rows]), &device)
}

impl LowRank {
    /// Both factors where the rows are: like codes, branches are kept on the host.
    fn on(&self, device: &Device) -> [Tensor<2>; 2] {
        [&self.a, &self.b].map(|factor| {
            let factor = factor.val();
            if factor.device() == *device { factor } else { factor.to_device(device) }
        })
    }
}

impl Branch {
    /// A branch of a checkpoint, of scale 1.
    pub fn of(factors: &BranchFactors, device: &Device) -> Self {
        let matrix = |raw: &RawTensor| {
            let values = raw.to_f32().expect("factors were checked to be floats");
            Param::from_tensor(Tensor::from_data(
                TensorData::new(values, [raw.shape[0], raw.shape[1]]),
                device,
            ))
        };
        Self::LowRank(LowRank { a: matrix(factors.a()), b: matrix(factors.b()), scale: 1.0 })
    }

    /// What the branch adds to rows of a table by index: `[B, T] -> [B, T, in]`.
    fn lookup(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let Self::LowRank(branch) = self;
        let [n, t] = ids.dims();
        let [a, b] = branch.on(&ids.device());
        let inner = burn::tensor::module::embedding(b, ids);
        let [_, _, rank] = inner.dims();
        let rows = inner.reshape([n * t, rank]).matmul(a) * branch.scale;
        let [_, width] = rows.dims();
        rows.reshape([n, t, width])
    }

    /// What the branch adds for rows `x` (`[n, in]`).
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::LowRank(branch) => {
                let [a, b] = branch.on(&x.device());
                through(through(x, a), b) * branch.scale
            }
        }
    }
}

#[cfg(test)]
mod tests;
