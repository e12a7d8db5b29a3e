//! The model, what compresses it, and what makes up for that.

use burn::tensor::Device;
use rayon::prelude::*;
use trimtab::calibration::Calibration;
use trimtab::floors::calibrate::stream::reading_groups;
use trimtab::floors::calibrate::{BlockRun, Inputs, Moment, SiteEvidence, Stream, StreamSettings, Treated};
use trimtab::floors::io::{AffineScheme, BranchFactors, Dtype};
use trimtab::floors::mend::eora::{EoraSettings, Variant, eora};
use trimtab::floors::models::Model;
use trimtab::floors::nn::{Branch, Network, SiteMeta};
use trimtab::inventory::TreatedSite;
use trimtab::judge::Quality;
use trimtab::measure::{Overlay, Put, put};
use trimtab::quantizer::{Method, Quantizer};
use trimtab::scheme::Scheme;

use super::Eora;
use crate::error::{Error, Result};
use crate::experiments::wikilm::{Failure, WINDOW, WikiLm};
use crate::lab::Lab;

/// A text that is not the task.
const OTHER: &str = "text/wikitext2/valid.txt";
/// Windows to calibrate on, and to judge on.
const SAMPLES: usize = 8;
const JUDGED: usize = 16;
/// Weights that share a scale.
const GROUP: usize = 64;
/// Networks that are held at once.
const AT_ONCE: usize = 8;

/// What is done to a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    /// Rounded to nearest, groups of 64.
    Rtn(u8),
    /// GPTQ, groups of 64.
    Gptq(u8),
    /// GPTQ with groups of another size.
    Groups(u8, usize),
    /// Of four weights in a row the two of least magnitude become zero.
    TwoOfFour,
}

impl Compressor {
    /// Those that branches make up for.
    pub const ALL: [Self; 4] = [Self::Rtn(2), Self::Gptq(2), Self::Gptq(3), Self::TwoOfFour];
    /// What the bytes of branches buy otherwise.
    pub const SAME_BYTES: [Self; 3] = [Self::Groups(2, 16), Self::Gptq(4), Self::Gptq(5)];

    pub fn name(self) -> String {
        match self {
            Self::Rtn(bits) => format!("RTN-{bits}"),
            Self::Gptq(bits) => format!("GPTQ-{bits}"),
            Self::Groups(bits, group) => format!("GPTQ-{bits} g{group}"),
            Self::TwoOfFour => "2:4".into(),
        }
    }

    fn scheme(self) -> Option<(Method, AffineScheme)> {
        let of = |bits, group| AffineScheme { bits, group_size: Some(group), symmetric: false };
        match self {
            Self::Rtn(bits) => Some((Method::Rtn, of(bits, GROUP))),
            Self::Gptq(bits) => Some((Method::Gptq, of(bits, GROUP))),
            Self::Groups(bits, group) => Some((Method::Gptq, of(bits, group))),
            Self::TwoOfFour => None,
        }
    }

    /// Bytes of a weight: codes with scales and zero points; of 2:4 the kept numbers and two bits each for their places.
    fn bytes(self, site: &TreatedSite) -> u64 {
        match self.scheme() {
            Some((_, scheme)) => Scheme::Affine(scheme).bytes(&site.meta, site.dtype),
            None => (site.meta.numel() * site.dtype.size() / 2 + site.meta.numel() / 8) as u64,
        }
    }

    /// The weight as it becomes.
    pub fn change(
        self,
        site: &TreatedSite,
        weight: &[f32],
        h: Option<&Moment>,
    ) -> std::result::Result<Vec<f32>, Failure> {
        let Some((method, scheme)) = self.scheme() else { return Ok(two_of_four(weight)) };
        let quantizer = Quantizer::plain(method);
        let treatment = quantizer.treatment(Scheme::Affine(scheme), site.dtype, h.is_some());
        let treatment = treatment.ok_or("codes are a treatment")?;
        Ok(
            match treatment
                .treat(&site.meta, weight, SiteEvidence { second_moment: h, fisher: None })?
                .treated
            {
                Treated::Coded(codes) => codes.dequantize(),
                Treated::Dense(values) => values,
            },
        )
    }
}

/// Keeps the two of largest magnitude among each four in a row; of equal ones the first.
fn two_of_four(weight: &[f32]) -> Vec<f32> {
    let mut out = weight.to_vec();
    for four in out.chunks_mut(4) {
        let mut order: Vec<usize> = (0..four.len()).collect();
        order.sort_by(|&i, &j| four[j].abs().total_cmp(&four[i].abs()));
        order.into_iter().skip(2).for_each(|i| four[i] = 0.0);
    }
    out
}

/// One way to a small model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm {
    pub compressor: Compressor,
    /// Which branch, of which rank.
    pub branch: Option<(Variant, usize)>,
}

/// An arm as measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub arm: Arm,
    pub bits_per_weight: f64,
    pub perplexity: f64,
    pub kl: f64,
}

/// The model and what it is judged on.
pub struct Lm(WikiLm);

impl Lm {
    pub fn open(lab: &Lab<'_>) -> Result<Self> {
        WikiLm::open(lab, JUDGED).map(Self).map_err(Eora::failed("the model"))
    }

    pub fn describe(&self) -> String {
        format!(
            "{}; {SAMPLES} windows of {WINDOW} tokens to calibrate on, {JUDGED} to judge on",
            self.0.describe()
        )
    }

    /// A sample of the reviews.
    pub fn on_task(&self, seed: u64, lab: &Lab<'_>) -> Result<Calibration> {
        self.0.calibration(lab, SAMPLES, seed).map_err(Eora::failed("calibration"))
    }

