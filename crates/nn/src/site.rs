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
use crate::conv::ConvGeometry;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
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
    /// Weights of the site.
    pub fn numel(&self) -> usize {
        self.rows * self.cols
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

/// An operation on the input of a site.
#[derive(Module, Debug)]
pub enum InputOp {
    /// Multiplies channel `c` by `scale[c]` (`[in]`); the weight holds the inverse.
    Scale(Param<Tensor<1>>),
    /// Rounds it to few bits.
    Quantize(ActivationQuantizer),
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
        Ok(Self { weight, bias, input: Vec::new(), branches: Vec::new(), meta: Arc::new(meta) })
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
        let channels = self.input_channels();
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
            InputOp::Scale(_) => None,
        })
    }

    /// Channels of the input: of a convolution, those of its images.
    pub fn input_channels(&self) -> usize {
        match &self.meta.kind {
            SiteKind::Conv(conv) | SiteKind::Conv1d(conv) => {
                self.meta.cols / (conv.kernel[0] * conv.kernel[1]) * conv.groups
            }
            SiteKind::Linear | SiteKind::Embedding => self.meta.cols,
        }
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
        let x = self.prepare(x.reshape([n, dims[D - 1]]));
        self.show_input(&x, ctx);
        if ctx.is_done() {
            dims[D - 1] = self.meta.rows;
            return Tensor::zeros(dims, &x.device());
        }
        let added: Vec<Tensor<2>> = self.branches.iter().map(|branch| branch.forward(x.clone())).collect();
        let mut y = self.weight.multiply(x.clone());
        if let Some(bias) = &self.bias {
            y = y + bias.val().unsqueeze();
        }
        y = added.into_iter().fold(y, |y, part| y + part);
        if let Some(capture) = ctx.capture.as_deref_mut() {
            y = capture.linear(self.name(), self.bias.is_some(), samples, &x, y);
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
        let channels = self.input_channels();
        let Some(size) = geometry.output([h, w]).filter(|_| c == channels) else {
            let least = [0, 1].map(|i| kernel[i].saturating_sub(2 * padding[i]).max(1));
            return Err(Error::Image { site: self.meta.name.clone(), channels, least, found: [c, h, w] });
        };
        let x = self.prepare_images(x);
        if ctx.taps.as_ref().is_some_and(|taps| taps.observes(self.name())) {
            self.show_input(&geometry.patches(x.clone()), ctx);
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

    fn prepare(&self, x: Tensor<2>) -> Tensor<2> {
        self.input.iter().fold(x, |x, op| match op {
            InputOp::Scale(scale) => x * scale.val().unsqueeze(),
            InputOp::Quantize(quantizer) => quantizer.rows(x),
        })
    }

    /// Operations on the images of a convolution, whose channels they go by; zeros are put beside them afterwards.
    fn prepare_images(&self, x: Tensor<4>) -> Tensor<4> {
        self.input.iter().fold(x, |x, op| match op {
            InputOp::Scale(scale) => x * scale.val().reshape([1, -1, 1, 1]),
            InputOp::Quantize(quantizer) => quantizer.images(x),
        })
    }

    fn show_input(&self, x: &Tensor<2>, ctx: &mut Ctx<'_>) {
        let Some(taps) = ctx.taps.as_mut().filter(|taps| taps.observes(&self.meta.name)) else { return };
        let [n, width] = x.dims();
        let rows = host(x.clone());
        let spread = spread(ctx.row_weights, n);
        taps.input(&self.meta, TapRows { rows: &rows, width, weights: spread.as_deref() });
    }

    fn show_output(&self, y: &Tensor<2>, ctx: &mut Ctx<'_>) {
        let Some(taps) = ctx.taps.as_mut().filter(|taps| taps.wants_output(&self.meta.name)) else { return };
        let [n, width] = y.dims();
        let rows = host(y.clone());
        let spread = spread(ctx.row_weights, n);
        taps.output(&self.meta, TapRows { rows: &rows, width, weights: spread.as_deref() });
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
mod tests {
    use std::sync::Mutex;

    use burn::tensor::TensorData;

    use super::*;
    use crate::activation::{ActivationGranularity, ActivationScheme};
    use crate::tap::{Tap, TapSet};

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    fn site(values: &[f32], rows: usize, cols: usize) -> Site {
        let meta = SiteMeta {
            name: "up".into(),
            kind: SiteKind::Linear,
            rows,
            cols,
            transposed: false,
            input: Axis::new("residual", cols),
            output: Axis::new("hidden", rows),
            reads: "mlp".into(),
            fused: None,
        };
        Site::new(meta, Weight::dense(tensor(values, [rows, cols])), None).unwrap()
    }

    #[test]
    fn scale_and_low_rank_branch_add_up_as_written() {
        // W = [[1, 2]], s = [2, 1], x = [1, 1]: W(s x) = 4; branch: 0.5 * B(A (s x)) = 0.5 * 3 * (2 + 1) = 4.5.
        let mut site = site(&[1.0, 2.0], 1, 2);
        site.input.push(InputOp::Scale(Param::from_tensor(tensor(&[2.0, 1.0], [2]))));
        let a = Param::from_tensor(tensor(&[1.0, 1.0], [1, 2]));
        let b = Param::from_tensor(tensor(&[3.0], [1, 1]));
        site.branches.push(Branch::LowRank(LowRank { a, b, scale: 0.5 }));
        let y = site.forward(tensor(&[1.0, 1.0], [1, 1, 2]), &mut Ctx::default());
        assert_eq!(host(y), [8.5]);
    }

    #[test]
    fn a_branch_of_a_file_is_in_the_whole_map_in_rows_by_index_and_in_convolutions() {
        // W = [[1, 2], [0, 1]], B A = [1, 3]^T [2, -1].
        let factors = BranchFactors::from_f32(&[2.0, -1.0], &[1.0, 3.0], 1, trimtab_io::Dtype::F32).unwrap();
        let branch = || Branch::of(&factors, &Device::flex());
        let mut site = site(&[1.0, 2.0, 0.0, 1.0], 2, 2);
        site.set_branches(vec![branch()]).unwrap();
        assert_eq!(site.to_f32(), [3.0, 1.0, 6.0, -2.0]);
        let y = site.forward(tensor(&[1.0, 1.0], [1, 1, 2]), &mut Ctx::default());
        assert_eq!(host(y), [4.0, 4.0]);
        let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![1i64, 0], [1, 2]), &Device::flex());
        assert_eq!(host(site.lookup(ids, &mut Ctx::default())), [6.0, -2.0, 3.0, 1.0]);
        // One pixel of two channels, seen by a kernel of one: the same map.
        let geometry = ConvGeometry::same(1, 1);
        let meta = SiteMeta { kind: SiteKind::Conv(geometry), ..site.meta().clone() };
        let mut conv = Site::new(meta, site.weight.clone(), None).unwrap();
        let image = tensor(&[1.0, 1.0], [1, 2, 1, 1]);
        assert_eq!(host(conv.convolve(image.clone(), &mut Ctx::default()).unwrap()), [3.0, 1.0]);
        conv.set_branches(vec![branch()]).unwrap();
        assert_eq!(host(conv.convolve(image, &mut Ctx::default()).unwrap()), [4.0, 4.0]);
        let wide = BranchFactors::from_f32(&[1.0; 3], &[1.0; 2], 1, trimtab_io::Dtype::F32).unwrap();
        let refused = site.set_branches(vec![Branch::of(&wide, &Device::flex())]).unwrap_err();
        assert!(refused.to_string().contains("up, branch"), "{refused}");
    }

    #[test]
    fn a_quantized_input_is_what_the_weight_the_branch_and_the_taps_see() {
        // [0, 30] in 4 bits: step 2, so [5, 30] is [4, 30]. W = [[1, 2]], branch 3 (x0 + x1).
        let scheme: ActivationScheme = "int4 token".parse().unwrap();
        let mut site = site(&[1.0, 2.0], 1, 2);
        site.set_activation(Some(ActivationQuantizer::dynamic(scheme).unwrap())).unwrap();
        let a = Param::from_tensor(tensor(&[1.0, 1.0], [1, 2]));
        let b = Param::from_tensor(tensor(&[3.0], [1, 1]));
        site.branches.push(Branch::LowRank(LowRank { a, b, scale: 1.0 }));
        let (y, sum) = summed(|ctx| site.forward(tensor(&[5.0, 30.0], [1, 1, 2]), ctx));
        assert_eq!((host(y), sum), (vec![64.0 + 102.0], 34.0));
        site.set_activation(None).unwrap();
        assert_eq!(
            host(site.forward(tensor(&[5.0, 30.0], [1, 1, 2]), &mut Ctx::default())),
            [170.0],
            "control"
        );
        let steps = vec![scheme.step(0.0, 1.0); 3];
        let channel = ActivationScheme { granularity: ActivationGranularity::Channel, ..scheme };
        let refused = site.set_activation(Some(ActivationQuantizer::new(channel, steps).unwrap()));
        assert!(refused.unwrap_err().to_string().contains("2 channels"));
    }

    #[test]
    fn a_convolution_quantizes_its_image_by_channel_and_pads_with_real_zeros() {
        // Channel 0 has the step 1 and the zero 3 (range [-3, 12]), channel 1 the step 10.
        let scheme = ActivationScheme::new(4, ActivationGranularity::Channel);
        let steps = vec![scheme.step(-3.0, 12.0), scheme.step(0.0, 150.0)];
        let quantizer = ActivationQuantizer::new(scheme, steps).unwrap();
        let image = [1.4, -2.6, 7.0, 0.4, 14.0, 16.0, 99.0, 1.0];
        let rounded = [1.0, -3.0, 7.0, 0.0, 10.0, 20.0, 100.0, 0.0];
        let meta = SiteMeta {
            kind: SiteKind::Conv(ConvGeometry::same(3, 1)),
            cols: 18,
            ..site(&[0.0; 18], 1, 18).meta().clone()
        };
        for device in [Device::flex(), Device::flex().autodiff()] {
            let of = |values: &[f32]| {
                Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 2, 2, 2]), &device)
            };
            let kernel: Vec<f32> = (0..18).map(|i| (i % 7) as f32 - 2.0).collect();
            let kernel = Tensor::from_data(TensorData::new(kernel, [1, 18]), &device);
            let mut conv = Site::new(meta.clone(), Weight::dense(kernel), None).unwrap();
            let expected = host(conv.convolve(of(&rounded), &mut Ctx::default()).unwrap());
            let plain = host(conv.convolve(of(&image), &mut Ctx::default()).unwrap());
            conv.set_activation(Some(quantizer.clone())).unwrap();
            let (found, sum) = summed(|ctx| conv.convolve(of(&image), ctx).unwrap());
            let found = host(found);
            assert_eq!(found, expected);
            assert_ne!(found, plain, "control");
            // Every pixel is in four of the patches, the zeros beside them add nothing.
            assert_eq!(sum, 4.0 * f64::from(rounded.iter().sum::<f32>()));
        }
    }

    #[test]
    fn a_weight_of_another_shape_is_refused() {
        let mut site = site(&[1.0, 2.0], 1, 2);
        let error = site.set_weight(Weight::dense(tensor(&[1.0, 2.0], [2, 1]))).unwrap_err();
        assert!(error.to_string().contains("\"up\""), "{error}");
    }

    #[derive(Default)]
    struct Sum(f64);

    impl Tap for Sum {
        fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String> {
            let weight = |row: usize| rows.weights.map_or(1.0, |w| w[row]);
            for (row, values) in rows.rows.chunks(rows.width).enumerate() {
                self.0 += weight(row) * values.iter().map(|&v| f64::from(v)).sum::<f64>();
            }
            Ok(())
        }
    }

    /// What a run gives, and the sum of what a tap sees meanwhile.
    fn summed<T>(run: impl FnOnce(&mut Ctx<'_>) -> T) -> (T, f64) {
        let (sum, mut taps) = (Arc::new(Mutex::new(Sum::default())), TapSet::new());
        taps.attach("up", Arc::clone(&sum));
        let found = run(&mut Ctx { taps: Some(&mut taps), ..Ctx::default() });
        let sum = sum.lock().unwrap().0;
        (found, sum)
    }

    #[test]
    fn taps_see_rows_with_their_weights() {
        let site = site(&[1.0, 2.0], 1, 2);
        let sum = Arc::new(Mutex::new(Sum::default()));
        let mut taps = TapSet::new();
        taps.attach("up", Arc::clone(&sum));
        let mut ctx = Ctx { taps: Some(&mut taps), row_weights: Some(&[1.0, 0.0]), ..Ctx::default() };
        site.forward(tensor(&[1.0, 2.0, 30.0, 40.0], [1, 2, 2]), &mut ctx);
        assert_eq!(sum.lock().unwrap().0, 3.0, "the second token is padding");
    }

    #[test]
    fn a_step_on_a_tied_weight_sees_the_summed_gradient() {
        // y = sum(E[id] E^T): E is used as a table and as a head; its gradient is the sum of both uses.
        let device = Device::flex().autodiff();
        let values = [0.5f32, -1.0, 2.0, 0.25];
        let tied = Tensor::<2>::from_data(TensorData::new(values.to_vec(), [2, 2]), &device).require_grad();
        let site = Site::new(site(&values, 2, 2).meta().clone(), Weight::dense(tied), None).unwrap();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![0i64], [1, 1]), &device);
        let loss = site.forward(site.lookup(ids, &mut Ctx::default()), &mut Ctx::default()).sum();
        let grads = loss.backward();
        let Weight::Dense(param) = &site.weight else { panic!("dense") };
        let gradient = host(param.val().grad(&grads).unwrap());
        // d/dE of sum_v e0 . e_v: row 0 gets (e0 + e1) as a table plus e0 as a head, row 1 gets e0.
        assert_eq!(gradient, [0.5 + 2.0 + 0.5, -1.0 + 0.25 - 1.0, 0.5, -1.0]);
    }
}
