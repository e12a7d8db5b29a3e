//! Models of one integer code that several widths are read from (paper 57): how they are written, and how one width is taken out.
//!
//! The checkpoint runs at the highest width as it is: codes as compressed-tensors packs them, and the grids of inputs in
//! `quantization_config`. Beside it lies `widths.safetensors`: for every width its batch norms (`4/layer1.0.bn1.weight`) and, in the
//! metadata, its grids of inputs. Switching is integer arithmetic on the codes ([`switch_code`]), and never needs the numbers that
//! were trained.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use trimtab_io::{
    AffineScheme, AffineTensor, Bytes, Checkpoint, Coded, Dtype, InputCode, OutDir, PackedConfig,
    Quantization, QuantizationConfig, RawTensor, sha256, to_safetensors, to_tensors,
};
use trimtab_nn::{Layer, SiteKind, SiteMeta};
use trimtab_train::quantized::{Switchable, switch_code};

use crate::apply::{SHARD_BYTES, pretty};
use crate::error::{Error, Result};

/// Name of the file beside the checkpoint.
pub const WIDTHS: &str = "widths.safetensors";
const KEY: &str = "trimtab.widths";
const FORMAT: u32 = 2;

/// What the metadata of [`WIDTHS`] say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    /// From high to low.
    widths: Vec<u8>,
    /// The sites that have widths.
    sites: BTreeSet<String>,
    /// Maps that stay as they are.
    dense: Vec<String>,
    /// Grids of the inputs of these sites, by width; none where inputs stay as they are.
    inputs: BTreeMap<u8, BTreeMap<String, InputCode>>,
}

/// A switchable model as files.
pub(crate) struct Exported {
    /// Of the checkpoint.
    pub tensors: Vec<(String, RawTensor)>,
    /// `config.json`.
    pub config: Value,
    /// [`WIDTHS`].
    pub widths: Vec<u8>,
    /// Numbers written.
    pub params: usize,
}

/// A width that was taken out of a switchable model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Switched {
    /// The directory.
    pub output: PathBuf,
    /// Bits of the codes.
    pub bits: u8,
    /// Sites with such codes.
    pub sites: usize,
    /// Bytes of the weights.
    pub bytes: u64,
}

fn scheme(bits: u8) -> AffineScheme {
    AffineScheme { bits, group_size: None, symmetric: true }
}

/// Codes and steps as a packed matrix.
fn packed(rows: usize, cols: usize, bits: u8, codes: &[i8], steps: Vec<f32>) -> Result<AffineTensor> {
    let middle = i16::from(scheme(bits).middle());
    let unsigned: Vec<u8> = codes.iter().map(|&code| (i16::from(code) + middle) as u8).collect();
    Ok(AffineTensor::from_codes(rows, cols, scheme(bits), &unsigned, steps, None, None, Dtype::F32)?)
}

fn configuration(header: &Header, bits: u8) -> Value {
    let schemes = header.sites.iter().map(|name| (name.as_str(), scheme(bits), false));
    let codes = QuantizationConfig::of_schemes(schemes, &header.dense);
    let inputs = header.inputs.get(&bits).cloned().unwrap_or_default();
    PackedConfig::new(codes, []).with_input_codes(inputs).to_json()
}

