//! Schemes of `config_groups` whose codes are floats.

use serde_json::{Map, Value, json};

use super::format::CompressedFormat;
use super::scheme::{USE_ORIGINAL, act_order, flag, refuse, sharing, unsound_sharing};
use crate::error::{Error, Result};
use crate::float::{FloatElement, FloatScheme, ScaleFormat, ScaleGrid};

/// Parses the object `weights` of a group with `type: "float"`. Bits alone do not tell these schemes apart, formats do.
pub(super) fn parse(
    name: &str,
    weights: &Map<String, Value>,
    format: CompressedFormat,
) -> Result<FloatScheme> {
    if !flag(name, "symmetric", weights.get("symmetric"), true)? {
        return Err(refuse(name, "floats with symmetric false", USE_ORIGINAL));
    }
    if act_order(name, weights)? {
        return Err(refuse(name, "floats with actorder \"group\"", USE_ORIGINAL));
    }
    let (strategy, size) = sharing(name, weights)?;
    let block = weights.get("block_structure").filter(|block| !block.is_null());
    let grid = match (strategy.as_str(), size, block) {
        ("tensor", None, None) => ScaleGrid::Tensor,
        ("channel", None, None) => ScaleGrid::Channel,
        ("group" | "tensor_group", Some(size), None) => ScaleGrid::Group(size),
        ("block", None, Some(block)) => ScaleGrid::Block(parse_block(name, block)?),
        ("block", None, None) => {
            return Err(refuse(name, "strategy \"block\" without a block_structure", BLOCK));
        }
        (_, _, Some(_)) if strategy != "block" => {
            let message = format!("block_structure with strategy \"{strategy}\"");
            return Err(refuse(name, &message, "remove one, or correct the other"));
        }
        _ => return Err(unsound_sharing(name, &strategy, size)),
    };
    let local = strategy == "tensor_group";
    let bits = weights.get("num_bits").map_or(Some(8), Value::as_u64);
    match (format, bits, grid, local) {
        (CompressedFormat::NaiveQuantized | CompressedFormat::FloatQuantized, Some(8), _, false) => {
            Ok(FloatScheme { element: FloatElement::E4M3, grid, scale: ScaleFormat::F32 })
        }
        (CompressedFormat::Nvfp4PackQuantized, Some(4), ScaleGrid::Group(_), true) => {
            Ok(FloatScheme { grid, ..FloatScheme::NVFP4 })
        }
        (CompressedFormat::Mxfp4PackQuantized, Some(4), ScaleGrid::Group(32), false) => {
            Ok(FloatScheme::MXFP4)
        }
        (CompressedFormat::Mxfp8Quantized, Some(8), ScaleGrid::Group(32), false) => Ok(FloatScheme::MXFP8),
        _ => Err(unknown(name, weights, &strategy, size, format)),
    }
}

fn unknown(
    name: &str,
    weights: &Map<String, Value>,
    strategy: &str,
    size: Option<usize>,
    format: CompressedFormat,
) -> Error {
    let bits = weights.get("num_bits").map_or("8".into(), Value::to_string);
    let group = size.map_or(String::new(), |size| format!(" {size}"));
    let message = format!("floats of num_bits {bits} by {strategy}{group} in the format \"{format}\"");
    refuse(
        name,
        &message,
        "expected 8 bits in float-quantized or naive-quantized, 8 bits by group 32 in mxfp8-quantized, 4 bits by \
         group 32 in mxfp4-pack-quantized, or 4 bits by tensor_group in nvfp4-pack-quantized",
    )
}

const BLOCK: &str = "expected two positive numbers, [rows, columns]";

fn parse_block(name: &str, value: &Value) -> Result<[usize; 2]> {
    let side = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    let number = |text: &str| text.parse::<usize>().ok().filter(|&n| n > 0);
    let block = match value {
        Value::Array(sides) => match &sides[..] {
            [height, width] => side(height).zip(side(width)),
            _ => None,
        },
        // As older versions wrote it: "128x128".
        Value::String(text) => {
            text.split_once('x').and_then(|(height, width)| number(height).zip(number(width)))
        }
        _ => None,
    };
    let (height, width) = block.ok_or_else(|| refuse(name, &format!("block_structure is {value}"), BLOCK))?;
    Ok([height, width])
}

/// The object `weights`.
pub(super) fn weights_json(scheme: &FloatScheme) -> Value {
    let (strategy, group_size) = match scheme.grid {
        ScaleGrid::Tensor => ("tensor", None),
        ScaleGrid::Channel => ("channel", None),
        ScaleGrid::Group(size) if scheme.scale.has_global() => ("tensor_group", Some(size)),
        ScaleGrid::Group(size) => ("group", Some(size)),
        ScaleGrid::Block(_) => ("block", None),
    };
    let mut weights = json!({
        "num_bits": scheme.element.bits(),
        "type": "float",
        "symmetric": true,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": false,
    });
    match scheme.scale {
        ScaleFormat::E4M3 => weights["scale_dtype"] = "torch.float8_e4m3fn".into(),
        ScaleFormat::E8M0 => weights["scale_dtype"] = "torch.uint8".into(),
        _ => {}
    }
    if let ScaleGrid::Block(block) = scheme.grid {
        weights["block_structure"] = json!(block);
    }
    weights
}
