//! The object `quantization_config` of GPTQ, and what its versions can hold.

use std::fmt;

use serde_json::{Map, Value, json};

use super::dynamic::{Rule, Verdict};
use crate::affine::{AffineScheme, AffineTensor};
use crate::bits::packed_words;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::fields::Fields;

/// Matrices are made of blocks of this many inputs and outputs.
pub(super) const BLOCK: usize = 32;
/// The module of the head.
const HEAD: &str = "lm_head";
const USE_ORIGINAL: &str =
    "gptq and gptq_v2 with 2, 3, 4 or 8 bits, and gptq_p, are read; use the original model instead";

/// Version of the format, `checkpoint_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GptqFormat {
    /// `gptq`: a zero point is stored less 1. Every engine reads it.
    V1,
    /// `gptq_v2`: a zero point is stored as it is.
    V2,
    /// `gptq_p`: codes split into bit planes whose widths divide 32, zero points as in `gptq_v2`. Read, not written.
    Planar,
}

/// How one module is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GptqScheme {
    /// Bits of a code.
    pub bits: u8,
    /// Inputs that share a scale; `None`: all.
    pub group_size: Option<usize>,
    /// Whether the columns were taken in another order than they stand in, so that `g_idx` has to be there.
    pub desc_act: bool,
    /// Whether every zero point is `2^(b-1)`; `None` where the file does not say.
    pub sym: Option<bool>,
}

/// How the matrices of a GPTQ checkpoint are coded.
#[derive(Clone, Debug)]
pub struct GptqConfig {
    /// Version of the format.
    pub format: GptqFormat,
    /// What holds where no rule of `dynamic` says otherwise.
    pub scheme: GptqScheme,
    /// Whether the head is quantized too.
    pub lm_head: bool,
    rules: Vec<Rule>,
    /// The modules with codes by name, where other linear maps of the blocks have none.
    coded: Vec<String>,
}

impl GptqFormat {
    const ALL: [Self; 3] = [Self::V1, Self::V2, Self::Planar];

