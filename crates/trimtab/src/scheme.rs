//! What a site can become: the options that the planner chooses from, and how they are named.

use std::fmt;
use std::str::FromStr;

use trimtab_io::gguf::GgufType;
use trimtab_io::{AffineScheme, Coded, Dtype, FloatElement, FloatScheme, NormalFloatScheme, RealScheme};
use trimtab_nn::SiteMeta;
use trimtab_plan::Settings;

use crate::choice::Choice;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::TreatedSite;

/// One option of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Integer codes.
    Affine(AffineScheme),
    /// Integer codes with real zero points.
    Real(RealScheme),
    /// NormalFloat codes whose scales are codes too.
    NormalFloat(NormalFloatScheme),
    /// Floats of 8 or 4 bits.
    Float(FloatScheme),
    /// Blocks of a GGUF file.
    Blocks(GgufType),
    /// As it is in the checkpoint; where that holds codes, the numbers that they stand for.
    Dense,
}

impl Scheme {
    /// The scheme of a matrix; `None` for a table of numbers, which nothing here makes.
    pub fn of(matrix: &Coded) -> Option<Self> {
        match matrix {
            Coded::Affine(matrix) => Some(Self::Affine(matrix.scheme)),
            Coded::Real(matrix) => Some(Self::Real(matrix.scheme())),
            Coded::NormalFloat(matrix) => Some(Self::NormalFloat(matrix.scheme())),
            Coded::Float(matrix) => Some(Self::Float(matrix.scheme)),
            Coded::Blocks(matrix) => Some(Self::Blocks(matrix.ty)),
            Coded::Codebook(_) => None,
        }
    }

    /// Exact bytes of the site's weight in the file. `dense` is its type there; scales are stored in [`scale_dtype`].
    pub fn bytes(&self, site: &SiteMeta, dense: Dtype) -> u64 {
        match self {
            Self::Affine(scheme) => scheme.bytes(site.rows, site.cols, scale_dtype(dense)),
            Self::Real(scheme) => scheme.bytes(site.rows, site.cols, scale_dtype(dense)),
            Self::NormalFloat(scheme) => scheme.bytes(site.rows, site.cols),
            Self::Float(scheme) => scheme.bytes(site.rows, site.cols),
            Self::Blocks(ty) => site.numel() as u64 / ty.block_len() as u64 * ty.block_bytes() as u64,
            Self::Dense => (site.numel() * dense.size()) as u64,
        }
    }

    /// Bits of a code without its share of the scales; `None` where there are no codes.
    pub fn width(&self) -> Option<u8> {
        Some(match self {
            Self::Affine(scheme) => scheme.bits,
            Self::Real(scheme) => scheme.bits,
            Self::NormalFloat(scheme) => scheme.bits,
            Self::Float(scheme) => match scheme.element {
                FloatElement::E2M1 => 4,
                FloatElement::E4M3 | FloatElement::E5M2 => 8,
            },
            Self::Blocks(ty) => match ty {
                GgufType::Q2_K => 2,
                GgufType::Q3_K => 3,
                GgufType::Q4_0 | GgufType::Q4_1 | GgufType::Q4_K => 4,
                GgufType::Q5_0 | GgufType::Q5_1 | GgufType::Q5_K => 5,
                GgufType::Q6_K => 6,
                GgufType::Q8_0 => 8,
                GgufType::F16 | GgufType::BF16 | GgufType::F32 => return None,
            },
            Self::Dense => return None,
        })
    }

