//! Rotary settings, in the old style (fields of their own) or the new one (`rope_parameters`).

use serde_json::Value;
use trimtab_nn::rotary::{Rotary, RotaryScaling};

use super::fields::{Fields, Key};
use super::layout::Keys;
use crate::error::Result;

/// Which blocks a rotation is for, in families that have two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Blocks that see everything, and all blocks of other families.
    Full,
    /// Blocks with a window.
    Local,
}

pub(super) fn rotary(fields: &Fields<'_>, keys: &Keys, head_width: usize, reach: Reach) -> Result<Rotary> {
    let table = fields.field("rope_parameters").or_else(|| fields.field("rope_scaling"));
    let (own, part) = match reach {
        Reach::Full => (&keys.rope_theta, "full_attention"),
        Reach::Local => (&keys.rope_local_theta, "sliding_attention"),
    };
    let parts = table.and_then(|table| table.get(part));
    // What stretches the rotation of the blocks that see everything leaves the others alone.
    let table = parts.or(table.filter(|_| reach == Reach::Full));
    let settings = Settings { fields, table };
    let theta = match (settings.inner("rope_theta"), own) {
        (Some(_), _) => settings.number("rope_theta")?,
        (None, Some(key)) => fields.number(key)?,
        (None, None) => fields.number(&Key::Field("rope_theta".into()))?,
    };
    let dim = match fields.optional(&keys.rotary_width, Fields::count)? {
        Some(width) => width,
        None => {
            let fraction = match settings.inner("partial_rotary_factor") {
                Some(_) => Some(settings.number("partial_rotary_factor")?),
                None => fields.optional(&keys.rotary_fraction, Fields::number)?,
            };
            (head_width as f64 * fraction.unwrap_or(1.0)) as usize
        }
    };
    if !dim.is_multiple_of(2) || dim == 0 || dim > head_width {
        return Err(fields.fail(format!("{dim} channels of heads of width {head_width} cannot be rotated")));
    }
    let scaling = settings.scaling(keys, dim)?;
    Ok(Rotary { theta, dim, scaling, interleaved: false })
}

struct Settings<'a> {
    fields: &'a Fields<'a>,
    table: Option<&'a Value>,
}

impl<'a> Settings<'a> {
    fn inner(&self, name: &str) -> Option<&'a Value> {
        self.table.and_then(|table| table.get(name)).filter(|value| !value.is_null())
    }

    fn number(&self, name: &str) -> Result<f64> {
        let value = self.inner(name).and_then(Value::as_f64).filter(|n| *n > 0.0 && n.is_finite());
        value.ok_or_else(|| self.fields.fail(format!("rope settings lack a positive \"{name}\"")))
    }

    fn divisors(&self, name: &str, n: usize) -> Result<Vec<f64>> {
        let values = self.inner(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let values: Vec<f64> = values.iter().filter_map(Value::as_f64).filter(|v| *v > 0.0).collect();
        if values.len() != n {
            let found = values.len();
            return Err(self
                .fields
                .fail(format!("rope \"{name}\" has {found} positive numbers, expected {n}")));
        }
        Ok(values)
    }

    fn scaling(&self, keys: &Keys, dim: usize) -> Result<RotaryScaling> {
        let kind = self.inner("rope_type").or_else(|| self.inner("type"));
        Ok(match kind.and_then(Value::as_str).unwrap_or("default") {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear { factor: self.number("factor")? },
            "llama3" => RotaryScaling::Llama3 {
                factor: self.number("factor")?,
                low_freq_factor: self.number("low_freq_factor")?,
                high_freq_factor: self.number("high_freq_factor")?,
                original_positions: self.number("original_max_position_embeddings")?,
            },
            "longrope" | "su" => self.long(keys, dim)?,
            other => {
                return Err(self.fields.fail(format!(
                    "rope type \"{other}\" is not known; known: default, linear, llama3, longrope"
                )));
            }
        })
    }

    fn long(&self, keys: &Keys, dim: usize) -> Result<RotaryScaling> {
        // The reference prefers the field beside the others.
        let original_positions = match self.fields.field("original_max_position_embeddings") {
            Some(_) => self.fields.number(&Key::Field("original_max_position_embeddings".into()))?,
            None => self.number("original_max_position_embeddings")?,
        };
        let magnitude = match self.inner("attention_factor") {
            Some(_) => self.number("attention_factor")?,
            None => {
                let factor = match (self.inner("factor"), &keys.positions) {
                    (Some(_), _) => self.number("factor")?,
                    (None, Some(key)) => self.fields.number(key)? / original_positions,
                    (None, None) => 1.0,
                };
                if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_positions.ln()).sqrt() }
            }
        };
        let short = self.divisors("short_factor", dim / 2)?;
        let long = self.divisors("long_factor", dim / 2)?;
        Ok(RotaryScaling::Long { short, long, original_positions, magnitude })
    }
}
