//! Real files, where `TRIMTAB_DATA` names a folder with them.

use std::path::{Path, PathBuf};

use trimtab_io::{
    Checkpoint, ImageSet, Series, SeriesWindows, Tokenizer, Wav, read_pairs, read_text, split_by_share,
};

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

#[test]
fn real_sounds() {
    let Some(data) = data("real_sounds") else { return };
    let Some(folder) = sibling(&data, "audio/digits") else { return };
    let (mut files, mut loudest) = (0, 0.0f32);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "wav") {
            continue;
        }
        let wav = Wav::read(&path).unwrap();
        assert_eq!((wav.rate, wav.channels), (8000, 1), "{}", path.display());
        // A spoken digit: a tenth of a second to three.
        assert!((800..24_000).contains(&wav.frames()), "{}: {}", path.display(), wav.frames());
        let peak = wav.samples.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
        assert!(peak > 0.0 && peak <= 1.0, "{}: {peak}", path.display());
        loudest = loudest.max(peak);
        files += 1;
    }
    assert!(files >= 100 && loudest > 0.1, "{files} files, the loudest at {loudest}");
}

#[test]
fn a_real_series() {
    let Some(data) = data("a_real_series") else { return };
    let Some(path) = sibling(&data, "timeseries/ETTh1.csv") else { return };
    let mut series = Series::read(path).unwrap();
    assert_eq!(series.columns, ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]);
    assert_eq!(series.rows(), 17_420);
    let first = series.slice(0..1).unwrap().to_vec();
    assert_eq!(first, [5.827, 2.009, 1.599, 0.462, 4.203, 1.34, 30.531].map(|v: f64| v as f32));
    assert_eq!(series.slice(17_419..17_420).unwrap()[6], 9.567);

    let [train, validation, test] = split_by_share(series.rows(), 0.6, 0.2).unwrap();
    assert_eq!([train.len(), validation.len(), test.len()], [10_452, 3_484, 3_484]);
    let scales = series.standardize(train.clone()).unwrap();
    for (column, (mean, deviation)) in scales.iter().enumerate() {
        let part = series.slice(train.clone()).unwrap();
        let values = || part.iter().skip(column).step_by(7).map(|&v| f64::from(v));
        let n = train.len() as f64;
        let found = (values().sum::<f64>() / n, values().map(|v| v * v).sum::<f64>() / n);
        assert!(found.0.abs() < 1e-4 && (found.1 - 1.0).abs() < 1e-4, "column {column}: {found:?}");
        // Forecasts are scaled back by the same numbers.
        assert!((part[column] * deviation + mean - first[column]).abs() < 1e-4, "column {column}");
    }
    let windows = SeriesWindows { rows: test, input: 96, target: 24, stride: 1 };
    assert_eq!(windows.len(), 3_484 - 96 - 24 + 1);
    let [_, last] = windows.get(windows.len() - 1).unwrap();
    assert_eq!(last.end, series.rows());
    assert_eq!(series.slice(last).unwrap().len(), 24 * 7);
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
