//! What a site can become: the options that the planner chooses from, and how they are named.

use std::fmt;
use std::str::FromStr;

use trimtab_io::{AffineScheme, Dtype};
use trimtab_nn::SiteMeta;
use trimtab_plan::Settings;

use crate::engine::Engine;
use crate::error::{Error, Result};

/// One option of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Integer codes.
    Affine(AffineScheme),
    /// As it is in the checkpoint.
    Dense,
}

impl Scheme {
    /// Exact bytes of the site's weight in the file. `dense` is its type there; scales are stored in [`scale_dtype`].
    pub fn bytes(&self, site: &SiteMeta, dense: Dtype) -> u64 {
        match self {
            Self::Affine(scheme) => scheme.bytes(site.rows, site.cols, scale_dtype(dense)),
            Self::Dense => (site.numel() * dense.size()) as u64,
        }
    }

    /// As settings in a plan file.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new();
        if let Self::Affine(scheme) = self {
            settings.insert("bits".into(), i64::from(scheme.bits).into());
            if let Some(group_size) = scheme.group_size {
                settings.insert("group_size".into(), (group_size as i64).into());
            }
            settings.insert("symmetric".into(), scheme.symmetric.into());
        }
        settings
    }

    /// From the settings in a plan file.
    pub fn from_settings(settings: &Settings) -> Result<Self> {
        let Some(bits) = settings.get("bits") else { return Ok(Self::Dense) };
        let number = |value: &toml::Value, limit: i64| {
            let number = value.as_integer().filter(|n| (1..=limit).contains(n));
            number
                .ok_or(Error::Setting { what: "plan", message: format!("{value} is no width or group size") })
        };
        let group_size = settings.get("group_size").map(|g| number(g, i64::from(u32::MAX))).transpose()?;
        Ok(Self::Affine(AffineScheme {
            bits: number(bits, 8)? as u8,
            group_size: group_size.map(|g| g as usize),
            symmetric: settings.get("symmetric").and_then(toml::Value::as_bool).unwrap_or(false),
        }))
    }
}

/// Type of the scales beside a dense type: the same, but nothing wider than 32 bits.
pub fn scale_dtype(dense: Dtype) -> Dtype {
    match dense {
        Dtype::F16 | Dtype::BF16 => dense,
        _ => Dtype::F32,
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine(scheme) => scheme.fmt(f),
            Self::Dense => write!(f, "dense"),
        }
    }
}

impl FromStr for Scheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = || Error::Setting {
            what: "scheme",
            message: format!(
                "\"{text}\" is none; expected for example \"int4 g128\", \"int3 row sym\" or \"dense\""
            ),
        };
        if text.trim() == "dense" {
            return Ok(Self::Dense);
        }
        let mut words = text.split_whitespace();
        let bits = words.next().and_then(|w| w.strip_prefix("int")).and_then(|b| b.parse().ok());
        let bits = bits.filter(|bits| (1..=8).contains(bits)).ok_or_else(fail)?;
        let group_size = match words.next() {
            None | Some("row") => None,
            Some(group) => {
                let size = group.strip_prefix('g').and_then(|g| g.parse::<u32>().ok()).filter(|&g| g > 0);
                // No longer than a plan file can say.
                Some(size.ok_or_else(fail)? as usize)
            }
        };
        let symmetric = match words.next() {
            None | Some("asym") => false,
            Some("sym") => true,
            Some(_) => return Err(fail()),
        };
        if words.next().is_some() {
            return Err(fail());
        }
        Ok(Self::Affine(AffineScheme { bits, group_size, symmetric }))
    }
}

/// Which schemes the planner may choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Widths; 16 stands for leaving a site as it is.
    pub bits: Vec<u8>,
    /// Group sizes; `None` is a whole row.
    pub groups: Vec<Option<usize>>,
    /// Whether grids are symmetric.
    pub symmetric: bool,
    /// The engine that is to run the result: what it does not run is no option.
    pub engine: Option<Engine>,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            bits: vec![2, 3, 4, 5, 6, 8, 16],
            groups: vec![Some(32), Some(64), Some(128), None],
            symmetric: false,
            engine: None,
        }
    }
}

impl Choices {
    /// The options of a site. Groups longer than its rows are left out, and so is what the engine does not run.
    pub fn of(&self, site: &SiteMeta) -> Result<Vec<Scheme>> {
        let mut schemes = Vec::new();
        for &bits in &self.bits {
            match bits {
                16 => schemes.push(Scheme::Dense),
                1..=8 => {
                    let fitting = self.groups.iter().filter(|group| group.is_none_or(|g| g <= site.cols));
                    schemes.extend(fitting.map(|&group_size| {
                        Scheme::Affine(AffineScheme { bits, group_size, symmetric: self.symmetric })
                    }));
                }
                other => {
                    let message = format!("{other} is none of 1 to 8 and 16");
                    return Err(Error::Setting { what: "--bits", message });
                }
            }
        }
        let runs = |scheme: &Scheme| match (self.engine, scheme) {
            (Some(engine), Scheme::Affine(affine)) => engine.allows(*affine, site).is_ok(),
            _ => true,
        };
        schemes.retain(runs);
        schemes.sort_unstable();
        schemes.dedup();
        match schemes.is_empty() {
            true => {
                let engine = self.engine.map_or(String::new(), |engine| format!(" that {engine} runs"));
                let message = format!("there is nothing to choose from{engine} at \"{}\"", site.name);
                Err(Error::Setting { what: "--bits", message })
            }
            false => Ok(schemes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_settings_round_trip() {
        for text in ["int4 g128", "int3 row", "int2 g32 sym", "dense"] {
            let scheme: Scheme = text.parse().unwrap();
            assert_eq!(scheme.to_string(), text);
            assert_eq!(Scheme::from_settings(&scheme.settings()).unwrap(), scheme);
        }
        for text in ["", "int9 g4", "int4 g5000000000", "int4 128", "int4 g0", "int4 g8 sym x", "float8"] {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    #[test]
    fn damaged_labels_are_refused_or_round_trip() {
        use trimtab_hostile::{Draws, INPUTS, change_text, storm};
        let whole = ["int4 g128", "int3 row sym", "int8 g32 asym", "dense"];
        let make = |draws: &mut Draws| change_text(whole[draws.below(whole.len())], draws);
        let accepted = storm(INPUTS, 1, make, |text| {
            let Ok(scheme) = text.parse::<Scheme>() else { return false };
            assert_eq!(scheme.to_string().parse::<Scheme>().unwrap(), scheme, "{text}");
            assert_eq!(Scheme::from_settings(&scheme.settings()).unwrap(), scheme, "{text}");
            true
        });
        assert!((100..INPUTS - 100).contains(&accepted), "{accepted} of {INPUTS} accepted");
        // The settings of a plan file are edited by hand, too.
        let whole = b"bits = 4\ngroup_size = 128\nsymmetric = true\n";
        trimtab_hostile::storm_of(whole, 2, |text| {
            let settings =
                std::str::from_utf8(text).ok().and_then(|text| toml::from_str::<Settings>(text).ok());
            settings.is_some_and(|settings| Scheme::from_settings(&settings).is_ok())
        });
    }
}
