//! Which files of a directory are the weights.

use std::path::Path;

use super::store::Store;
use crate::error::{Error, Result};
use crate::torch;

/// End of the name of a file with tensors.
const WEIGHTS: &str = ".safetensors";
/// End of the name of a shard index.
const INDEX: &str = ".safetensors.index.json";
/// Weights of PyTorch, whole and in shards.
const TORCH: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
/// Ends of PyTorch files that are weights by their name; `*.bin` can be anything.
const TORCH_ENDINGS: [&str; 4] = [".pt", ".pth", ".th", ".ckpt"];
/// End of the name of a GGUF file.
const GGUF: &str = ".gguf";
const CHOOSE: &str = "pass the path of one file instead of the directory";
const EMPTY: &str = "pass a directory with model.safetensors or pytorch_model.bin, or the path of a .safetensors, .gguf, .pt, .pth or .bin file";

/// The weights of a checkpoint, by file name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Weights {
    File(String),
    Index(String),
    Gguf(String),
}

/// The weights at a path, and the directory they are in.
pub(super) fn on_disk(path: &Path) -> Result<(Store, Weights)> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotACheckpoint {
            path: path.into(),
            message: "there is no such file or directory".into(),
            hint: EMPTY,
        },
        _ => Error::io("open", path, e),
    })?;
    if metadata.is_dir() {
        let store = Store::Dir(path.into());
        let weights = among(path, &store.names()?)?;
        return Ok((store, weights));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        let message = "the file name is not Unicode".into();
        return Err(Error::NotACheckpoint { path: path.into(), message, hint: "rename the file" });
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let weights = match name {
        _ if name.ends_with(INDEX) || name == TORCH_INDEX => Weights::Index(name.into()),
        _ if name.ends_with(GGUF) => Weights::Gguf(name.into()),
        _ => Weights::File(name.into()),
    };
    Ok((Store::Dir(parent.into()), weights))
}

/// The weights among the files of a directory.
pub(super) fn among(path: &Path, names: &[String]) -> Result<Weights> {
    let has = |name: &str| names.iter().any(|n| n == name);
    if has("model.safetensors") {
        return Ok(Weights::File("model.safetensors".into()));
    }
    if has("model.safetensors.index.json") {
        return Ok(Weights::Index("model.safetensors.index.json".into()));
    }
    let ending = |end: &str| names.iter().filter(|n| n.ends_with(end)).cloned().collect::<Vec<_>>();
    if let [index] = &ending(INDEX)[..] {
        return Ok(Weights::Index(index.clone()));
    }
    let mut files = ending(WEIGHTS);
    if files.is_empty() {
        if has(TORCH) {
            return Ok(Weights::File(TORCH.into()));
        }
        if has(TORCH_INDEX) {
            return Ok(Weights::Index(TORCH_INDEX.into()));
        }
        files = TORCH_ENDINGS.iter().flat_map(|end| ending(end)).collect();
    }
    match &files[..] {
        [file] => Ok(Weights::File(file.clone())),
        [] => match &ending(GGUF)[..] {
            [file] => Ok(Weights::Gguf(file.clone())),
            [] => {
                let message = "no .safetensors, no .gguf and no PyTorch file".into();
                Err(Error::NotACheckpoint { path: path.into(), message, hint: EMPTY })
            }
            several => {
                let message = format!("several GGUF files: {}", several.join(", "));
                Err(Error::NotACheckpoint { path: path.into(), message, hint: CHOOSE })
            }
        },
        several => {
            let message = format!("several files and no index: {}", several.join(", "));
            Err(Error::NotACheckpoint { path: path.into(), message, hint: CHOOSE })
        }
    }
}

/// Whether a file of this name holds tensors.
pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(WEIGHTS) || torch::ENDINGS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(names: &[&str]) -> Result<Weights> {
        among(Path::new("m"), &names.iter().map(|&n| n.into()).collect::<Vec<_>>())
    }

    #[test]
    fn the_order_of_preference() {
        let file = |name: &str| Weights::File(name.into());
        let index = |name: &str| Weights::Index(name.into());
        assert_eq!(
            find(&["x.safetensors", "model.safetensors", "model.safetensors.index.json"]).unwrap(),
            file("model.safetensors")
        );
        assert_eq!(
            find(&["model-1.safetensors", "model.safetensors.index.json", "y.safetensors.index.json"])
                .unwrap(),
            index("model.safetensors.index.json")
        );
        assert_eq!(
            find(&["a-1.safetensors", "a-2.safetensors", "a.safetensors.index.json"]).unwrap(),
            index("a.safetensors.index.json")
        );
        assert_eq!(find(&["config.json", "resnet.safetensors"]).unwrap(), file("resnet.safetensors"));
        assert_eq!(find(&["a.gguf", "resnet.safetensors"]).unwrap(), file("resnet.safetensors"));
        assert_eq!(find(&["README.md", "a.gguf"]).unwrap(), Weights::Gguf("a.gguf".into()));
        assert_eq!(find(&["pytorch_model.bin", "x.safetensors"]).unwrap(), file("x.safetensors"));
        assert_eq!(
            find(&["a.pt", "pytorch_model.bin", "training_args.bin"]).unwrap(),
            file("pytorch_model.bin")
        );
        assert_eq!(
            find(&["pytorch_model-1.bin", "pytorch_model.bin.index.json"]).unwrap(),
            index("pytorch_model.bin.index.json")
        );
        assert_eq!(find(&["resnet20.th", "training_args.bin"]).unwrap(), file("resnet20.th"));
    }

    #[test]
    fn refusals_say_what_is_there() {
        assert!(
            find(&["a.safetensors", "b.safetensors"]).unwrap_err().to_string().contains("a.safetensors, b")
        );
        assert!(find(&["a.gguf", "b.gguf"]).unwrap_err().to_string().contains("a.gguf, b.gguf"));
        assert!(find(&["a.pt", "b.pth"]).unwrap_err().to_string().contains("a.pt, b.pth"));
        assert!(find(&[]).unwrap_err().to_string().contains("no .safetensors"));
    }
}