    /// As settings in a plan file.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new();
        match self {
            Self::Affine(scheme) => {
                settings.insert("bits".into(), i64::from(scheme.bits).into());
                if let Some(group_size) = scheme.group_size {
                    settings.insert("group_size".into(), (group_size as i64).into());
                }
                settings.insert("symmetric".into(), scheme.symmetric.into());
            }
            Self::Real(scheme) => {
                settings.insert("bits".into(), i64::from(scheme.bits).into());
                if let Some(group_size) = scheme.group_size {
                    settings.insert("group_size".into(), (group_size as i64).into());
                }
                settings.insert("zero".into(), "real".into());
            }
            Self::NormalFloat(_) | Self::Float(_) | Self::Blocks(_) => {
                settings.insert("type".into(), self.to_string().into());
            }
            Self::Dense => {}
        }
        settings
    }

    /// From the settings in a plan file.
    pub fn from_settings(settings: &Settings) -> Result<Self> {
        let wrong = |message: String| Error::Setting { what: "plan", message };
        if let Some(value) = settings.get("type") {
            let scheme = value.as_str().and_then(|name| name.parse().ok());
            let named = scheme
                .filter(|scheme| matches!(scheme, Self::NormalFloat(_) | Self::Float(_) | Self::Blocks(_)));
            return named
                .ok_or_else(|| wrong(format!("{value} is no type of floats, NormalFloats or blocks")));
        }
        let Some(bits) = settings.get("bits") else { return Ok(Self::Dense) };
        let number = |value: &toml::Value, limit: i64| {
            let number = value.as_integer().filter(|n| (1..=limit).contains(n));
            number.ok_or_else(|| wrong(format!("{value} is no width or group size")))
        };
        let group_size = settings.get("group_size").map(|g| number(g, i64::from(u32::MAX))).transpose()?;
        let (bits, group_size) = (number(bits, 8)? as u8, group_size.map(|g| g as usize));
        match settings.get("zero").map(|zero| zero.as_str()) {
            None => {}
            Some(Some("real")) => return Ok(Self::Real(RealScheme { bits, group_size })),
            Some(_) => return Err(wrong("zero is \"real\", or not there".into())),
        }
        Ok(Self::Affine(AffineScheme {
            bits,
            group_size,
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
            Self::Real(scheme) => scheme.fmt(f),
            Self::NormalFloat(scheme) => scheme.fmt(f),
            Self::Float(scheme) => scheme.fmt(f),
            Self::Blocks(ty) => f.pad(&ty.to_string().to_lowercase()),
            Self::Dense => f.pad("dense"),
        }
    }
}

impl FromStr for Scheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = || Error::Setting {
            what: "scheme",
            message: format!(
                "\"{text}\" is none; expected for example \"int4 g128\", \"int3 row sym\", \"int2 row real\", \"nf3 b64\", \"nvfp4\", \"fp8\", \"q4_k\" or \"dense\""
            ),
        };
        if text.trim() == "dense" {
            return Ok(Self::Dense);
        }
        if let Ok(scheme) = text.parse() {
            return Ok(Self::Float(scheme));
        }
        if let Ok(scheme) = text.parse() {
            return Ok(Self::NormalFloat(scheme));
        }
        let blocks = GgufType::from_name(&text.trim().to_uppercase());
        if let Some(ty) = blocks.filter(|ty| ty.is_blocks()) {
            return Ok(Self::Blocks(ty));
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
            None | Some("asym") => Some(false),
            Some("sym") => Some(true),
            Some("real") => None,
            Some(_) => return Err(fail()),
        };
        if words.next().is_some() {
            return Err(fail());
        }
        Ok(match symmetric {
            Some(symmetric) => Self::Affine(AffineScheme { bits, group_size, symmetric }),
            None => Self::Real(RealScheme { bits, group_size }),
        })
    }
}

/// Types of blocks that the planner chooses from where nothing else is said: those with scales of scales where they fit.
pub(crate) fn usual_blocks(cols: usize) -> &'static [GgufType] {
    use GgufType::{Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    match Q4_K.fits(cols) {
        true => &[Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0],
        false => &[Q4_0, Q4_1, Q5_0, Q5_1, Q8_0],
    }
}

/// Which schemes the planner may choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Widths of integers and of the usual types of blocks; 16 stands for leaving a site as it is.
    pub bits: Vec<u8>,
    /// Group sizes of integers; `None` is a whole row.
    pub groups: Vec<Option<usize>>,
    /// Whether grids are symmetric.
    pub symmetric: bool,
    /// Whether zero points of grids that are not symmetric are real.
    pub real: bool,
    /// Floats and blocks beside the integers. For GGUF files, empty stands for the usual types of blocks.
    pub types: Vec<Scheme>,
    /// The form of the file: what it cannot hold is no option.
    pub form: Form,
    /// The engine that is to run the result: what it does not run is no option.
    pub engine: Option<Engine>,
    /// Ranks of the branch beside codes; 0 is none. Sites that cannot have one take those that they can.
    pub ranks: Vec<usize>,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            bits: vec![2, 3, 4, 5, 6, 8, 16],
            groups: vec![Some(32), Some(64), Some(128), None],
            symmetric: false,
            real: false,
            types: Vec::new(),
            form: Form::Packed,
            engine: None,
            ranks: vec![0],
        }
    }
}

impl Choices {
    /// Checks that each type that was asked for by name is an option of at least one site.
    ///
    /// # Errors
    /// [`Error::Setting`]: why it is none.
    pub fn check(&self, sites: &[TreatedSite]) -> Result<()> {
        for scheme in &self.types {
            let reason = |site: &TreatedSite| match self.form.holds(scheme, site) {
                Err(why) => Some(format!("{} cannot hold it: {why}", self.form.format())),
                Ok(()) => {
                    let engine = self.engine.map(|engine| (engine, engine.allows(scheme, &site.meta)));
                    engine.and_then(|(engine, allowed)| Some(format!("{engine} {}", allowed.err()?)))
                }
            };
            let reasons: Vec<String> = sites.iter().map_while(reason).collect();
            if let (true, Some(why)) = (reasons.len() == sites.len(), reasons.first()) {
                return Err(Error::Setting { what: "--types", message: format!("\"{scheme}\": {why}") });
            }
        }
        Ok(())
    }

    /// Whether branches may stand beside codes.
    pub fn with_branches(&self) -> bool {
        self.ranks.iter().any(|&rank| rank > 0)
    }