/// The files of a trained network without gradients; `config` is that of its family, if it has one. A head that is the embedding is no
/// site, and is named all the same (`tied`): other programs take it for a map.
pub(crate) fn export(trained: &Switchable, config: Option<Value>, tied: bool) -> Result<Exported> {
    let widths = trained.settings().widths.clone();
    let grid = |site: usize, width: usize| {
        let [low, high] = trained.input_ends(site, width);
        Some(InputCode::Grid { step: trained.input_step(site, width)?, low, high })
    };
    let of_width = |width: usize| -> BTreeMap<String, InputCode> {
        let sites = trained.sites().iter().enumerate();
        sites.filter_map(|(i, meta)| Some((meta.name.clone(), grid(i, width)?))).collect()
    };
    let inputs = widths.iter().enumerate().map(|(width, &bits)| (bits, of_width(width))).collect();
    let sites: BTreeSet<String> = trained.sites().iter().map(|meta| meta.name.clone()).collect();
    let others =
        trained.network.sites().map(|site| site.meta()).filter(|meta| meta.kind != SiteKind::Embedding);
    let others = others.map(|meta| meta.name.clone()).filter(|name| !sites.contains(name));
    let dense = others.chain(tied.then(|| "lm_head".to_string())).collect();
    let header = Header { format: FORMAT, widths: widths.clone(), sites, dense, inputs };
    let highest = trained.at(0);
    let (mut tensors, mut params) = (Vec::new(), 0);
    let codes: BTreeMap<String, _> =
        trained.codes()?.into_iter().map(|site| (site.meta.name.clone(), site)).collect();
    for layer in highest.layers() {
        let coded = layer.site().and_then(|site| codes.get(site.name()));
        if let Some(site) = coded {
            let SiteMeta { rows, cols, name, .. } = &site.meta;
            tensors.extend(to_tensors(
                name,
                &packed(*rows, *cols, widths[0], &site.codes, site.steps.clone())?,
            )?);
            params += site.codes.len();
        }
        for (name, shape, values) in layer.tensors() {
            if coded.is_none_or(|site| name != site.meta.weight_name()) {
                params += values.len();
                tensors.push((name, RawTensor::from_f32(shape, &values, Dtype::F32)?));
            }
        }
    }
    let mut beside = Vec::new();
    for (width, bits) in widths.iter().enumerate() {
        for (name, shape, values) in
            trained.norms(width).iter().flat_map(|norm| Layer::BatchNorm(norm).tensors())
        {
            beside.push((format!("{bits}/{name}"), RawTensor::from_f32(shape, &values, Dtype::F32)?));
        }
    }
    let told = serde_json::to_string(&header).map_err(|e| data(Path::new(WIDTHS), e))?;
    let file = to_safetensors(&beside, &BTreeMap::from([(KEY.to_string(), told)]))?;
    let mut config = config.unwrap_or_else(|| Value::Object(Map::new()));
    config["quantization_config"] = configuration(&header, widths[0]);
    Ok(Exported { tensors, config, widths: file, params })
}

fn data(what: &Path, message: impl std::fmt::Display) -> Error {
    Error::Data { what: what.display().to_string(), message: message.to_string() }
}

/// What a file of widths says, checked, and the norms in it; `path` is the model that it belongs to.
fn read_widths(path: &Path, bytes: Bytes) -> Result<(Header, Checkpoint)> {
    let beside = Checkpoint::from_bytes(vec![("model.safetensors".into(), bytes)]);
    let beside = beside.map_err(|e| data(path, format!("{WIDTHS} is damaged: {e}")))?;
    let header =
        beside.metadata().get(KEY).ok_or_else(|| data(path, format!("{WIDTHS} has no \"{KEY}\"")))?;
    let header: Header = serde_json::from_str(header).map_err(|e| data(path, format!("{WIDTHS}: {e}")))?;
    if header.format != FORMAT {
        return Err(data(path, format!("{WIDTHS} has format {}, expected {FORMAT}", header.format)));
    }
    let widths = &header.widths;
    let falling = widths.windows(2).all(|pair| pair[0] > pair[1]);
    if !falling || widths.is_empty() || !widths.iter().all(|bits| (2..=8).contains(bits)) {
        return Err(data(
            path,
            format!("{WIDTHS} has the widths {widths:?}, expected some of 8 to 2, falling"),
        ));
    }
    if !header.inputs.keys().rev().eq(widths) {
        return Err(data(path, format!("{WIDTHS} has other widths for inputs than for weights")));
    }
    if let Some(name) =
        header.inputs.values().flat_map(BTreeMap::keys).find(|name| !header.sites.contains(*name))
    {
        return Err(data(path, format!("{WIDTHS} has inputs of \"{name}\", which is none of its sites")));
    }
    let problem = |(name, code): (&String, &InputCode)| {
        code.problem().map(|why| format!("inputs of \"{name}\": {why}"))
    };
    if let Some(problem) = header.inputs.values().flatten().find_map(problem) {
        return Err(data(path, format!("{WIDTHS}: {problem}")));
    }
    Ok((header, beside))
}

