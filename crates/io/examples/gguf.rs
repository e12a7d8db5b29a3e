//! Writes a Hugging Face model as GGUF, and reads one back into a directory.
//!
//! ```text
//! cargo run --release -p trimtab-io --example gguf -- write MODEL TYPE OUT.gguf
//! cargo run --release -p trimtab-io --example gguf -- read IN.gguf OUT_DIRECTORY
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use trimtab_io::gguf::{GgufModelWriter, GgufTensor, GgufType, TokenizerFiles};
use trimtab_io::{Checkpoint, Error, Result, to_safetensors, write_atomic};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", model, ty, out] => match GgufType::from_name(ty) {
            Some(ty) => write(Path::new(model), ty, Path::new(out)),
            None => Err(Error::Output { path: out.into(), message: format!("{ty} is no type of GGUF") }),
        },
        ["read", file, out] => read(Path::new(file), Path::new(out)),
        _ => Err(Error::Output {
            path: "".into(),
            message: "usage: gguf write MODEL TYPE OUT.gguf | gguf read IN.gguf OUT_DIRECTORY".into(),
        }),
    }
}

/// Every matrix as `ty`; vectors are written in single precision whatever is asked for.
fn write(model: &Path, ty: GgufType, out: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(model)?;
    let config = checkpoint.config().cloned().unwrap_or(Value::Null);
    let json = |name: &str| -> Result<Option<Value>> {
        Ok(checkpoint.side_file(name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    };
    let files = TokenizerFiles {
        tokenizer: json("tokenizer.json")?,
        config: json("tokenizer_config.json")?,
        pooling: json("1_Pooling/config.json")?,
        ..TokenizerFiles::default()
    };
    let name = model.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut writer = GgufModelWriter::create(out, &config, &files, name.as_deref())?;
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name)?;
        match tensor.shape[..] {
            [rows, cols] => {
                let blocks = GgufTensor::encode(&tensor.to_f32()?, rows, cols, ty, None)?;
                writer.append_blocks(name, &blocks)?;
            }
            _ => writer.append(name, &tensor)?,
        }
    }
    writer.finish().map(drop)
}

fn read(file: &Path, out: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(file)?;
    std::fs::create_dir_all(out).map_err(|source| Error::Io {
        action: "create",
        path: out.into(),
        source,
    })?;
    let tensors: Vec<_> = checkpoint
        .names()
        .map(|name| Ok((name.to_owned(), checkpoint.tensor(name)?)))
        .collect::<Result<_>>()?;
    write_atomic(out.join("model.safetensors"), &to_safetensors(&tensors, &BTreeMap::new())?)?;
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        if let Some(bytes) = checkpoint.side_file(name)? {
            write_atomic(out.join(name), &bytes)?;
        }
    }
    Ok(())
}
