//! What becomes of a site: the scheme of its weight, and the rank of the branch beside it.

use std::fmt;
use std::str::FromStr;

use trimtab_io::{BranchFactors, Dtype};
use trimtab_nn::{SiteKind, SiteMeta};
use trimtab_plan::Settings;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::{HEADER_LINE, TreatedSite};
use crate::scheme::{Scheme, scale_dtype};

/// Between the scheme and the rank in a label.
const BESIDE: &str = " + rank ";
/// Name of the rank among the settings in a plan file.
const RANK: &str = "rank";

/// A scheme and a rank, as `int2 g64 + rank 8`; without a branch, as the scheme alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice {
    /// What the weight is stored as.
    pub scheme: Scheme,
    /// Rank of the branch that makes up for it; 0 is none.
    pub rank: usize,
}

impl From<Scheme> for Choice {
    fn from(scheme: Scheme) -> Self {
        Self { scheme, rank: 0 }
    }
}

impl Choice {
    /// Exact bytes of weight and branch in the file; factors are stored in the type of scales.
    pub fn bytes(&self, site: &SiteMeta, dense: Dtype) -> u64 {
        let branch = BranchFactors::byte_count(self.rank, [site.rows, site.cols], scale_dtype(dense));
        self.scheme.bytes(site, dense) + branch
    }

    /// [`Self::bytes`], and room for the lines of a branch's factors in the header of the file: what a plan reckons with.
    pub fn cost(&self, site: &SiteMeta, dense: Dtype) -> u64 {
        self.bytes(site, dense) + if self.rank > 0 { 2 * HEADER_LINE } else { 0 }
    }

    /// As settings in a plan file.
    pub fn settings(&self) -> Settings {
        let mut settings = self.scheme.settings();
        if self.rank > 0 {
            settings.insert(RANK.into(), (self.rank as i64).into());
        }
        settings
    }

    /// From the settings in a plan file.
    pub fn from_settings(settings: &Settings) -> Result<Self> {
        let rank = match settings.get(RANK) {
            None => 0,
            Some(value) => {
                let rank = value.as_integer().and_then(|rank| u32::try_from(rank).ok());
                let wrong = || Error::Setting { what: "plan", message: format!("{value} is no rank") };
                rank.ok_or_else(wrong)? as usize
            }
        };
        Ok(Self { scheme: Scheme::from_settings(settings)?, rank })
    }

    /// Whether a site can have this in a file of this form, and the engine runs it.
    ///
    /// # Errors
    /// Why not.
    pub fn fits(
        &self,
        site: &TreatedSite,
        form: Form,
        engine: Option<Engine>,
    ) -> std::result::Result<(), String> {
        form.holds(&self.scheme, site)?;
        if let Some(engine) = engine {
            engine.allows(&self.scheme, &site.meta).map_err(|why| format!("{engine} {why}"))?;
        }
        if self.rank == 0 {
            return Ok(());
        }
        let least = site.meta.rows.min(site.meta.cols);
        match (form, engine) {
            _ if self.scheme == Scheme::Dense => Err("a weight that stays as it is needs no branch".into()),
            _ if site.meta.kind == SiteKind::Embedding => Err("a table of rows gets no branch".into()),
            _ if !site.observed => Err("no data reaches it that could tell what its branch should be".into()),
            _ if self.rank > least => Err(format!("has the rank {least} itself")),
            (Form::Gguf, _) => Err("a GGUF file holds no branch beside blocks".into()),
            // In dense numbers the branch is part of the weight.
            (Form::Packed, Some(engine)) => Err(format!("{engine} {}", Engine::NO_BRANCHES)),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rank {
            0 => self.scheme.fmt(f),
            rank => f.pad(&format!("{}{BESIDE}{rank}", self.scheme)),
        }
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((scheme, rank)) = text.split_once(BESIDE) else { return Ok(text.parse::<Scheme>()?.into()) };
        let rank = rank.trim().parse::<u32>().ok().filter(|&rank| rank > 0);
        let wrong = || Error::Setting {
            what: "scheme",
            message: format!("\"{text}\" names no rank; expected for example \"int2 g64 + rank 8\""),
        };
        Ok(Self { scheme: scheme.parse()?, rank: rank.ok_or_else(wrong)? as usize })
    }
}

#[cfg(test)]
mod tests {
    use trimtab_nn::Axis;

    use super::*;

    fn site(kind: SiteKind, observed: bool) -> TreatedSite {
        let meta = SiteMeta {
            name: "up".into(),
            kind,
            rows: 48,
            cols: 64,
            transposed: false,
            input: Axis::new("in", 64),
            output: Axis::new("out", 48),
            reads: "x".into(),
            fused: None,
        };
        TreatedSite { meta, stage: 1, dtype: Dtype::BF16, observed, single: false }
    }

    #[test]
    fn labels_settings_and_bytes() {
        for text in ["int2 g64 + rank 8", "nvfp4 + rank 1", "int3 row sym", "dense"] {
            let choice: Choice = text.parse().unwrap();
            assert_eq!(choice.to_string(), text);
            assert_eq!(Choice::from_settings(&choice.settings()).unwrap(), choice);
        }
        for text in
            ["int2 g64 + rank 0", "int2 g64 + rank x", "int2 g64 + rank -1", "+ rank 8", "int2 g64 + "]
        {
            assert!(text.parse::<Choice>().is_err(), "{text}");
        }
        let site = site(SiteKind::Linear, true);
        let [bare, beside] = ["int2 g64", "int2 g64 + rank 8"].map(|t| t.parse::<Choice>().unwrap());
        let factors = BranchFactors::from_f32(&[0.0; 8 * 64], &[0.0; 8 * 48], 8, Dtype::BF16).unwrap();
        let stored: usize = factors.tensors("up").iter().map(|(_, tensor)| tensor.bytes.len()).sum();
        let [bare, beside] = [bare, beside].map(|c| c.bytes(&site.meta, site.dtype));
        assert_eq!(beside - bare, stored as u64);
        let settings = toml::from_str("bits = 2\nrank = -3\n").unwrap();
        assert!(Choice::from_settings(&settings).unwrap_err().to_string().contains("-3 is no rank"));
    }

    #[test]
    fn branches_stand_only_where_they_can_be_found_stored_and_run() {
        let fits = |text: &str, site: &TreatedSite, form, engine| {
            text.parse::<Choice>().unwrap().fits(site, form, engine)
        };
        let linear = site(SiteKind::Linear, true);
        let ranked = "int4 g32 sym + rank 8";
        assert_eq!(fits(ranked, &linear, Form::Packed, None), Ok(()));
        assert_eq!(fits(ranked, &linear, Form::Dense, Some(Engine::Vllm)), Ok(()));
        assert_eq!(fits("int4 g32 sym", &linear, Form::Packed, Some(Engine::Vllm)), Ok(()));
        for (text, site, form, engine, why) in [
            (ranked, &linear, Form::Packed, Some(Engine::Vllm), "convert"),
            ("q4_0 + rank 8", &linear, Form::Gguf, None, "GGUF"),
            ("dense + rank 8", &linear, Form::Packed, None, "as it is"),
            ("int4 g32 + rank 49", &linear, Form::Packed, None, "rank 48"),
            (ranked, &site(SiteKind::Linear, false), Form::Packed, None, "no data"),
            (ranked, &site(SiteKind::Embedding, true), Form::Dense, None, "table"),
        ] {
            let refused = fits(text, site, form, engine).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