/// Takes the width of `bits` out of the switchable model at `path` and writes it to `output`.
///
/// # Errors
/// A model that is not switchable, a width that it has not, and what files meet.
pub fn switch(path: &Path, bits: u8, output: &Path, force: bool) -> Result<Switched> {
    let checkpoint = Checkpoint::open(path)?;
    let Some(beside) = checkpoint.side_file(WIDTHS)? else {
        let message = format!(
            "has no {WIDTHS}: it was not trained to be switched\nhint: trimtab train with [quantization] method = \"double_rounding\""
        );
        return Err(data(path, message));
    };
    let (header, beside) = read_widths(path, beside)?;
    let (true, Some(&from)) = (header.widths.contains(&bits), header.widths.first()) else {
        let message = format!("this model has the widths {:?}, not {bits}", header.widths);
        return Err(Error::Setting { what: "--bits", message });
    };
    let config = checkpoint.config().cloned().ok_or_else(|| data(path, "config.json is missing"))?;
    let quantization = Quantization::of(&config)?.ok_or_else(|| data(path, "no quantization_config"))?;
    let mut tensors = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for name in &header.sites {
        let Some(Coded::Affine(matrix)) = quantization.read(&checkpoint, name)? else {
            return Err(data(path, format!("the weight of \"{name}\" is no integer code")));
        };
        if matrix.scheme != scheme(from) {
            return Err(data(path, format!("\"{name}\" is {}, expected {}", matrix.scheme, scheme(from))));
        }
        let parts = (1u32 << (from - bits)) as f32;
        let mut row_codes = vec![0u8; matrix.cols];
        let mut codes = Vec::with_capacity(matrix.rows * matrix.cols);
        for row in 0..matrix.rows {
            matrix.unpack_row(row, &mut row_codes);
            let signed = |&code: &u8| (i16::from(code) - i16::from(scheme(from).middle())) as i8;
            codes.extend(row_codes.iter().map(|code| switch_code(signed(code), from, bits)));
        }
        let steps = matrix.scales.iter().map(|step| step * parts).collect();
        let switched = packed(matrix.rows, matrix.cols, bits, &codes, steps)?;
        tensors.extend(to_tensors(name, &switched)?);
        taken.extend(["weight_packed", "weight_scale", "weight_shape"].map(|part| format!("{name}.{part}")));
    }
    for name in checkpoint.names().filter(|name| !taken.contains(*name)) {
        let own = format!("{bits}/{name}");
        let tensor = if beside.contains(&own) { beside.tensor(&own)? } else { checkpoint.tensor(name)? };
        tensors.push((name.to_string(), tensor));
    }
    let job = format!("switch {bits} {}", sha256(checkpoint.fingerprint().as_bytes()));
    let mut out = OutDir::create(output, &job, force)?;
    if !out.unit_done("model") {
        out.commit_unit("model", &tensors)?;
    }
    let files = out.finish_shards(SHARD_BYTES, checkpoint.metadata())?;
    let mut config = config;
    config["quantization_config"] = configuration(&header, bits);
    out.put_file("config.json", pretty(&config).as_bytes())?;
    for (name, bytes) in checkpoint.side_files()? {
        out.put_file(&name, &bytes)?;
    }
    out.publish()?;
    out.clear(&[])?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    Ok(Switched { output: output.into(), bits, sites: header.sites.len(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &Value) -> Vec<u8> {
        let norm = RawTensor::from_f32(vec![2], &[1.0, 2.0], Dtype::F32).unwrap();
        let told = BTreeMap::from([(KEY.to_string(), header.to_string())]);
        to_safetensors(&[("4/bn.weight".to_string(), norm)], &told).unwrap()
    }

    fn header() -> Value {
        let grid = |high: i32| serde_json::json!({"conv": {"grid": {"step": 0.5, "low": 0, "high": high}}});
        let inputs = serde_json::json!({"8": grid(255), "4": grid(15)});
        serde_json::json!({"format": FORMAT, "widths": [8, 4], "sites": ["conv"], "dense": [], "inputs": inputs})
    }

    #[test]
    fn widths_that_cannot_be_taken_are_refused() {
        let read = |header: &Value| read_widths(Path::new("m"), file(header).into());
        assert_eq!(read(&header()).unwrap().0.widths, [8, 4]);
        let refused = |key: &str, value: Value| {
            let mut header = header();
            header[key] = value;
            read(&header).unwrap_err().to_string()
        };
        assert!(refused("format", 1.into()).contains("format 1"));
        assert!(refused("sites", serde_json::json!(["other"])).contains("none of its sites"));
        // A width above that of the codes would shift to the wrong side.
        for widths in [vec![], vec![4, 8], vec![16, 4], vec![8, 1], vec![8, 8, 4]] {
            assert!(refused("widths", widths.clone().into()).contains("widths"), "{widths:?}");
        }
        assert!(refused("widths", vec![6, 4].into()).contains("other widths"));
        let grid = serde_json::json!({"conv": {"grid": {"step": -1.0, "low": 0, "high": 15}}});
        assert!(refused("inputs", serde_json::json!({"8": {}, "4": grid})).contains("conv"));
    }

    #[test]
    fn damaged_files_of_widths_are_refused_or_consistent() {
        let whole = file(&header());
        trimtab_hostile::storm_of(&whole, 1, |bytes| {
            let Ok((header, _)) = read_widths(Path::new("m"), bytes.to_vec().into()) else { return false };
            assert!(
                header
                    .widths
                    .iter()
                    .all(|bits| header.inputs.contains_key(bits) && *bits <= header.widths[0])
            );
            true
        });
    }
}
