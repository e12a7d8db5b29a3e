//! Pieces of a plan: what a stage is made of, and the tensors that hold it.

use trimtab_nn::{Axis, Role, SiteMeta, StageInfo};

use super::NormStyle;

/// A site and how it is stored.
#[derive(Clone, Debug)]
pub(crate) struct SitePlan {
    pub meta: SiteMeta,
    pub bias: bool,
    /// Whether what it computes is added to the residual stream.
    pub writes: bool,
}

/// A norm.
#[derive(Clone, Debug)]
pub(crate) struct NormPlan {
    pub name: String,
    pub axis: Axis,
    pub style: NormStyle,
}

/// A tensor that is neither site nor norm.
#[derive(Clone, Debug)]
pub(crate) struct TablePlan {
    pub tensor: String,
    pub shape: Vec<usize>,
    pub start: Start,
}

/// What the numbers of a new tensor are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    /// Random.
    Normal,
    /// Random and smaller: it writes to the residual stream.
    Small,
    Constant(f32),
}

/// A tensor of the checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Blank {
    pub name: String,
    pub shape: Vec<usize>,
    pub start: Start,
}

/// Everything that a stage is made of, in the order in which data reaches it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub sites: Vec<SitePlan>,
    pub tables: Vec<TablePlan>,
    pub norms: Vec<NormPlan>,
}

impl Parts {
    /// Every tensor. The inventory of a stage and a new checkpoint are both made from this list.
    pub fn tensors(&self) -> Vec<Blank> {
        let sites = self.sites.iter().flat_map(|site| {
            let start = if site.writes { Start::Small } else { Start::Normal };
            let weight = Blank { name: site.meta.weight_name(), shape: site.meta.stored_shape(), start };
            let bias = site.bias.then(|| Blank {
                name: format!("{}.bias", site.meta.name),
                shape: vec![site.meta.rows],
                start: Start::Constant(0.0),
            });
            std::iter::once(weight).chain(bias)
        });
        let tables = self.tables.iter().map(|table| Blank {
            name: table.tensor.clone(),
            shape: table.shape.clone(),
            start: table.start,
        });
        let norms = self.norms.iter().flat_map(|norm| {
            let blank = |part: &str, start: f32| Blank {
                name: format!("{}.{part}", norm.name),
                shape: vec![norm.axis.size()],
                start: Start::Constant(start),
            };
            let bias = norm.style.bias.then(|| blank("bias", 0.0));
            std::iter::once(blank("weight", 1.0 - norm.style.offset)).chain(bias)
        });
        sites.chain(tables).chain(norms).collect()
    }

    /// What is known of the stage before it is loaded.
    pub fn info(&self, role: Role, name: String) -> StageInfo {
        let tensors = self.tensors();
        StageInfo {
            role,
            name,
            sites: self.sites.iter().map(|site| site.meta.clone()).collect(),
            numel: tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum(),
            tensors: tensors.into_iter().map(|tensor| tensor.name).collect(),
            optional: false,
        }
    }
}
