//! The JSON text in `quant_state`.

use serde_json::Value;

/// What the text says of a matrix.
#[derive(Debug, PartialEq)]
pub(super) struct State {
    /// `[out, in]`.
    pub dims: [usize; 2],
    pub block_size: usize,
    /// Of magnitudes that are quantized themselves.
    pub nested: Option<Nested>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Nested {
    pub block_size: usize,
    /// What was subtracted from all magnitudes.
    pub offset: f32,
}

impl State {
    /// Parses the text of a matrix of the type `kind`; the error says what is wrong with it.
    pub fn parse(text: &[u8], kind: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|e| format!("not JSON: {e}"))?;
        let get = |key: &str| value.get(key).ok_or_else(|| format!("{key} is missing"));
        if get("quant_type")? != kind {
            return Err(format!(
                "quant_type is {}, but the name of the tensor says {kind}",
                value["quant_type"]
            ));
        }
        let size = |key: &str| match get(key)?.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size @ 1..) => Ok(size),
            _ => Err(format!("{key} is {}, expected a positive number", value[key])),
        };
        let sides: Option<Vec<usize>> = get("shape")?.as_array().and_then(|shape| {
            shape.iter().map(|side| side.as_u64().and_then(|side| usize::try_from(side).ok())).collect()
        });
        let Some(&[rows, cols]) = sides.as_deref() else {
            return Err("shape is no [out, in]".into());
        };
        let nested = match value.get("nested_blocksize") {
            None | Some(Value::Null) => None,
            Some(_) => {
                let offset = get("nested_offset")?.as_f64().map(|offset| offset as f32);
                let offset =
                    offset.filter(|offset| offset.is_finite()).ok_or("nested_offset is no number")?;
                if value.get("nested_dtype").is_some_and(|dtype| dtype != "float32") {
                    return Err(format!("nested_dtype is {}, expected float32", value["nested_dtype"]));
                }
                Some(Nested { block_size: size("nested_blocksize")?, offset })
            }
        };
        Ok(Self { dims: [rows, cols], block_size: size("blocksize")?, nested })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_the_library() {
        let text = br#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [12, 80],
            "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.125}"#;
        let nested = Some(Nested { block_size: 256, offset: 0.125 });
        assert_eq!(State::parse(text, "nf4"), Ok(State { dims: [12, 80], block_size: 64, nested }));
        let wrong = |text: &str| State::parse(text.as_bytes(), "nf4").unwrap_err();
        assert!(State::parse(text, "fp4").unwrap_err().contains("says fp4"));
        assert!(wrong("{").contains("not JSON"));
        assert!(wrong("[]").contains("quant_type is missing"));
        assert!(wrong(r#"{"quant_type": "nf4"}"#).contains("shape is missing"));
        assert!(wrong(r#"{"quant_type": "nf4", "shape": [1, 2, 3]}"#).contains("shape is no"));
        assert!(wrong(r#"{"quant_type": "nf4", "shape": [1, -2]}"#).contains("shape is no"));
        assert!(
            wrong(r#"{"quant_type": "nf4", "shape": [1, 2], "blocksize": 0}"#).contains("blocksize is 0")
        );
        let offset = r#"{"quant_type": "nf4", "shape": [1, 2], "blocksize": 64, "nested_blocksize": 256, "nested_offset": 1e300}"#;
        assert!(wrong(offset).contains("nested_offset is no number"));
    }
}
