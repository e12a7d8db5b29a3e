//! Writing `plan.toml`: by hand, so that one option is one line and `diff` shows what changed.

use std::fmt::Write;

use crate::error::Result;
use crate::plan_file::{PLAN_VERSION, Plan};
use crate::price::{SiteOption, Source};
use crate::resource::{Costs, Resource};

const HEAD: &str = "\
# Trimtab plan. To change a site, set its `choice` to another label of its `options`;
# totals and the `bytes` and `damage` below it are brought up to date by the program.
";

impl Plan {
    /// The plan as the text of a `plan.toml`. [`Plan::parse`] gives back the same plan, to the last bit of every
    /// number, and the same plan always gives the same text. Errors: a plan that contradicts itself.
    pub fn to_toml(&self) -> Result<String> {
        self.check(&|_| String::from("plan"))?;
        let mut out = String::from(HEAD);
        self.write_header(&mut out);
        self.write_quantizer(&mut out);
        self.write_totals(&mut out);
        for (site, &index) in self.prices.sites.iter().zip(&self.choice) {
            let chosen = &site.options[index];
            out.push_str("\n[[site]]\n");
            line(&mut out, "name", &text(&site.site));
            line(&mut out, "weights", &site.weights.to_string());
            line_if(&mut out, "group", site.group.as_deref().map(text));
            line_if(&mut out, "pinned", site.pinned.as_deref().map(text));
            line(&mut out, "choice", &text(&chosen.label));
            line(&mut out, "bytes", &chosen.costs.bytes.to_string());
            line(&mut out, "damage", &float(chosen.damage));
            out.push_str("options = [\n");
            for option in &site.options {
                out.push_str("  ");
                write_option(&mut out, option);
                out.push_str(",\n");
            }
            out.push_str("]\n");
        }
        Ok(out)
    }

    fn write_header(&self, out: &mut String) {
        let header = &self.header;
        line(out, "version", &PLAN_VERSION.to_string());
        line(out, "model", &text(&header.model));
        line(out, "fingerprint", &text(&header.fingerprint));
        line(out, "metric", &text(&self.prices.metric));
        line_if(out, "budget", header.budget.as_ref().map(|b| text(&b.to_string())));
        // TOML integers end at 2^63 - 1; larger seeds are written as text.
        let seed = header.seed;
        line(out, "seed", &i64::try_from(seed).map_or_else(|_| text(&seed.to_string()), |s| s.to_string()));
        line(out, "calibration", &text(&header.calibration));
        let resources: Vec<String> = self.prices.resources.iter().map(|r| text(r.name())).collect();
        line(out, "resources", &format!("[{}]", resources.join(", ")));
    }

    fn write_quantizer(&self, out: &mut String) {
        if !self.header.quantizer.is_empty() {
            out.push_str("\n[quantizer]\n");
        }
        for (name, setting) in &self.header.quantizer {
            line(out, &key(name), &value(setting));
        }
    }

    fn write_totals(&self, out: &mut String) {
        let totals = &self.header.totals;
        out.push_str("\n[totals]\n");
        line(out, "treated_weights", &totals.treated_weights.to_string());
        line(out, "treated_bytes_original", &totals.treated_bytes_original.to_string());
        line(out, "file_bytes_original", &totals.file_bytes_original.to_string());
        line(out, "file_bytes_fixed", &totals.file_bytes_fixed.to_string());
        line_if(out, "macs_total", totals.macs_total.map(|n| n.to_string()));
        line(out, "macs_fixed", &totals.macs_fixed.to_string());
        line_if(out, "params_total", totals.params_total.map(|n| n.to_string()));
        line(out, "params_fixed", &totals.params_fixed.to_string());
        line_if(out, "latency_total_s", totals.latency_total_s.map(float));
        line(out, "latency_fixed_s", &float(totals.latency_fixed_s));
        out.push_str("\n[predicted]\n");
        line_if(out, "bits_per_weight", self.bits_per_weight().map(float));
        for (key, value) in cost_fields(&self.predicted.costs) {
            line(out, key, &value);
        }
        line(out, "damage", &float(self.predicted.damage));
        line_if(out, "lower_bound", self.predicted.lower_bound.map(float));
    }
}

