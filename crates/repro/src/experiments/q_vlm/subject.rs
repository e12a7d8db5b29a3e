//! wikilm with quantized weights and activations, whose factors are searched in this or that partition.

use std::collections::BTreeMap;
use std::ops::Range;

use trimtab::activations::Activations;
use trimtab::activations::clip_search::{search_block, units};
use trimtab::error::Error as TrimtabError;
use trimtab::floors::calibrate::stream::reading_groups;
use trimtab::floors::calibrate::{Batch, RangeRule, Stream, StreamSettings};
use trimtab::floors::nn::{ActivationQuantizer, Network, SiteMeta};
use trimtab::floors::quantize::qvlm::ClipSearch;
use trimtab::quantizer::{Method, Quantizer};

use super::super::wikilm::{Attempt, WikiLm};
use crate::lab::Lab;

const WEIGHTS: &str = "int4 g64";
const INPUTS: &str = "int4 channel";

/// What is searched together, by stage.
pub(super) type Units = BTreeMap<usize, Vec<Range<usize>>>;

/// The model, to be judged on two sets of windows.
pub(super) struct Subject {
    few: WikiLm,
    wiki: WikiLm,
    /// Layers by stage: sites that read the same rows.
    layers: BTreeMap<usize, Vec<Vec<SiteMeta>>>,
}

/// What a seed's calibration data gave.
pub(super) struct Data {
    /// What factors are searched on.
    batches: Vec<Batch>,
    /// Weights and inputs quantized, min-max.
    base: Network,
    /// Entropy of each layer, in the order of the data.
    pub entropy: Vec<f64>,
    /// Mean step of each layer.
    pub range: Vec<f64>,
    /// The partition that the paper's rule gives.
    pub blocks: Units,
}

impl Subject {
    /// Opens it, dependence to be measured on the first number of windows and arms judged on the second.
    pub(super) fn open(lab: &Lab<'_>, [few, judged]: [usize; 2]) -> Attempt<Self> {
        let (few, wiki) = (WikiLm::open(lab, few)?, WikiLm::open(lab, judged)?);
        let mut sites: BTreeMap<usize, Vec<&SiteMeta>> = BTreeMap::new();
        for site in &wiki.inventory.sites {
            sites.entry(site.stage).or_default().push(&site.meta);
        }
        let owned = |group: Vec<&SiteMeta>| group.into_iter().cloned().collect();
        let of = |metas: Vec<&SiteMeta>| reading_groups(metas).into_iter().map(owned).collect();
        let layers = sites.into_iter().map(|(stage, metas)| (stage, of(metas))).collect();
        Ok(Self { few, wiki, layers })
    }

    pub(super) fn describe(&self) -> String {
        self.wiki.describe()
    }

    fn activations() -> Attempt<Activations> {
        Ok(Activations { range: RangeRule::MinMax, ..Activations::of(INPUTS.parse()?) })
    }

    /// Quantizes with ranges from the first number of windows; factors will be searched on the second.
    pub(super) fn prepare(&self, lab: &Lab<'_>, [ranges, searched]: [usize; 2], seed: u64) -> Attempt<Data> {
        let calibration = self.wiki.calibration(lab, ranges, seed)?;
        let batches = self.wiki.calibration(lab, searched, seed)?.batches;
        let activations = Self::activations()?;
        let quantizer =
            Quantizer { method: Method::Rtn, activations: Some(activations), ..Quantizer::default() };
        let base = self.wiki.treated(WEIGHTS.parse()?, &quantizer, Some(&calibration))?;
        let settings = ClipSearch { rows: calibration.rows, ..ClipSearch::default() };
        let (model, sites) = (&self.wiki.model, &self.wiki.inventory.sites);
        let found = units(model, sites, &calibration.batches, &activations, &settings)?;
        let blocks = self.layers.keys().map(|&stage| (stage, found.of(stage).to_vec())).collect();
        let quantizers = inputs(&base);
        let mean = |group: &Vec<SiteMeta>| {
            let steps = quantizers.get(&group[0].name).map_or(&[][..], |quantizer| quantizer.steps());
            steps.iter().map(|step| f64::from(step.scale)).sum::<f64>() / steps.len().max(1) as f64
        };
        let range = self.layers.values().flatten().map(mean).collect();
        Ok(Data { batches, base, entropy: found.proxies, range, blocks })
    }

