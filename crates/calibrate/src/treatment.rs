//! What a method has to be, so that it can be priced, planned and applied to any site of any model.

use trimtab_io::Coded;
use trimtab_nn::{SiteMeta, Weight};

use crate::moment::Moment;

/// What was observed of a site.
#[derive(Clone, Copy, Debug, Default)]
pub struct SiteEvidence<'a> {
    /// `H = sum w x x^T / sum w` of the site's input rows; absent in a run without data.
    pub second_moment: Option<&'a Moment>,
    /// Empirical Fisher information of each number of the weight, `[out, in]`; absent where nobody asked for it.
    pub fisher: Option<&'a [f32]>,
}

/// A weight after a treatment.
#[derive(Clone, Debug)]
pub enum Treated {
    /// Codes.
    Coded(Coded),
    /// Dense numbers, `[out, in]`.
    Dense(Vec<f32>),
}

impl Treated {
    /// The weight as a site holds it.
    pub fn into_weight(self, meta: &SiteMeta) -> Result<Weight, trimtab_io::Error> {
        Ok(match self {
            Self::Coded(matrix) => Weight::coded(matrix),
            Self::Dense(values) => Weight::stored(trimtab_io::RawTensor::from_f32(
                vec![meta.rows, meta.cols],
                &values,
                trimtab_io::Dtype::F32,
            )?),
        })
    }
}

/// What a treatment did to a site.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The new weight.
    pub treated: Treated,
    /// `tr((W - Q) H (W - Q)^T)`: the squared output error, summed over outputs, averaged over rows.
    pub damage: f64,
    /// The same for round-to-nearest with the same scheme: the baseline that no site may be worse than.
    pub baseline_damage: f64,
    /// Whether the method came out worse than the baseline, and the baseline was taken instead.
    pub fell_back: bool,
    /// Damping that was used, in parts of the mean diagonal; 0 where none was needed.
    pub damping: f64,
}

/// A method that changes one site at a time.
///
/// It sees a weight and the evidence, and knows no model, no file and no flag.
pub trait Treatment: Sync {
    /// Whether [`SiteEvidence::second_moment`] has to be there.
    fn needs_second_moment(&self) -> bool;

    /// Treats `weight` (`[out, in]`, row-major) of `site`.
    fn treat(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<Outcome, String>;
}
