//! What holds numbers: every layer of a stage, and every tensor of a layer by its name in the checkpoint.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use trimtab_io::transpose;

use crate::batch_norm::BatchNorm;
use crate::input_op::InputOp;
use crate::norm::Norm;
use crate::site::{Branch, Site};
use crate::weight::{Weight, host};

/// A tensor that is added or multiplied: positions, token types, layer scales.
#[derive(Module, Debug)]
pub struct Table {
    /// All dimensions but the last as rows.
    values: Param<Tensor<2>>,
    #[module(skip)]
    name: String,
    #[module(skip)]
    shape: Vec<usize>,
}

impl Table {
    /// A tensor of this `shape` in the checkpoint, all dimensions but the last as the rows of `values`.
    pub fn new(name: String, shape: Vec<usize>, values: Tensor<2>) -> Self {
        Self { values: Param::from_tensor(values), name, shape }
    }

    /// The rows, `[n, C]`.
    pub fn rows(&self) -> Tensor<2> {
        self.values.val()
    }

    /// Name of the tensor in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A layer of a stage.
#[derive(Clone, Copy, Debug)]
pub enum Layer<'a> {
    /// A linear map.
    Site(&'a Site),
    /// A norm over the channels.
    Norm(&'a Norm),
    /// A norm over the batch.
    BatchNorm(&'a BatchNorm),
    /// A tensor that is added or multiplied.
    Table(&'a Table),
}

/// A layer of a stage, to be changed.
#[derive(Debug)]
pub enum LayerMut<'a> {
    /// A linear map.
    Site(&'a mut Site),
    /// A norm over the channels.
    Norm(&'a mut Norm),
    /// A norm over the batch.
    BatchNorm(&'a mut BatchNorm),
    /// A tensor that is added or multiplied.
    Table(&'a mut Table),
}

/// A tensor of the framework that belongs to a layer. All are held as vectors or matrices, whatever their shape in the file.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// `[n]`.
    Vector(&'a Param<Tensor<1>>),
    /// `[n, m]`.
    Matrix(&'a Param<Tensor<2>>),
}

/// [`Held`], to be changed.
#[derive(Debug)]
pub enum HeldMut<'a> {
    /// `[n]`.
    Vector(&'a mut Param<Tensor<1>>),
    /// `[n, m]`.
    Matrix(&'a mut Param<Tensor<2>>),
}

/// A tensor by its name in the checkpoint: name, shape there, numbers in its order.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// The names of the tensors of a layer, in the order in which both kinds of reference list them.
macro_rules! tensors {
    ($layer:expr, $kind:ident, $held:ident $(, $mutable:tt)?) => {
        match $layer {
            $kind::Site(site) => {
                let name = site.name().to_string();
                let mut all = Vec::new();
                if let Weight::Dense(weight) = & $($mutable)? site.weight {
                    all.push((format!("{name}.weight"), $held::Matrix(weight)));
                }
                if let Some(bias) = & $($mutable)? site.bias {
                    all.push((format!("{name}.bias"), $held::Vector(bias)));
                }
                for (i, op) in (& $($mutable)? site.input).into_iter().enumerate() {
                    match op {
                        InputOp::Scale(scale) => all.push((format!("{name}.input.{i}.scale"), $held::Vector(scale))),
                        InputOp::Grid(grid) => {
                            all.push((format!("{name}.input.{i}.step"), $held::Vector(& $($mutable)? grid.step)));
                        }
                        InputOp::Signs(_) | InputOp::Quantize(_) => {}
                    }
                }
                for (i, Branch::LowRank(branch)) in (& $($mutable)? site.branches).into_iter().enumerate() {
                    all.push((format!("{name}.branches.{i}.a"), $held::Matrix(& $($mutable)? branch.a)));
                    all.push((format!("{name}.branches.{i}.b"), $held::Matrix(& $($mutable)? branch.b)));
                }
                all
            }
            $kind::Norm(norm) => {
                let name = norm.name().to_string();
                let mut all = vec![(format!("{name}.weight"), $held::Vector(& $($mutable)? norm.gain))];
                if let Some(bias) = & $($mutable)? norm.bias {
                    all.push((format!("{name}.bias"), $held::Vector(bias)));
                }
                all
            }
            $kind::BatchNorm(norm) => {
                let name = norm.name().to_string();
                vec![
                    (format!("{name}.weight"), $held::Vector(& $($mutable)? norm.gain)),
                    (format!("{name}.bias"), $held::Vector(& $($mutable)? norm.bias)),
                    (format!("{name}.running_mean"), $held::Vector(& $($mutable)? norm.mean)),
                    (format!("{name}.running_var"), $held::Vector(& $($mutable)? norm.variance)),
                ]
            }
            $kind::Table(table) => {
                vec![(table.name.clone(), $held::Matrix(& $($mutable)? table.values))]
            }
        }
    };
}

impl<'a> Layer<'a> {
    /// The linear map, if the layer is one.
    pub fn site(self) -> Option<&'a Site> {
        match self {
            Self::Site(site) => Some(site),
            _ => None,
        }
    }

    /// Its tensors of the framework by name. A weight that is no tensor of the framework (stored, packed, coded) is not
    /// among them.
    pub fn held(self) -> Vec<(String, Held<'a>)> {
        tensors!(self, Layer, Held)
    }

    /// Its numbers, as a dense checkpoint stores them, branches in the weight; scales of inputs aside.
    pub fn tensors(self) -> Vec<NamedTensor> {
        let vector = |name: String, tensor: Tensor<1>| {
            let values = host(tensor);
            (name, vec![values.len()], values)
        };
        match self {
            Self::Site(site) => {
                let meta = site.meta();
                let mut weight = site.to_f32();
                if meta.transposed {
                    weight = transpose(&weight, meta.rows, meta.cols);
                }
                let bias = site.bias.as_ref().map(|bias| vector(format!("{}.bias", meta.name), bias.val()));
                std::iter::once((meta.weight_name(), meta.stored_shape(), weight)).chain(bias).collect()
            }
            Self::Table(table) => vec![(table.name.clone(), table.shape.clone(), host(table.rows()))],
            Self::Norm(_) | Self::BatchNorm(_) => {
                let one = |(name, held)| match held {
                    Held::Vector(param) => vector(name, param.val()),
                    Held::Matrix(_) => unreachable!("norms hold vectors"),
                };
                self.held().into_iter().map(one).collect()
            }
        }
    }
}

impl<'a> LayerMut<'a> {
    /// The linear map, if the layer is one.
    pub fn site(self) -> Option<&'a mut Site> {
        match self {
            Self::Site(site) => Some(site),
            _ => None,
        }
    }

    /// [`Layer::held`], to be changed.
    pub fn held(self) -> Vec<(String, HeldMut<'a>)> {
        tensors!(self, LayerMut, HeldMut, mut)
    }
}
