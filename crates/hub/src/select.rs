//! Which files of a repository a model needs.

use trimtab_io::SIDE_FILES;

use crate::error::{Error, Result};
use crate::name::HubName;

/// Configurations that are taken if they are there, beside what belongs to every version of a model.
const CONFIGURATIONS: [&str; 3] = ["config.json", "adapter_config.json", "quantize_config.json"];

/// The weights of a repository.
#[derive(Debug, PartialEq, Eq)]
pub enum Weights {
    Files(Vec<String>),
    /// An index, which names the files.
    Index(String),
}

/// The files of `names` to take beside the weights.
pub fn side(names: &[&str]) -> Vec<String> {
    let known = CONFIGURATIONS.into_iter().chain(SIDE_FILES);
    known.filter(|name| names.contains(name)).map(Into::into).collect()
}

/// The weights among `names`: safetensors first, then PyTorch, then GGUF.
pub fn weights(name: &HubName, names: &[&str]) -> Result<Weights> {
    let pairs = [
        ("model.safetensors", "model.safetensors.index.json"),
        ("adapter_model.safetensors", "adapter_model.safetensors.index.json"),
    ];
    let torch = [("pytorch_model.bin", "pytorch_model.bin.index.json"), ("adapter_model.bin", "")];
    let whole = |pairs: &[(&str, &str)]| {
        pairs.iter().find_map(|(file, index)| {
            let file = names.contains(file).then(|| Weights::Files(vec![(*file).into()]));
            file.or_else(|| names.contains(index).then(|| Weights::Index((*index).into())))
        })
    };
    // Folders hold other versions (`onnx/`, `original/`).
    let ending = |ends: &[&str]| {
        let matches = |n: &&str| !n.contains('/') && ends.iter().any(|end| n.ends_with(end));
        names.iter().copied().filter(matches).map(String::from).collect::<Vec<_>>()
    };
    let found = whole(&pairs).or_else(|| one(ending(&[".safetensors"]))).or_else(|| whole(&torch));
    let found =
        found.or_else(|| one(ending(&[".pt", ".pth", ".th", ".ckpt"]))).or_else(|| one(ending(&[".gguf"])));
    found.ok_or_else(|| {
        let candidates = ending(&[".safetensors", ".pt", ".pth", ".th", ".ckpt", ".gguf"]);
        let (message, hint) = if candidates.is_empty() {
            (
                "no weights (safetensors, PyTorch or GGUF)".into(),
                "choose a repository with the weights of a model",
            )
        } else {
            let shown = candidates.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
            let message = format!("{} files with weights and no index: {shown}", candidates.len());
            (message, "download one of them and pass its path")
        };
        Error::NoModel { name: name.to_string(), message, hint }
    })
}

fn one(mut files: Vec<String>) -> Option<Weights> {
    (files.len() == 1).then(|| Weights::Files(vec![files.remove(0)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(names: &[&str]) -> Result<Weights> {
        weights(&HubName::parse("o/n").unwrap(), names)
    }

    #[test]
    fn only_what_is_needed() {
        let file = |name: &str| Weights::Files(vec![name.into()]);
        let all =
            ["model.safetensors", "pytorch_model.bin", "a.gguf", "consolidated.safetensors", "onnx/m.onnx"];
        assert_eq!(find(&all).unwrap(), file("model.safetensors"));
        let index = "model.safetensors.index.json";
        let sharded = ["model-1.safetensors", "model-2.safetensors", index, "pytorch_model.bin"];
        assert_eq!(find(&sharded).unwrap(), Weights::Index(index.into()));
        assert_eq!(find(&["pytorch_model.bin", "a.gguf"]).unwrap(), file("pytorch_model.bin"));
        assert_eq!(find(&["adapter_model.bin"]).unwrap(), file("adapter_model.bin"));
        assert_eq!(find(&["resnet.th", "x/y.safetensors"]).unwrap(), file("resnet.th"));
        assert_eq!(find(&["q4.gguf"]).unwrap(), file("q4.gguf"));
        assert!(find(&["q4.gguf", "q8.gguf"]).unwrap_err().to_string().contains("2 files with weights"));
        assert!(find(&["README.md"]).unwrap_err().to_string().contains("no weights"));
        assert_eq!(side(&["README.md", "vocab.txt", "config.json"]), ["config.json", "vocab.txt"]);
    }
}
