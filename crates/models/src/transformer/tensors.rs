//! Tensors that are neither sites nor norms, and a way to give all of them back by name.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use trimtab_nn::{Norm, Site};

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
    pub(crate) fn new(name: String, shape: Vec<usize>, values: Tensor<2>) -> Self {
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

/// A tensor by its name in the checkpoint: name, shape, numbers.
pub type Named = (String, Vec<usize>, Vec<f32>);

fn numbers(data: TensorData) -> Vec<f32> {
    data.try_into_vec().expect("the house computes in f32")
}

pub(crate) fn of_site(site: &Site) -> impl Iterator<Item = Named> {
    let meta = site.meta();
    let mut weight = site.weight.to_f32();
    if meta.transposed {
        weight = trimtab_io::transpose(&weight, meta.rows, meta.cols);
    }
    let bias = site.bias.as_ref();
    let bias =
        bias.map(|bias| (format!("{}.bias", meta.name), vec![meta.rows], numbers(bias.val().into_data())));
    std::iter::once((meta.weight_name(), meta.stored_shape(), weight)).chain(bias)
}

pub(crate) fn of_norm(norm: &Norm) -> impl Iterator<Item = Named> {
    let shape = vec![norm.axis().size()];
    let part = |part: &str, tensor: Tensor<1>| {
        (format!("{}.{part}", norm.name()), shape.clone(), numbers(tensor.into_data()))
    };
    let bias = norm.bias.as_ref().map(|bias| part("bias", bias.val()));
    std::iter::once(part("weight", norm.gain.val())).chain(bias).collect::<Vec<_>>().into_iter()
}

pub(crate) fn of_table(table: &Table) -> Named {
    (table.name.clone(), table.shape.clone(), numbers(table.rows().into_data()))
}
