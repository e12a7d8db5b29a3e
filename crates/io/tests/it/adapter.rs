//! PEFT adapters: merged as `merge_and_unload` merges them; what cannot be merged is refused.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trimtab_io::{Adapter, Checkpoint, Dtype, RawTensor};

use super::{file, memory, tensor};

/// Sums of at most 40 products in f32, in another order than torch adds them: a few units in the last place of the
/// largest of them, which is below 8.
const TOLERANCE: f32 = 4e-6;
const CASES: [&str; 9] = [
    "llama.lora",
    "llama.rslora",
    "llama.dora",
    "llama.saved",
    "gpt2.lora",
    "gpt2.dora",
    "small.lora",
    "small.dora",
    "small.pickled",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft")
}

fn base(case: &str) -> Checkpoint {
    Checkpoint::open(fixtures().join(case.split('.').next().unwrap())).unwrap()
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.tensor(name).unwrap().to_f32().unwrap()
}

/// Largest difference between two lists, which must be equally long.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn merged_as_peft_merges() {
    for case in CASES {
        let base = base(case);
        let merged = base.clone().with_adapter(Adapter::open(fixtures().join(case)).unwrap()).unwrap();
        let expected = Checkpoint::open(fixtures().join(case).join("expected.safetensors")).unwrap();
        assert_eq!(merged.names().collect::<Vec<_>>(), base.names().collect::<Vec<_>>(), "{case}");
        let mut changed = 0;
        for name in base.names() {
            let (before, after) = (floats(&base, name), floats(&merged, name));
            // PEFT's models have a prefix that the bare file has not.
            let stored =
                [name.to_owned(), format!("transformer.{name}")].into_iter().find(|n| expected.contains(n));
            let Some(stored) = stored else {
                assert_eq!(before, after, "{case}: {name} does not change");
                continue;
            };
            changed += 1;
            let found = distance(&after, &floats(&expected, &stored));
            assert!(found <= TOLERANCE, "{case}: {name} differs by {found}");
            assert!(
                distance(&before, &after) > 1e-2,
                "{case}: {name} changes by more than could hide a mistake"
            );
            assert_eq!(merged.info(name).unwrap().shape, base.info(name).unwrap().shape);
        }
        assert_eq!(changed, expected.len(), "{case}: every changed tensor was found");
        assert_ne!(merged.fingerprint(), base.fingerprint());
    }
}

#[test]
fn base_and_adapter_open_as_one_path() {
    let path = |case: &str| fixtures().join(case).display().to_string();
    let both = Checkpoint::open(format!("{}+{}", path("llama"), path("llama.saved"))).unwrap();
    let built = base("llama").with_adapter(Adapter::open(fixtures().join("llama.saved")).unwrap()).unwrap();
    assert_eq!(both.fingerprint(), built.fingerprint());
    assert_eq!(both.path(), built.path());
    assert_eq!(both.dir(), Some(fixtures().join("llama").as_path()));
    // The head was trained whole: it comes from the adapter's file.
    assert_eq!(both.info("lm_head.weight").unwrap().file, "adapter_model.safetensors");
    let hash =
        trimtab_io::sha256(&std::fs::read(fixtures().join("llama.saved/adapter_model.safetensors")).unwrap());
    assert_eq!(both.content_sha256("adapter_model.safetensors").unwrap(), hash);
    let again = both.with_adapter(Adapter::open(fixtures().join("llama.lora")).unwrap()).unwrap_err();
    assert!(again.to_string().contains("has an adapter already"), "{again}");
    // A directory whose name has a plus is one.
    let dir = tempfile::tempdir().unwrap();
    let plus = dir.path().join("a+b");
    std::fs::create_dir(&plus).unwrap();
    std::fs::copy(fixtures().join("llama/model.safetensors"), plus.join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(&plus).unwrap().fingerprint(), base("llama").fingerprint());
}

#[test]
fn one_module_at_a_time() {
    let adapter = Adapter::open(fixtures().join("llama.lora")).unwrap();
    assert_eq!(adapter.modules().count(), 6);
    let module = "model.layers.0.mlp.up_proj";
    let delta = adapter.delta(module).unwrap().unwrap();
    assert_eq!((delta.rank, delta.d_input, delta.d_output, delta.scale), (3, 16, 24, 2.0));
    assert!(adapter.delta("model.layers.0.mlp.gate_proj").unwrap().is_none());
    let zero = vec![0.0; 24 * 16];
    assert_eq!(adapter.merged(module, &zero, &[24, 16]).unwrap(), delta.product());
    let error = adapter.merged("model.layers.0.mlp.up_prj", &zero, &[24, 16]).unwrap_err().to_string();
    assert!(error.contains("does not change") && error.contains(module), "{error}");
    let error = adapter.merged(module, &zero[..48], &[3, 16]).unwrap_err().to_string();
    assert!(error.contains("24 outputs and 16 inputs, the weight is [3, 16]"), "{error}");
}

/// An adapter in memory, over the tensors of a case or others.
fn adapter(config: Value, tensors: &[(&str, RawTensor)]) -> trimtab_io::Result<Adapter> {
    let files = [
        ("adapter_model.safetensors", file(tensors)),
        ("adapter_config.json", config.to_string().into_bytes()),
    ];
    Adapter::from_checkpoint(memory(&files).unwrap())
}