    /// For each layer but the last: the KL with its inputs and those of the next rounded, less the KL with each alone.
    pub(super) fn dependence(&self, data: &Data) -> Attempt<Vec<f64>> {
        let layers: Vec<&Vec<SiteMeta>> = self.layers.values().flatten().collect();
        let quantizers = inputs(&data.base);
        let rounded = |own: &[&Vec<SiteMeta>]| -> Attempt<Network> {
            let mut network = self.few.original.clone();
            for meta in own.iter().copied().flatten() {
                let (_, site) = network.site_mut(&meta.name).ok_or("a site is gone")?;
                site.set_activation(quantizers.get(&meta.name).cloned())?;
            }
            Ok(network)
        };
        let mut networks: Vec<Network> = layers.iter().map(|&one| rounded(&[one])).collect::<Attempt<_>>()?;
        networks.extend(layers.windows(2).map(rounded).collect::<Attempt<Vec<_>>>()?);
        let judged = self.few.judged(&networks.iter().collect::<Vec<_>>())?;
        let kl: Vec<f64> = judged.iter().map(|quality| quality.kl.unwrap_or(f64::NAN)).collect();
        let (alone, both) = kl.split_at(layers.len());
        Ok(both.iter().enumerate().map(|(k, both)| both - alone[k] - alone[k + 1]).collect())
    }

    /// The first of every two neighbours in one block of the network, counted over all layers.
    pub(super) fn pairs(&self) -> Vec<usize> {
        let mut first = 0;
        let mut pairs = Vec::new();
        for layers in self.layers.values() {
            pairs.extend(first..first + layers.len().saturating_sub(1));
            first += layers.len();
        }
        pairs
    }

    /// Nothing is searched.
    pub(super) fn none(&self) -> Units {
        self.layers.keys().map(|&stage| (stage, Vec::new())).collect()
    }

    /// These pairs together, all other layers alone.
    pub(super) fn units(&self, pairs: &[usize]) -> Units {
        let (mut first, mut units) = (0, Units::new());
        for (&stage, layers) in &self.layers {
            let (mut own, mut k) = (Vec::new(), 0);
            while k < layers.len() {
                let length = if pairs.contains(&(first + k)) { 2 } else { 1 };
                own.push(k..k + length);
                k += length;
            }
            units.insert(stage, own);
            first += layers.len();
        }
        units
    }

    /// Every two neighbours, one pair after the other.
    pub(super) fn all_pairs(&self) -> Units {
        let of = |layers: &Vec<Vec<SiteMeta>>| (1..layers.len()).map(|k| k - 1..k + 1).collect();
        self.layers.iter().map(|(&stage, layers)| (stage, of(layers))).collect()
    }

    /// The network with the factors that a search finds, and how often errors were measured.
    pub(super) fn searched(&self, data: &Data, units: &Units) -> Attempt<(Network, usize)> {
        let model = &self.wiki.model;
        let settings = ClipSearch { rows: usize::MAX >> 32, ..ClipSearch::default() };
        let (mut network, mut evaluations) = (data.base.clone(), 0);
        let stream = Stream::new(model, &data.batches, model.device().clone(), StreamSettings::default());
        stream.run(|block| -> Result<(), TrimtabError> {
            let index = block.index();
            for site in data.base.stages()[index].sites() {
                let own = block.site_mut(site.name())?;
                own.set_weight(site.weight.clone())?;
                own.set_activation(site.activation().cloned())?;
            }
            let (Some(layers), Some(units)) = (self.layers.get(&index), units.get(&index)) else {
                return Ok(());
            };
            let groups: Vec<Vec<&SiteMeta>> = layers.iter().map(|group| group.iter().collect()).collect();
            for unit in search_block(block, &groups, units, &settings)? {
                evaluations += unit.evaluations;
            }
            for meta in groups.iter().flatten() {
                let found = block.site(&meta.name)?.activation().cloned();
                if let Some((_, site)) = network.site_mut(&meta.name) {
                    site.set_activation(found)?;
                }
            }
            Ok(())
        })?;
        Ok((network, evaluations))
    }

    /// How far a network is from the original on held-out reviews.
    pub(super) fn kl(&self, network: &Network) -> Attempt<f64> {
        let judged = self.wiki.judged(&[network])?;
        Ok(judged.first().and_then(|quality| quality.kl).ok_or("no KL")?)
    }
}

/// What rounds the inputs of a network, by site.
fn inputs(network: &Network) -> BTreeMap<String, ActivationQuantizer> {
    let of = |site: &trimtab::floors::nn::Site| Some((site.name().to_string(), site.activation()?.clone()));
    network.sites().filter_map(of).collect()
}
