//! What of a model is treated, and what its parts weigh.

use std::collections::BTreeSet;

use serde_json::Value;
use trimtab_io::Dtype;
use trimtab_io::gguf::GgufModelWriter;
use trimtab_models::Model;
use trimtab_nn::{Role, SiteMeta, StageSource};
use trimtab_plan::{Selection, Totals};

use crate::error::{Error, Result};
use crate::form::Form;
use crate::{convert, source};

/// A site that is treated.
#[derive(Clone, Debug)]
pub struct TreatedSite {
    /// The site.
    pub meta: SiteMeta,
    /// Index of its stage.
    pub stage: usize,
    /// Type of its weight in the checkpoint; of codes, the type of the numbers that they are decoded to.
    pub dtype: Dtype,
    /// Whether calibration data reaches it: the sites of the blocks.
    pub observed: bool,
    /// Whether engines that read GGUF files want it in single precision.
    pub single: bool,
}

/// The treated sites of a model, in the order in which data reaches them, and the weight of all the rest.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The treated sites.
    pub sites: Vec<TreatedSite>,
    /// What bits per weight and shares refer to.
    pub totals: Totals,
    /// Linear maps and convolutions that stay as they are.
    pub untouched: Vec<String>,
}

impl Inventory {
    /// Selects sites of a model that is to be written in this form. Without `include`, those are all sites of the blocks; the embedding and the head only by name.
    pub fn take(model: &Model, selection: &Selection, form: Form) -> Result<Self> {
        let all: Vec<(usize, Role, &SiteMeta)> = model
            .stages()
            .iter()
            .enumerate()
            .flat_map(|(i, stage)| stage.sites.iter().map(move |site| (i, stage.role, site)))
            .collect();
        let names: Vec<&str> = all.iter().map(|(.., site)| site.name.as_str()).collect();
        let named = selection.treated(&names)?;
        let everything = selection.include.is_empty();
        let mut sites = Vec::new();
        let mut untouched = Vec::new();
        for ((stage, role, meta), named) in all.into_iter().zip(named) {
            if named && (role == Role::Block || !everything) {
                let config = model.checkpoint().config().unwrap_or(&Value::Null);
                sites.push(TreatedSite {
                    meta: meta.clone(),
                    stage,
                    dtype: source::dense_dtype(model, meta)?,
                    observed: role == Role::Block,
                    single: GgufModelWriter::wants_single(config, &meta.weight_name()),
                });
            } else if !matches!(meta.kind, trimtab_nn::SiteKind::Embedding) {
                untouched.push(meta.name.clone());
            }
        }
        if model.tied() {
            untouched.push("lm_head".into());
        }
        if sites.is_empty() {
            return Err(Error::Setting { what: "--exclude", message: "no site is left to treat".into() });
        }
        let totals = totals(model, &sites, form)?;
        Ok(Self { sites, totals, untouched })
    }

    /// Leaves out the sites that only a second input reaches, as images do that stand beside a text; returns their names.
    ///
    /// Calibration on the first input alone sees nothing of them: their damage would be measured as none, and a plan
    /// would take the coarsest code for them.
    pub fn without_optional(mut self, model: &Model, form: Form) -> Result<(Self, Vec<String>)> {
        let optional = |site: &TreatedSite| model.stages()[site.stage].optional;
        let left_out: Vec<String> =
            self.sites.iter().filter(|site| optional(site)).map(|site| site.meta.name.clone()).collect();
        if left_out.is_empty() {
            return Ok((self, left_out));
        }
        self.sites.retain(|site| !optional(site));
        if self.sites.is_empty() {
            return Err(Error::Setting {
                what: "--include",
                message:
                    "only images reach these sites, and calibration is on text\nhint: round them to nearest, \
                          which needs no data: trimtab apply 'int8 g128' MODEL -o OUT --method rtn"
                        .into(),
            });
        }
        self.totals = totals(model, &self.sites, form)?;
        self.untouched.extend(left_out.iter().cloned());
        Ok((self, left_out))
    }
}

/// Weights and bytes. Headers are counted as they are now: a treated file's differ by a few hundred bytes a site, which
/// [`header_bytes`] accounts for.
fn totals(model: &Model, sites: &[TreatedSite], form: Form) -> Result<Totals> {
    let checkpoint = model.checkpoint();
    let treated: BTreeSet<String> = sites.iter().map(|site| site.meta.weight_name()).collect();
    let (mut fixed, mut seen) = (0, BTreeSet::new());
    for info in model.stages() {
        for name in info.tensors.iter().filter(|name| !treated.contains(*name) && seen.insert(*name)) {
            fixed += match source::site_of(&info.sites, name) {
                Some(site) if source::is_coded(model, site) => {
                    (site.numel() * source::dense_dtype(model, site)?.size()) as u64
                }
                _ => {
                    let info = checkpoint.require(name)?;
                    // Vectors are written in single precision there.
                    if form == Form::Gguf && info.shape.len() == 1 {
                        4 * info.numel() as u64
                    } else {
                        info.bytes
                    }
                }
            };
        }
    }
    let names = checkpoint.names().count();
    fixed += match form {
        Form::Gguf => convert::gguf::overhead(model)? + 96 * names as u64,
        Form::Packed | Form::Dense => {
            let rest = leftover(model).into_iter().map(|name| Ok(checkpoint.require(name)?.bytes));
            rest.sum::<Result<u64>>()? + header_bytes(names, sites.len())
        }
    };
    let codes = model.quantization().map(|_| source::code_bytes(model)).unwrap_or_default();
    let original = |site: &TreatedSite| match codes.get(site.meta.name.as_str()) {
        Some(bytes) if source::is_coded(model, &site.meta) => *bytes,
        _ => (site.meta.numel() * site.dtype.size()) as u64,
    };
    Ok(Totals {
        treated_weights: sites.iter().map(|s| s.meta.numel() as u64).sum(),
        treated_bytes_original: sites.iter().map(original).sum(),
        file_bytes_original: checkpoint.total_bytes(),
        file_bytes_fixed: fixed,
        ..Totals::default()
    })
}

/// Tensors that belong to no stage and are copied all the same. A head that is tied and stored all the same is one tensor
/// with its owner, and is not written a second time.
pub(crate) fn leftover(model: &Model) -> Vec<&str> {
    model.unclaimed().into_iter().filter(|&name| !(model.tied() && name == "lm_head.weight")).collect()
}

/// Upper bound of a tensor's line in the header of a safetensors file.
pub(crate) const HEADER_LINE: u64 = 160;

/// Upper bound of the safetensors header of the output: every tensor takes a line, a packed site four; those of
/// branches come with their [`crate::choice::Choice`].
fn header_bytes(tensors: usize, sites: usize) -> u64 {
    HEADER_LINE * (tensors + 3 * sites) as u64 + 64
}

/// A pattern that matches this name and no other.
pub fn literal(name: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\');
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