fn line(out: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{key} = {value}");
}

fn line_if(out: &mut String, key: &str, value: Option<String>) {
    if let Some(value) = value {
        line(out, key, &value);
    }
}

fn cost_fields(costs: &Costs) -> Vec<(&'static str, String)> {
    let field = |r: Resource| match r {
        Resource::Bytes => Some(("bytes", costs.bytes.to_string())),
        Resource::Latency => costs.latency_s.map(|s| ("latency_s", float(s))),
        Resource::Macs => costs.macs.map(|n| ("macs", n.to_string())),
        Resource::Params => costs.params.map(|n| ("params", n.to_string())),
    };
    Resource::ALL.into_iter().filter_map(field).collect()
}

fn write_option(out: &mut String, option: &SiteOption) {
    let mut fields = vec![("label", text(&option.label))];
    fields.extend(cost_fields(&option.costs));
    fields.push(("damage", float(option.damage)));
    if option.source == Source::Estimated {
        fields.push(("source", text("estimated")));
    }
    if !option.params.is_empty() {
        let settings = option.params.iter().map(|(k, v)| format!("{} = {}", key(k), value(v)));
        fields.push(("settings", format!("{{ {} }}", settings.collect::<Vec<_>>().join(", "))));
    }
    let fields: Vec<String> = fields.into_iter().map(|(k, v)| format!("{k} = {v}")).collect();
    let _ = write!(out, "{{ {} }}", fields.join(", "));
}

/// A TOML value on one line.
fn value(v: &toml::Value) -> String {
    match v {
        toml::Value::String(s) => text(s),
        toml::Value::Integer(i) => i.to_string(),
        toml::Value::Float(x) => float(*x),
        toml::Value::Boolean(b) => b.to_string(),
        toml::Value::Datetime(d) => d.to_string(),
        toml::Value::Array(items) => format!("[{}]", items.iter().map(value).collect::<Vec<_>>().join(", ")),
        toml::Value::Table(table) if table.is_empty() => "{}".to_string(),
        toml::Value::Table(table) => {
            let fields = table.iter().map(|(k, v)| format!("{} = {}", key(k), value(v)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Shortest decimal that reads back as the same number.
fn float(x: f64) -> String {
    match x {
        x if x.is_nan() => "nan".to_string(),
        x if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.to_string(),
        x => format!("{x:?}"),
    }
}

/// A bare key where TOML allows one.
fn key(k: &str) -> String {
    let bare = !k.is_empty() && k.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { k.to_string() } else { text(k) }
}

/// A basic string, always on one line.
fn text(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan_file::tests::example;

    #[test]
    fn one_option_is_one_line() {
        let plan = example();
        let file = plan.to_toml().unwrap();
        let rows: Vec<&str> = file.lines().filter(|l| l.starts_with("  { label = ")).collect();
        assert_eq!(rows.len(), 9);
        assert_eq!(
            rows[0],
            "  { label = \"int4 g64 asym\", bytes = 36, damage = 0.1, \
             settings = { bits = 4, \"odd key\" = [1e-7, \"a\\n\\\"b\\\"\"] } },"
        );
        // A changed choice changes three lines of its site, and nothing in the list of options.
        let mut edited = plan.clone();
        (edited.choice[0], edited.choice[1]) = (1, 1);
        let changed = edited.to_toml().unwrap();
        assert_eq!(file.lines().zip(changed.lines()).filter(|(a, b)| a != b).count(), 6);
    }

    #[test]
    fn every_float_and_string_reads_back() {
        let bits = |i: u64| f64::from_bits(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for x in (0..2000).map(bits).filter(|x| x.is_finite()).chain([0.0, -0.0, 1e300, 5e-324]) {
            let back: toml::Table = toml::from_str(&format!("x = {}", float(x))).unwrap();
            assert_eq!(back["x"].as_float().unwrap().to_bits(), x.to_bits());
        }
        for s in ["", "\u{0}\u{7f}\u{85}", "tab\t\"q\" \\ é 漢", "'''\n\"\"\"\r\n"] {
            let back: toml::Table = toml::from_str(&format!("{} = {}", key(s), text(s))).unwrap();
            assert_eq!(back[s].as_str(), Some(s));
        }
    }
}