    /// Name in `checkpoint_format`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "gptq",
            Self::V2 => "gptq_v2",
            Self::Planar => "gptq_p",
        }
    }

    /// Whether codes of this width can be read.
    pub(super) fn reads(self, bits: u8) -> bool {
        matches!((self, bits), (_, 2 | 3 | 4 | 8) | (Self::Planar, 5..=7))
    }

    /// Whether a file of this version can hold such a matrix `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason: `gptq_p`, 1, 5, 6 or 7 bits, a side that is no multiple of 32, a short last
    /// group.
    pub fn check(self, scheme: AffineScheme, rows: usize, cols: usize) -> Result<()> {
        scheme.validate()?;
        if self == Self::Planar {
            return Err(self.refuse("is read, but not written: use gptq_v2"));
        }
        if !self.reads(scheme.bits) {
            return Err(self.refuse(format!("holds codes of 2, 3, 4 or 8 bits, not {}", scheme.bits)));
        }
        if !rows.is_multiple_of(BLOCK) || !cols.is_multiple_of(BLOCK) || rows == 0 || cols == 0 {
            let message = format!("[out, in] have to be multiples of {BLOCK}, found [{rows}, {cols}]");
            return Err(self.refuse(message));
        }
        match scheme.group_size {
            Some(size) if !cols.is_multiple_of(size) => {
                let last = cols % size;
                let message = format!("groups of {size} leave a short last group of {last} of {cols} inputs");
                Err(self.refuse(message))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of the tensors of a matrix, which passed [`Self::check`].
    pub fn bytes(self, scheme: AffineScheme, rows: usize, cols: usize) -> u64 {
        let groups = scheme.n_groups(cols) as u64;
        let codes = 4 * rows as u64 * packed_words(cols, scheme.bits) as u64;
        let zeros = 4 * groups * packed_words(rows, scheme.bits) as u64;
        let scales = Dtype::F16.size() as u64 * groups * rows as u64;
        codes + zeros + scales + 4 * cols as u64
    }

    pub(super) fn refuse(self, message: impl fmt::Display) -> Error {
        Error::invalid(self.name(), message.to_string())
    }
}

impl fmt::Display for GptqFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl GptqScheme {
    fn of(scheme: AffineScheme, desc_act: bool) -> Self {
        Self { bits: scheme.bits, group_size: scheme.group_size, desc_act, sym: Some(scheme.symmetric) }
    }

    /// `group_size` as it is written, -1 for one group.
    pub(super) fn group_json(&self) -> Value {
        self.group_size.map_or_else(|| json!(-1), |size| json!(size))
    }
}

impl GptqConfig {
    /// Parses the object; `method` and `format` are read as synonyms of `quant_method` and `checkpoint_format`.
    ///
    /// Keys that only say how the codes were found (`damp_percent`, `meta`, ...) are ignored.
    ///
    /// # Errors
    /// [`Error::Quantization`] for another method, version, width or word than those that are read.
    pub fn parse(value: &Value) -> Result<Self> {
        let fields = Fields::new("gptq", value)?;
        if let Some(method) = fields.synonyms(&["quant_method", "method"])?.filter(|method| method != "gptq")
        {
            return Err(fields.refuse(&format!("quant_method is \"{method}\""), "expected \"gptq\""));
        }
        if fields.flag("is_marlin_format")?.unwrap_or(false) {
            return Err(fields.refuse("is_marlin_format: the layout of Marlin is not read", USE_ORIGINAL));
        }
        let name = fields.synonyms(&["checkpoint_format", "format"])?;
        let format = match &name {
            None => GptqFormat::V1,
            Some(name) => {
                GptqFormat::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
                    fields.refuse(&format!("checkpoint_format \"{name}\" is not read"), USE_ORIGINAL)
                })?
            }
        };
        if let Some(word) = fields.text("pack_dtype")?.filter(|word| word != "int32") {
            return Err(
                fields.refuse(&format!("pack_dtype \"{word}\" is not read, only int32"), USE_ORIGINAL)
            );
        }
        let Some(bits) = fields.bits("bits")? else {
            return Err(fields.refuse("bits is missing", "expected 2, 3, 4 or 8"));
        };
        let scheme = GptqScheme {
            bits,
            // The default of the reference implementation.
            group_size: fields.group_size("group_size")?.unwrap_or(Some(128)),
            desc_act: fields.flag("desc_act")?.unwrap_or(false),
            sym: fields.flag("sym")?,
        };
        check_width(&fields, format, bits)?;
        let rules = Rule::parse_all(fields.get("dynamic"), scheme, format)?;
        let lm_head = fields.flag("lm_head")?.unwrap_or(false);
        Ok(Self { format, scheme, lm_head, rules, coded: Vec::new() })
    }

    /// The configuration of a checkpoint with these matrices, by full module name; `dense` lists the linear maps of the
    /// blocks that stay as they are.
    ///
    /// The scheme that most matrices have is that of the whole; others become exceptions by name in `dynamic`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no matrix.
    pub fn of<'a>(
        format: GptqFormat,
        modules: impl IntoIterator<Item = (&'a str, &'a AffineTensor)>,
        dense: &[String],
    ) -> Result<Self> {
        let schemes: Vec<(&str, GptqScheme)> = modules
            .into_iter()
            .map(|(module, matrix)| (module, GptqScheme::of(matrix.scheme, matrix.g_idx.is_some())))
            .collect();
        let uses = |scheme: &GptqScheme| schemes.iter().filter(|(_, other)| other == scheme).count();
        // Of equally frequent ones the first.
        let Some(&(_, scheme)) = schemes.iter().rev().max_by_key(|(_, scheme)| uses(scheme)) else {
            return Err(format.refuse("there is no quantized matrix to describe"));
        };
        let skipped = dense.iter().map(|module| Rule::exact(module, Verdict::Dense));
        let others = schemes.iter().filter(|(_, other)| *other != scheme);
        let overrides = others.map(|(module, other)| Rule::exact(module, Verdict::Coded(*other)));
        let lm_head = schemes.iter().any(|(module, _)| *module == HEAD);
        let coded = match dense.iter().any(|module| module != HEAD) {
            true => schemes.iter().map(|(module, _)| (*module).to_owned()).filter(|m| m != HEAD).collect(),
            false => Vec::new(),
        };
        Ok(Self { format, scheme, lm_head, rules: skipped.chain(overrides).collect::<Result<_>>()?, coded })
    }

    /// Whether all coded modules have one width and one group size, which is all that transformers loads: it does not
    /// read `dynamic`.
    pub fn is_uniform(&self) -> bool {
        let same =
            |other: GptqScheme| (other.bits, other.group_size) == (self.scheme.bits, self.scheme.group_size);
        self.rules.iter().all(|rule| match rule.verdict {
            Verdict::Coded(other) => same(other),
            Verdict::Dense => true,
        })
    }

    /// How a module is coded; `None` if a rule leaves it dense. The first rule that matches decides.
    pub fn scheme_of(&self, module: &str) -> Option<GptqScheme> {
        match self.rules.iter().find(|rule| rule.matches(module)).map(|rule| rule.verdict) {
            None => Some(self.scheme),
            Some(Verdict::Coded(scheme)) => Some(scheme),
            Some(Verdict::Dense) => None,
        }
    }

    /// The object for `config.json`.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "quant_method": "gptq",
            "checkpoint_format": self.format.name(),
            "method": "gptq",
            "format": self.format.name(),
            "bits": self.scheme.bits,
            "group_size": self.scheme.group_json(),
            "desc_act": self.scheme.desc_act,
            "sym": self.scheme.sym.unwrap_or(true),
            "lm_head": self.lm_head,
            "pack_dtype": "int32",
            "meta": {"quantizer": [concat!("trimtab:", env!("CARGO_PKG_VERSION"))]},
        });
        if !self.rules.is_empty() {
            let rules: Map<String, Value> = self.rules.iter().map(Rule::to_json).collect();
            object["dynamic"] = rules.into();
        }
        if !self.coded.is_empty() {
            // For transformers, which does not read `dynamic`: it takes every linear map of the blocks for coded, and
            // runs on what happens to lie in memory where there are no codes.
            object["modules_in_block_to_quantize"] = json!([self.coded]);
        }
        object
    }
}

pub(super) fn check_width(fields: &Fields, format: GptqFormat, bits: u8) -> Result<()> {
    if format.reads(bits) {
        return Ok(());
    }
    Err(fields.refuse(&format!("{format} with {bits} bits is not read"), USE_ORIGINAL))
}
