//! Real files, where `TRIMTAB_DATA` names a folder with them.

use std::path::{Path, PathBuf};

use trimtab_io::{Checkpoint, ImageSet, Tokenizer, read_pairs, read_text};

/// The folder; prints that the test is skipped if there is none.
#[allow(clippy::print_stderr, reason = "a skipped test says so by name")]
fn data(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("TRIMTAB_DATA").map(PathBuf::from);
    if data.is_none() {
        eprintln!("{test}: skipped, TRIMTAB_DATA is not set");
    }
    data
}

fn sibling(data: &Path, path: &str) -> Option<PathBuf> {
    Some(data.join(path)).filter(|path| path.exists())
}

#[test]
fn a_real_model_and_its_tokenizer() {
    let Some(data) = data("a_real_model_and_its_tokenizer") else { return };
    let checkpoint = Checkpoint::open(data.join("lm/wikilm")).unwrap();
    assert_eq!(checkpoint.config().unwrap()["model_type"], "llama");
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.first_non_finite(), None, "{name}");
    }
    let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.shape, [4096, 256]);

    let tokenizer = Tokenizer::of(&checkpoint).unwrap();
    assert_eq!(tokenizer.vocab_size(), 4096);
    let text = read_text(data.join("text/reviews/test.txt")).unwrap();
    let ids = tokenizer.encode(&text, false).unwrap();
    assert!(ids.iter().all(|&id| id < 4096));
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "a byte-level tokenizer loses nothing");
    let cut = tokenizer.encode_batch(&[&text], false, 100).unwrap();
    assert_eq!(cut[0], ids[..100]);
}

#[test]
fn real_pairs_and_images() {
    let Some(data) = data("real_pairs_and_images") else { return };
    if let Some(path) = sibling(&data, "text/stsb/test.csv") {
        let pairs = read_pairs(path).unwrap();
        assert_eq!(pairs.len(), 1379);
        assert!(pairs.iter().all(|pair| (0.0..=5.0).contains(&pair.score)));
    }
    if let Some(path) = sibling(&data, "vision/cifar10.safetensors") {
        let set = ImageSet::read(path, "test").unwrap();
        assert_eq!(set.shape, [5000, 3, 32, 32]);
        assert!(set.labels.iter().all(|label| (0..10).contains(label)));
    }
}

/// `tools/fixtures/make_torch.py --training` makes the twin.
#[test]
#[allow(clippy::print_stderr, reason = "a skipped test says so by name")]
fn a_training_state_reads_as_its_twin() {
    let Some(data) = data("a_training_state_reads_as_its_twin") else { return };
    let twin = std::env::var_os("TRIMTAB_RESNET_TH").map(PathBuf::from);
    let Some(twin) = twin else {
        return eprintln!("a_training_state_reads_as_its_twin: skipped, TRIMTAB_RESNET_TH is not set");
    };
    let expected = Checkpoint::open(data.join("vision/resnet20_cifar10.safetensors")).unwrap();
    assert_eq!(super::torch::difference(&Checkpoint::open(twin).unwrap(), &expected), None);
}
