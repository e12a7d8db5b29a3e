//! What can be bounded, and amounts of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something a budget can bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Bytes on disk: codes, scales, zeros, codebooks, indices, branches.
    Bytes,
    /// Seconds, as measured on the target machine.
    Latency,
    /// Multiply-adds.
    Macs,
    /// Parameters.
    Params,
}

impl Resource {
    /// All resources, in the order of ties and tables.
    pub const ALL: [Resource; 4] = [Resource::Bytes, Resource::Latency, Resource::Macs, Resource::Params];

    /// The word used in budgets, plan files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Bytes => "bytes",
            Resource::Latency => "latency",
            Resource::Macs => "macs",
            Resource::Params => "params",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an option, or a whole plan, takes of each resource. Counts are exact; latency is in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Bytes stored.
    pub bytes: u64,
    /// Seconds, where measured; compared to the picosecond.
    pub latency_s: Option<f64>,
    /// Multiply-adds, where counted.
    pub macs: Option<u64>,
    /// Parameters, where counted.
    pub params: Option<u64>,
}

impl Costs {
    /// Costs of which only the bytes are known.
    pub fn bytes(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// The amount of `resource` in the integer unit of the solver: bytes, picoseconds, counts.
    /// `None` where it is not priced.
    pub(crate) fn units(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Bytes => Some(self.bytes),
            Resource::Latency => self.latency_s.map(picoseconds),
            Resource::Macs => self.macs,
            Resource::Params => self.params,
        }
    }

    /// Sum of two costs; a resource is known only where both sides know it. Saturates at `u64::MAX`.
    pub(crate) fn plus(&self, other: &Costs) -> Costs {
        let both = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.saturating_add(b));
        Costs {
            bytes: self.bytes.saturating_add(other.bytes),
            latency_s: self.latency_s.zip(other.latency_s).map(|(a, b)| a + b),
            macs: both(self.macs, other.macs),
            params: both(self.params, other.params),
        }
    }

    /// Zero of every resource: the start of a sum.
    pub(crate) fn zero() -> Costs {
        Costs { bytes: 0, latency_s: Some(0.0), macs: Some(0), params: Some(0) }
    }
}

/// Seconds to whole picoseconds, so that sums of latencies are exact and independent of their order.
pub(crate) fn picoseconds(seconds: f64) -> u64 {
    // A float-to-integer cast saturates, and turns NaN into 0; validation has refused both before.
    (seconds * 1e12).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_know_only_what_both_sides_know() {
        let a = Costs { macs: Some(3), latency_s: Some(0.5), ..Costs::bytes(1) };
        let b = Costs { macs: Some(4), ..Costs::bytes(2) };
        assert_eq!(a.plus(&b), Costs { macs: Some(7), ..Costs::bytes(3) });
        assert_eq!(Costs::zero().plus(&a), Costs { params: None, ..a });
        assert_eq!(a.units(Resource::Latency), Some(500_000_000_000));
        assert_eq!(b.units(Resource::Latency), None);
    }
}
