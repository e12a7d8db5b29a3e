//! What a layer of a network is, before its numbers are read.

use trimtab_nn::conv::ConvGeometry;
use trimtab_nn::{Activation, Axis, SiteMeta};

/// A layer before its numbers are read.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// A convolution; with `same`, zeros are added first so that the output has `size / stride` pixels, rounded up.
    Conv {
        site: SiteMeta,
        bias: bool,
        same: bool,
    },
    Linear {
        site: SiteMeta,
        bias: bool,
    },
    /// With `counter`, the file also holds the number of training batches.
    BatchNorm {
        name: String,
        axis: Axis,
        eps: f64,
        counter: bool,
    },
    LayerNorm {
        name: String,
        axis: Axis,
        eps: f64,
    },
    Act(Activation),
    Max(ConvGeometry),
    Average(ConvGeometry),
    Global,
    Flatten(usize),
    Squeeze {
        reduce: Box<Op>,
        expand: Box<Op>,
        act: Activation,
        gate: Activation,
    },
    Scale {
        name: String,
        shape: Vec<usize>,
    },
}

impl Op {
    /// Its sites and whether each has a bias, in the order in which data reaches them.
    pub fn sites(&self) -> Vec<(&SiteMeta, bool)> {
        match self {
            Self::Conv { site, bias, .. } | Self::Linear { site, bias } => vec![(site, *bias)],
            Self::Squeeze { reduce, expand, .. } => [reduce.sites(), expand.sites()].concat(),
            _ => Vec::new(),
        }
    }

    /// Its tensors and the numbers in each.
    pub fn tensors(&self) -> Vec<(String, usize)> {
        let of = |name: &str, parts: &[&str], n: usize| {
            parts.iter().map(|part| (format!("{name}.{part}"), n)).collect::<Vec<_>>()
        };
        match self {
            Self::BatchNorm { name, axis, counter, .. } => {
                let mut all = of(name, &["weight", "bias", "running_mean", "running_var"], axis.size());
                all.extend(counter.then(|| (format!("{name}.num_batches_tracked"), 1)));
                all
            }
            Self::LayerNorm { name, axis, .. } => of(name, &["weight", "bias"], axis.size()),
            Self::Scale { name, shape } => vec![(name.clone(), shape.iter().product())],
            _ => {
                let site = |(site, bias): (&SiteMeta, bool)| {
                    let mut all = vec![(site.weight_name(), site.numel())];
                    all.extend(bias.then(|| (format!("{}.bias", site.name), site.rows)));
                    all
                };
                self.sites().into_iter().flat_map(site).collect()
            }
        }
    }
}