    /// The options of a site: every scheme with every rank that it can have beside it.
    ///
    /// # Errors
    /// Nothing to choose from, or a width that is none.
    pub fn of(&self, site: &TreatedSite) -> Result<Vec<Choice>> {
        let mut choices = Vec::new();
        for scheme in self.schemes(site)? {
            let bare = Choice::from(scheme);
            let ranked = self.ranks.iter().map(|&rank| Choice { scheme, rank });
            let before = choices.len();
            choices.extend(ranked.filter(|choice| choice.fits(site, self.form, self.engine).is_ok()));
            if choices.len() == before {
                choices.push(bare);
            }
        }
        choices.sort_unstable();
        choices.dedup();
        Ok(choices)
    }

    /// The schemes of a site. Groups longer than its rows are left out, and so is what the file cannot hold or the engine
    /// does not run.
    fn schemes(&self, site: &TreatedSite) -> Result<Vec<Scheme>> {
        let mut schemes = self.types.clone();
        if self.form == Form::Gguf && schemes.is_empty() {
            let usual = usual_blocks(site.meta.cols).iter().copied().map(Scheme::Blocks);
            schemes
                .extend(usual.filter(|scheme| scheme.width().is_some_and(|bits| self.bits.contains(&bits))));
        }
        let symmetric = self.symmetric || self.engine.is_some_and(Engine::wants_symmetric);
        for &bits in &self.bits {
            match bits {
                16 => schemes.push(Scheme::Dense),
                1..=8 => {
                    let fitting =
                        self.groups.iter().filter(|group| group.is_none_or(|g| g <= site.meta.cols));
                    schemes.extend(fitting.map(|&group_size| match self.real && !symmetric {
                        true => Scheme::Real(RealScheme { bits, group_size }),
                        false => Scheme::Affine(AffineScheme { bits, group_size, symmetric }),
                    }));
                }
                other => {
                    let message = format!("{other} is none of 1 to 8 and 16");
                    return Err(Error::Setting { what: "--bits", message });
                }
            }
        }
        let runs = |scheme: &Scheme| {
            self.form.holds(scheme, site).is_ok()
                && self.engine.is_none_or(|engine| engine.allows(scheme, &site.meta).is_ok())
        };
        schemes.retain(runs);
        match schemes.is_empty() {
            true => {
                let engine = self.engine.map_or(String::new(), |engine| format!(" and {engine} runs"));
                let message = format!(
                    "there is nothing to choose from that {} holds{engine} at \"{}\"",
                    self.form.format(),
                    site.meta.name
                );
                Err(Error::Setting { what: "--bits, --types", message })
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
        for text in [
            "int4 g128",
            "int3 row",
            "int2 g32 sym",
            "int2 row real",
            "int4 g64 real",
            "nf3 b64",
            "nf2 b32 s4 c16 bf16",
            "dense",
            "nvfp4",
            "fp8 bf16",
            "mxfp8",
            "q4_k",
            "q8_0",
        ] {
            let scheme: Scheme = text.parse().unwrap();
            assert_eq!(scheme.to_string(), text);
            assert_eq!(Scheme::from_settings(&scheme.settings()).unwrap(), scheme);
        }
        for text in [
            "",
            "int9 g4",
            "int4 g5000000000",
            "int4 128",
            "int4 g0",
            "int4 g8 sym x",
            "int4 g8 real sym",
            "float8",
            "nf5 b64",
            "nf4 b0",
            "f16",
            "q9_k",
        ] {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    #[test]
    fn damaged_labels_are_refused_or_round_trip() {
        use trimtab_hostile::{Draws, INPUTS, change_text, storm};
        let whole = [
            "int4 g128",
            "int3 row sym",
            "int8 g32 asym",
            "int2 row real",
            "nf3 b16 s4 c64 f16",
            "dense",
            "nvfp4",
            "fp8 block128 bf16",
            "q4_k",
        ];
        let make = |draws: &mut Draws| change_text(whole[draws.below(whole.len())], draws);
        let accepted = storm(INPUTS, 1, make, |text| {
            let Ok(scheme) = text.parse::<Scheme>() else { return false };
            assert_eq!(scheme.to_string().parse::<Scheme>().unwrap(), scheme, "{text}");
            assert_eq!(Scheme::from_settings(&scheme.settings()).unwrap(), scheme, "{text}");
            true
        });
        assert!((100..INPUTS - 100).contains(&accepted), "{accepted} of {INPUTS} accepted");
        // The settings of a plan file are edited by hand, too.
        let whole = b"bits = 4\ngroup_size = 128\nsymmetric = true\nzero = \"real\"\n";
        trimtab_hostile::storm_of(whole, 2, |text| {
            let settings =
                std::str::from_utf8(text).ok().and_then(|text| toml::from_str::<Settings>(text).ok());
            settings.is_some_and(|settings| Scheme::from_settings(&settings).is_ok())
        });
    }
}
