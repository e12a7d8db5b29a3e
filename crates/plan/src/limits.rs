//! The sizes a budget refers to, and the numeric limits it turns into.

use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::resource::{Costs, Resource, picoseconds};
use crate::units::{bytes_exact, count_short, seconds_short};

/// The model before treatment: what shares and bits per weight refer to.
///
/// "Fixed" is the part that no option touches (and that the option prices therefore leave out).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Totals {
    /// Weights in the treated sites.
    pub treated_weights: u64,
    /// Bytes of the treated sites before treatment.
    pub treated_bytes_original: u64,
    /// Bytes of the whole file before treatment.
    pub file_bytes_original: u64,
    /// Bytes of everything in the file that is not treated, headers included.
    pub file_bytes_fixed: u64,
    /// Multiply-adds of the whole model before treatment, where counted.
    pub macs_total: Option<u64>,
    /// Multiply-adds outside the treated sites.
    pub macs_fixed: u64,
    /// Parameters of the whole model before treatment, where counted.
    pub params_total: Option<u64>,
    /// Parameters outside the treated sites.
    pub params_fixed: u64,
    /// Seconds of the whole model before treatment, where measured.
    pub latency_total_s: Option<f64>,
    /// Seconds outside the treated sites.
    pub latency_fixed_s: f64,
}

impl Totals {
    /// 8 × `treated_bytes` / treated weights; `None` without weights.
    pub fn bits_per_weight(&self, treated_bytes: u64) -> Option<f64> {
        (self.treated_weights > 0).then(|| 8.0 * treated_bytes as f64 / self.treated_weights as f64)
    }

    /// Bytes of the whole file if the treated sites take `treated_bytes`.
    pub fn file_bytes(&self, treated_bytes: u64) -> u64 {
        self.file_bytes_fixed.saturating_add(treated_bytes)
    }

    /// The whole file as a fraction of the original one; `None` if its size is not known.
    pub fn file_share(&self, treated_bytes: u64) -> Option<f64> {
        (self.file_bytes_original > 0)
            .then(|| self.file_bytes(treated_bytes) as f64 / self.file_bytes_original as f64)
    }

    /// Original total and fixed part of `resource` in integer units; `None` if it was not measured.
    pub(crate) fn of(&self, resource: Resource) -> Option<(u64, u64)> {
        match resource {
            Resource::Bytes => Some((self.file_bytes_original, self.file_bytes_fixed)),
            Resource::Latency => {
                self.latency_total_s.map(|total| (picoseconds(total), picoseconds(self.latency_fixed_s)))
            }
            Resource::Macs => self.macs_total.map(|total| (total, self.macs_fixed)),
            Resource::Params => self.params_total.map(|total| (total, self.params_fixed)),
        }
    }
}

/// Upper limits on what the treated sites may take together. `None`: unlimited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of the treated sites.
    pub bytes: Option<u64>,
    /// Seconds in the treated sites.
    pub latency_s: Option<f64>,
    /// Multiply-adds in the treated sites.
    pub macs: Option<u64>,
    /// Parameters in the treated sites.
    pub params: Option<u64>,
    /// What they were derived from; used to express sizes as bits per weight and shares in messages.
    pub totals: Totals,
    /// The budget they were derived from, if there was one.
    pub budget: Option<Budget>,
}

impl Limits {
    /// A limit on the bytes of the treated sites alone.
    pub fn bytes(bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..Self::default() }
    }

    /// The limit on `resource` in the solver's integer unit.
    pub(crate) fn units(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Bytes => self.bytes,
            Resource::Latency => self.latency_s.map(picoseconds),
            Resource::Macs => self.macs,
            Resource::Params => self.params,
        }
    }

    /// The resources that are limited.
    pub fn resources(&self) -> Vec<Resource> {
        Resource::ALL.into_iter().filter(|r| self.units(*r).is_some()).collect()
    }

    /// The first resource of which `costs` takes more than allowed; `None` if all limits are kept.
    /// A limited resource that `costs` does not know counts as exceeded.
    pub fn exceeded_by(&self, costs: &Costs) -> Option<Resource> {
        let over = |r: &Resource| self.units(*r).is_some_and(|most| costs.units(*r).is_none_or(|c| c > most));
        Resource::ALL.into_iter().find(over)
    }

    /// The budget as typed, or the limits in words.
    pub fn describe(&self) -> String {
        if let Some(budget) = &self.budget {
            return format!("\"{budget}\"");
        }
        let words =
            self.resources().into_iter().map(|r| format!("{r} ≤ {}", amount(r, self.units(r).unwrap_or(0))));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Keeps the smaller of the present limit and `units`.
    pub(crate) fn tighten(&mut self, resource: Resource, units: u64) {
        let units = self.units(resource).map_or(units, |old| old.min(units));
        match resource {
            Resource::Bytes => self.bytes = Some(units),
            Resource::Latency => self.latency_s = Some(units as f64 * 1e-12),
            Resource::Macs => self.macs = Some(units),
            Resource::Params => self.params = Some(units),
        }
    }
}

/// An amount in the solver's unit, as text.
pub(crate) fn amount(resource: Resource, units: u64) -> String {
    match resource {
        Resource::Bytes => bytes_exact(units),
        Resource::Latency => seconds_short(units as f64 * 1e-12),
        Resource::Macs | Resource::Params => count_short(units),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceeded_limits_are_named() {
        let limits = Limits { macs: Some(5), ..Limits::bytes(10) };
        let costs = |bytes, macs| Costs { macs, ..Costs::bytes(bytes) };
        assert_eq!(limits.exceeded_by(&costs(10, Some(5))), None);
        assert_eq!(limits.exceeded_by(&costs(11, Some(5))), Some(Resource::Bytes));
        assert_eq!(limits.exceeded_by(&costs(10, Some(6))), Some(Resource::Macs));
        assert_eq!(limits.exceeded_by(&costs(10, None)), Some(Resource::Macs));
    }

    #[test]
    fn the_smaller_limit_holds_and_words_name_it() {
        let mut limits = Limits::bytes(10);
        limits.tighten(Resource::Bytes, 12);
        limits.tighten(Resource::Latency, 2_500_000_000);
        assert_eq!(limits.describe(), "bytes ≤ 10 bytes, latency ≤ 2.50 ms");
        // Picoseconds survive the way through seconds.
        for ps in [1, 999, 123_456_789_012, 999_999_999_999_999] {
            let mut limits = Limits::default();
            limits.tighten(Resource::Latency, ps);
            assert_eq!(limits.units(Resource::Latency), Some(ps));
        }
    }
}