fn lora() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4})
}

fn pair(a: &[usize], b: &[usize]) -> Vec<(&'static str, RawTensor)> {
    vec![
        ("base_model.model.m.lora_A.weight", tensor(a, 1.0, Dtype::F32)),
        ("base_model.model.m.lora_B.weight", tensor(b, 1.0, Dtype::F32)),
    ]
}

#[test]
fn adapters_that_are_not_sound() {
    let refuse =
        |config: Value, tensors: &[(&str, RawTensor)]| adapter(config, tensors).unwrap_err().to_string();
    let sound = pair(&[2, 3], &[4, 2]);
    assert!(adapter(lora(), &sound).is_ok());
    assert!(refuse(lora(), &sound[..1]).contains("only one of lora_A and lora_B"));
    assert!(refuse(lora(), &pair(&[2, 3], &[4, 3])).contains("are not [rank, in] and [out, rank]"));
    assert!(refuse(lora(), &pair(&[2, 3], &[4])).contains("must be a matrix"));
    assert!(refuse(lora(), &pair(&[3, 3], &[4, 3])).contains("has rank 3, adapter_config.json says 2"));
    assert!(refuse(lora(), &[]).contains("without any tensor"));
    let mut dora = lora();
    dora["use_dora"] = true.into();
    assert!(refuse(dora, &sound).contains("use_dora is true, and there is no magnitude"));
    let one = |name: &'static str| [(name, tensor(&[2], 0.0, Dtype::F32))];
    assert!(refuse(lora(), &one("model.m.lora_A.weight")).contains("not a name of PEFT"));
    assert!(refuse(lora(), &one("base_model.model.m.lora_A.default.weight")).contains("not understood"));
    assert!(refuse(lora(), &one("base_model.model.m.token_adapter.x")).contains("not understood"));
    assert!(refuse(json!({"peft_type": "PREFIX_TUNING"}), &sound).contains("\"PREFIX_TUNING\""));
    let missing = Adapter::open(fixtures().join("llama")).unwrap_err().to_string();
    assert!(missing.contains("no adapter_model.safetensors"), "{missing}");
}

#[test]
fn adapters_of_another_model() {
    let lay = |names: &[(&str, RawTensor)], config: Value, tensors: &[(&str, RawTensor)]| {
        memory(&[("model.safetensors", file(names))]).unwrap().with_adapter(adapter(config, tensors).unwrap())
    };
    let (sound, weight) = (pair(&[2, 3], &[4, 2]), |shape: &[usize], dtype| tensor(shape, 0.0, dtype));
    let error = |result: trimtab_io::Result<Checkpoint>| result.unwrap_err().to_string();
    assert!(lay(&[("m.weight", weight(&[4, 3], Dtype::F32))], lora(), &sound).is_ok());
    let found = error(lay(&[("n.weight", weight(&[4, 3], Dtype::F32))], lora(), &sound));
    assert!(found.contains("no tensor \"m.weight\"; nearest: \"n.weight\""), "{found}");
    let found = error(lay(&[("m.weight", weight(&[4, 5], Dtype::F32))], lora(), &sound));
    assert!(found.contains("4 outputs and 3 inputs, the model has [4, 5]"), "{found}");
    let codes = RawTensor::new(Dtype::I8, vec![4, 3], vec![0; 12].into()).unwrap();
    assert!(error(lay(&[("m.weight", codes)], lora(), &sound)).contains("type I8"));
    // Two tensors would fit the shorter name.
    let two = [("a.m.weight", weight(&[4, 3], Dtype::F32)), ("b.m.weight", weight(&[4, 3], Dtype::F32))];
    assert!(lay(&two[..1], lora(), &sound).is_ok());
    assert!(lay(&two, lora(), &sound).is_err());
    // A module that the model did not have is added only if the settings say that it was trained.
    let mut head = sound.clone();
    head.push(("base_model.model.score.weight", weight(&[2, 3], Dtype::F32)));
    let model = [("m.weight", weight(&[4, 3], Dtype::F32))];
    assert!(lay(&model, lora(), &head).is_err());
    let mut saved = lora();
    saved["modules_to_save"] = json!(["score"]);
    assert!(lay(&model, saved, &head).unwrap().contains("score.weight"));
}

#[test]
fn merged_weights_keep_the_type_of_the_model() {
    let model =
        memory(&[("model.safetensors", file(&[("m.weight", tensor(&[4, 3], 100.0, Dtype::BF16))]))]).unwrap();
    let adapter = adapter(lora(), &pair(&[2, 3], &[4, 2])).unwrap();
    let exact = adapter.merged("m", &floats(&model, "m.weight"), &[4, 3]).unwrap();
    let merged = model.with_adapter(adapter).unwrap().tensor("m.weight").unwrap();
    assert_eq!(merged.dtype, Dtype::BF16);
    let rounded = RawTensor::from_f32(vec![4, 3], &exact, Dtype::BF16).unwrap();
    assert_eq!(merged.bytes[..], rounded.bytes[..]);
}