    /// A sample of another text.
    pub fn on_other(&self, seed: u64, lab: &Lab<'_>) -> Result<Calibration> {
        self.0.calibration_on(OTHER, lab, SAMPLES, seed).map_err(Eora::failed("calibration"))
    }

    /// Compresses the model in each way and judges the results.
    pub fn measure(
        &self,
        arms: &[Arm],
        calibration: &Calibration,
        lab: &Lab<'_>,
        what: &str,
    ) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for (i, part) in arms.chunks(AT_ONCE).enumerate() {
            lab.tell(&format!("{what}: {} of {} models", i * AT_ONCE, arms.len()))?;
            let networks: Vec<Network> =
                part.iter().map(|&arm| self.compressed(arm, calibration, lab)).collect::<Result<_>>()?;
            let all: Vec<&Network> = networks.iter().collect();
            let qualities = self.0.judged(&all).map_err(Eora::failed("judging"))?;
            for (&arm, Quality { perplexity, kl, .. }) in part.iter().zip(qualities) {
                let [perplexity, kl] = [perplexity, kl].map(|figure| figure.unwrap_or(f64::NAN));
                outcomes.push(Outcome { arm, bits_per_weight: self.bits_per_weight(arm), perplexity, kl });
            }
        }
        Ok(outcomes)
    }

    /// Everything that the weights and branches of the treated maps take.
    fn bits_per_weight(&self, arm: Arm) -> f64 {
        let bytes = |site: &TreatedSite| {
            let branch = arm.branch.map_or(0, |(_, rank)| {
                BranchFactors::byte_count(rank, [site.meta.rows, site.meta.cols], Dtype::BF16)
            });
            arm.compressor.bytes(site) + branch
        };
        let bytes: u64 = self.0.inventory.sites.iter().map(bytes).sum();
        self.0.inventory.totals.bits_per_weight(bytes).unwrap_or(f64::NAN)
    }

    /// The model with every map compressed and made up for, in the order in which data reach them: each sees what those
    /// before it, with their branches, really produce.
    fn compressed(&self, arm: Arm, calibration: &Calibration, lab: &Lab<'_>) -> Result<Network> {
        let failed = Eora::failed::<Failure>("compression");
        let mut overlay = Overlay::new();
        let settings = StreamSettings { inputs: Inputs::Treated, ..StreamSettings::default() };
        let stream = Stream::new(&self.0.model, &calibration.batches, Device::flex(), settings);
        stream
            .run(|block| -> std::result::Result<(), Boxed> {
                if lab.stops() {
                    return Err(Boxed(Box::new(Error::Stopped)));
                }
                self.block(arm, block, &mut overlay).map_err(Boxed)
            })
            .map_err(|Boxed(source)| match source.downcast::<Error>() {
                Ok(stopped) => *stopped,
                Err(source) => failed(source),
            })?;
        let mut network = self.0.model.network().map_err(|e| failed(Box::new(e)))?;
        put(&mut network, &overlay).map_err(|e| failed(Box::new(e)))?;
        Ok(network)
    }

    fn block(
        &self,
        arm: Arm,
        block: &mut BlockRun<'_>,
        overlay: &mut Overlay,
    ) -> std::result::Result<(), Failure> {
        let sites: Vec<&TreatedSite> = self.sites(block.index()).collect();
        for group in reading_groups(sites.iter().map(|site| &site.meta)) {
            let moments = block.second_moments(&group)?;
            let weights: Vec<(&SiteMeta, Vec<f32>)> = group
                .iter()
                .map(|&meta| Ok((meta, block.site(&meta.name)?.to_f32())))
                .collect::<std::result::Result<_, Failure>>()?;
            let one = |(meta, weight): &(&SiteMeta, Vec<f32>)| -> std::result::Result<Put, Failure> {
                let site =
                    sites.iter().find(|site| site.meta.name == meta.name).ok_or("a site of the group")?;
                let h = moments.get(&meta.name).map(|h| h.as_ref());
                let changed = arm.compressor.change(site, weight, h)?;
                let factors = match arm.branch {
                    None => None,
                    Some((variant, rank)) => {
                        let settings = EoraSettings { variant, ..EoraSettings::default() };
                        eora(weight, &changed, meta.rows, h.map(Moment::mean), rank, &settings)?
                            .factors(Dtype::BF16)?
                    }
                };
                let branches = factors.iter().map(|factors| Branch::of(factors, &Device::flex())).collect();
                Ok(Put { weight: Treated::Dense(changed).into_weight(meta)?, branches })
            };
            let done: Vec<Put> = weights.par_iter().map(one).collect::<std::result::Result<_, _>>()?;
            for ((meta, _), put) in weights.iter().zip(done) {
                put.clone().into_site(block.site_mut(&meta.name)?)?;
                overlay.insert(meta.name.clone(), put);
            }
        }
        Ok(())
    }

    /// The treated sites of a stage.
    pub fn sites(&self, stage: usize) -> impl Iterator<Item = &TreatedSite> {
        self.0.inventory.sites.iter().filter(move |site| site.stage == stage)
    }

    pub fn model(&self) -> &Model {
        &self.0.model
    }

    pub fn held_out(&self) -> &[u32] {
        self.0.held_out()
    }
}

/// An error on its way through the stream.
struct Boxed(Failure);

impl From<trimtab::floors::calibrate::Error> for Boxed {
    fn from(error: trimtab::floors::calibrate::Error) -> Self {
        Self(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_four_by_hand() {
        assert_eq!(
            two_of_four(&[1.0, -3.0, 2.0, 0.5, 1.0, 1.0, 1.0, -1.0]),
            [0.0, -3.0, 2.0, 0.0, 1.0, 1.0, 0.0, 0.0]
        );
    }
}
