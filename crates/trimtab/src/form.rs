//! The form in which treated weights are written, and what it can hold.

use serde::{Deserialize, Serialize};
use trimtab_calibrate::Treated;
use trimtab_io::{CompressedFormat, Dtype, round_floats};
use trimtab_nn::SiteKind;
use trimtab_plan::{Budget, Totals};

use crate::error::{Error, Result};
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

    /// Checks that a budget means something in a file of this form: dense numbers take their bytes whatever is planned.
    ///
    /// # Errors
    /// [`Error::Setting`] for a budget that bounds the file where no plan changes its size.
    pub(crate) fn check_budget(self, budget: &Budget, totals: &Totals) -> Result<()> {
        match budget.file_limit(totals)? {
            Some(_) if self == Self::Dense => {
                let message = format!(
                    "{budget} bounds the file, and {} holds every number in the type of the original, whatever is planned\nhint: bound the bits per weight, such as 4bpw, or write --format compressed-tensors",
                    self.format()
                );
                Err(Error::Setting { what: "--budget", message })
            }
            _ => Ok(()),
        }
    }

    /// A treated weight as a file of this form holds it: dense numbers in the type of the file, in any form.
    pub(crate) fn shape(self, treated: Treated, dtype: Dtype) -> Result<Treated> {
        let mut values = match treated {
            Treated::Coded(matrix) if self == Self::Dense => matrix.dequantize(),
            coded @ Treated::Coded(_) => return Ok(coded),
            Treated::Dense(values) => values,
        };
        round_floats(&mut values, dtype)?;
        Ok(Treated::Dense(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_numbers_are_those_that_the_file_holds_in_any_form() {
        let fine = 1.0 + 2f32.powi(-20);
        for form in [Form::Packed, Form::Dense] {
            let shaped = |dtype: Dtype| match form.shape(Treated::Dense(vec![fine]), dtype).unwrap() {
                Treated::Dense(values) => values[0],
                Treated::Coded(_) => panic!("codes"),
            };
            assert_eq!(shaped(Dtype::BF16), 1.0);
            assert_eq!(shaped(Dtype::F32), fine, "control: what the type holds is kept");
        }
    }

    #[test]
    fn a_budget_for_the_file_is_refused_where_no_plan_changes_its_size() {
        let totals = Totals { treated_weights: 1000, file_bytes_original: 2500, ..Totals::default() };
        let check = |form: Form, budget: &str| form.check_budget(&budget.parse().unwrap(), &totals);
        for budget in ["40%", "1kB", "4bpw,40%"] {
            let message = check(Form::Dense, budget).unwrap_err().to_string();
            assert!(message.contains(budget) && message.contains("hint: bound the bits"), "{message}");
            assert!(check(Form::Packed, budget).is_ok() && check(Form::Gguf, budget).is_ok());
        }
        assert!(check(Form::Dense, "4bpw").is_ok(), "control: bits per weight bound the grid");
    }
}
