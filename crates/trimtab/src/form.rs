//! The form in which treated weights are written, and what it can hold.

use serde::{Deserialize, Serialize};
use trimtab_calibrate::Treated;
use trimtab_io::{CompressedFormat, Dtype, round_floats};
use trimtab_nn::SiteKind;

use crate::error::Result;
use crate::inventory::TreatedSite;
use crate::scheme::Scheme;

/// In which form treated weights are kept: what later blocks see must be what the file will hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Integer and float codes in a Hugging Face directory, as compressed-tensors stores them; codes with real zero points and
    /// NormalFloat codes, which it cannot hold, make it a directory that only this program reads.
    #[default]
    Packed,
    /// Numbers in the type of the original in a Hugging Face directory.
    Dense,
    /// Blocks of one GGUF file.
    Gguf,
}

impl Form {
    /// Name of the format.
    pub fn format(self) -> &'static str {
        match self {
            Self::Packed => "compressed-tensors",
            Self::Dense => "safetensors",
            Self::Gguf => "GGUF",
        }
    }

    /// Whether a site can have this scheme in a file of this form. What it cannot is never offered to the planner, and
    /// never replaced by something else.
    ///
    /// # Errors
    /// Why not.
    pub fn holds(self, scheme: &Scheme, site: &TreatedSite) -> std::result::Result<(), String> {
        let meta = &site.meta;
        let fits = match scheme {
            Scheme::Float(float) => float.validate(meta.rows, meta.cols).map_err(|e| e.to_string()),
            Scheme::Blocks(ty) if !ty.fits(meta.cols) => {
                Err(format!("rows of {} are no whole blocks of {} numbers", meta.cols, ty.block_len()))
            }
            _ => Ok(()),
        };
        fits?;
        let embedding = meta.kind == SiteKind::Embedding && *scheme != Scheme::Dense;
        match (self, scheme) {
            (Self::Packed, _) if embedding => Err("engines load no coded embedding from it".into()),
            (Self::Packed, Scheme::Blocks(_)) => Err("it has no GGUF blocks".into()),
            (Self::Packed, Scheme::Float(float)) if CompressedFormat::of_floats(float).is_none() => {
                Err("it has no such floats".into())
            }
            (Self::Gguf, Scheme::Affine(_) | Scheme::Real(_) | Scheme::NormalFloat(_) | Scheme::Float(_)) => {
                Err("it has no such codes, only blocks such as q4_k".into())
            }
            (Self::Gguf, Scheme::Blocks(_)) if site.single => {
                Err("engines want this one in single precision".into())
            }
            _ => Ok(()),
        }
    }

    /// A treated weight as a file of this form holds it.
    pub(crate) fn shape(self, treated: Treated, dtype: Dtype) -> Result<Treated> {
        if self != Self::Dense {
            return Ok(treated);
        }
        let mut values = match treated {
            Treated::Coded(matrix) => matrix.dequantize(),
            Treated::Dense(values) => values,
        };
        round_floats(&mut values, dtype)?;
        Ok(Treated::Dense(values))
    }
}
