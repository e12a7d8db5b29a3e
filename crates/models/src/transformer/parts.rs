//! Pieces of a plan: what a stage is made of, and the tensors that hold it.

use trimtab_nn::{Axis, Role, SiteMeta, StageInfo};

use super::{Initial, NormStyle, TransformerConfig};

/// A site and how it is stored.
#[derive(Clone, Debug)]
pub(crate) struct SitePlan {
    pub meta: SiteMeta,
    pub bias: bool,
    /// What the weight is before it is trained.
    pub start: Start,
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
    /// Random; it makes queries.
    Queries,
    /// Random; a row for each token of the vocabulary.
    Vocabulary,
    /// Random with this standard deviation.
    Spread(f32),
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
            let (name, shape) = (site.meta.weight_name(), site.meta.stored_shape());
            let weight = Blank { name, shape, start: site.start };
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

    /// The same with the spreads that a rule gives to new weights.
    pub fn started(mut self, config: &TransformerConfig) -> Self {
        if config.initial == Initial::House {
            return self;
        }
        let root = |fan_in: usize| (fan_in as f32).powf(-0.5);
        for site in &mut self.sites {
            site.start = match site.start {
                Start::Normal | Start::Small => Start::Spread(root(site.meta.cols)),
                // Scores are not divided by the root of the width of a head: queries are that much smaller.
                Start::Queries => Start::Spread(root(site.meta.cols * config.head_width)),
                Start::Vocabulary => Start::Spread(1.0),
                set => set,
            };
        }
        for table in self.tables.iter_mut().filter(|table| table.start == Start::Normal) {
            table.start = Start::Spread(root(config.width));
        }
        self
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
