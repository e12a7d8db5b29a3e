//! Hidden states and logits equal those of transformers (`tests/fixtures/PROVENANCE.md`), and decoding with a cache
//! equals the full pass.

use std::path::PathBuf;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use trimtab_io::Checkpoint;
use trimtab_models::Model;
use trimtab_nn::{Ctx, Flow, KvCache, Network, StageSource, Task, host};

/// Largest difference to the reference, both in f32.
const PARITY: f32 = 1e-4;
/// Largest difference between a cached and a full pass.
const DECODE: f32 = 1e-5;

const DECODERS: [&str; 6] = ["llama", "llama3", "mistral", "qwen2", "qwen2_tied", "gpt2"];

struct Fixture {
    model: Model,
    expected: Checkpoint,
}

impl Fixture {
    fn open(family: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(family);
        // The folder also holds the expected numbers: the model is opened by its own file names.
        let file = |name: &str| (name.to_string(), std::fs::read(folder.join(name)).unwrap().into());
        let checkpoint =
            Checkpoint::from_bytes(vec![file("config.json"), file("model.safetensors")]).unwrap();
        Self {
            model: Model::from_checkpoint(checkpoint, None, Device::flex()).unwrap(),
            expected: Checkpoint::open(folder.join("expected.safetensors")).unwrap(),
        }
    }

    fn ints(&self, name: &str) -> TensorData {
        let tensor = self.expected.tensor(name).unwrap();
        TensorData::new(tensor.to_i64().unwrap(), tensor.shape)
    }

    fn ids(&self) -> Tensor<2, Int> {
        Tensor::from_data(self.ints("input_ids"), &Device::flex())
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        self.expected.tensor(name).unwrap().to_f32().unwrap()
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn numbers(flow: Flow) -> Vec<f32> {
    match flow {
        Flow::Hidden(x) => host(x),
        Flow::Vector(x) => host(x),
        other => panic!("unexpected {}", other.kind()),
    }
}

/// Output of every stage.
fn trace(network: &Network, input: Flow, ctx: impl Fn() -> Ctx<'static>) -> Vec<Vec<f32>> {
    let mut flow = input;
    let mut outputs = Vec::new();
    for stage in 0..network.stages().len() {
        flow = network.forward_range(stage, stage + 1, flow, &mut ctx()).unwrap();
        outputs.push(numbers(flow.clone()));
    }
    outputs
}

#[test]
fn decoders_equal_transformers() {
    for family in DECODERS {
        let fixture = Fixture::open(family);
        let network = fixture.model.network().unwrap();
        let outputs = trace(&network, Flow::Tokens(fixture.ids()), Ctx::default);
        for (stage, name) in ["hidden_0", "hidden_1", "hidden_2", "logits"].into_iter().enumerate() {
            let difference = largest_difference(&outputs[stage], &fixture.expected(name));
            assert!(difference < PARITY, "{family}, {name}: {difference}");
        }
        assert_eq!(outputs.len(), 4, "{family}: embedding, two blocks, head");
    }
}

#[test]
fn the_encoder_equals_transformers() {
    let fixture = Fixture::open("bert");
    assert_eq!(fixture.model.task(), Task::Encoder);
    let network = fixture.model.network().unwrap();
    let device = Device::flex();
    let mask = fixture.ints("attention_mask").iter::<i64>().map(|m| m == 1).collect::<Vec<_>>();
    let context = || Ctx {
        mask: Some(Tensor::<2, Bool>::from_data(TensorData::new(mask.clone(), [2, 12]), &device)),
        token_types: Some(Tensor::from_data(fixture.ints("token_type_ids"), &device)),
        ..Ctx::default()
    };
    let outputs = trace(&network, Flow::Tokens(fixture.ids()), context);
    for (stage, name) in ["hidden_0", "hidden_1", "hidden_2", "pooler_output"].into_iter().enumerate() {
        let difference = largest_difference(&outputs[stage], &fixture.expected(name));
        assert!(difference < PARITY, "{name}: {difference}");
    }
    // Without the mask the padding is seen, and the numbers are others: the comparison can fail.
    let unmasked = trace(&network, Flow::Tokens(fixture.ids()), Ctx::default);
    assert!(largest_difference(&unmasked[2], &fixture.expected("hidden_2")) > 10.0 * PARITY);
}

#[test]
fn decoding_with_a_cache_equals_the_full_pass() {
    for family in DECODERS {
        let fixture = Fixture::open(family);
        let network = fixture.model.network().unwrap();
        let ids = fixture.ids();
        let [b, t] = ids.dims();
        let full = network.forward(Flow::Tokens(ids.clone()), &mut Ctx::default()).unwrap();
        let Flow::Hidden(full) = full else { panic!("logits") };
        let [_, _, vocab] = full.dims();
        let mut cache = KvCache::new();
        // A prompt of five tokens, then one token at a time.
        for (from, to) in std::iter::once((0, 5)).chain((5..t).map(|i| (i, i + 1))) {
            let part = ids.clone().slice([0..b, from..to]);
            let mut ctx = Ctx { cache: Some(&mut cache), ..Ctx::default() };
            let step = numbers(network.forward(Flow::Tokens(part), &mut ctx).unwrap());
            cache.advance(to - from);
            let expected = host(full.clone().slice([0..b, from..to, 0..vocab]));
            let difference = largest_difference(&step, &expected);
            assert!(difference < DECODE, "{family}, positions {from}..{to}: {difference}");
        }
    }
}

#[test]
fn the_trainable_module_computes_the_same() {
    for family in DECODERS {
        let fixture = Fixture::open(family);
        let module = fixture.model.trainable(&Device::flex()).unwrap();
        let logits = numbers(module.forward(fixture.ids(), &mut Ctx::default()).unwrap());
        let difference = largest_difference(&logits, &fixture.expected("logits"));
        assert!(difference < PARITY, "{family}: {difference}");
        // And it gives back every tensor that it was made of.
        for (name, shape, values) in module.tensors() {
            let tensor = fixture.model.checkpoint().tensor(&name).unwrap();
            assert_eq!((tensor.shape.clone(), tensor.to_f32().unwrap()), (shape, values), "{family}: {name}");
        }
    }
}

#[test]
fn every_tensor_belongs_to_a_stage() {
    for family in DECODERS.into_iter().chain(["bert"]) {
        let fixture = Fixture::open(family);
        let mut known: Vec<String> = fixture.model.stages().iter().flat_map(|s| s.tensors.clone()).collect();
        known.sort();
        let names: Vec<String> = fixture.model.checkpoint().names().map(str::to_string).collect();
        assert_eq!(known, names, "{family}");
        let numel: usize = fixture.model.stages().iter().map(|s| s.numel).sum();
        let stored: usize = names.iter().map(|n| fixture.model.checkpoint().info(n).unwrap().numel()).sum();
        assert_eq!(numel, stored, "{family}");
    }
}

#[test]
fn both_spellings_of_rotary_settings_mean_the_same() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama3");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let files = vec![
        ("config.json".to_string(), read("config.old_style.json").into()),
        ("model.safetensors".to_string(), read("model.safetensors").into()),
    ];
    let model = Model::from_checkpoint(Checkpoint::from_bytes(files).unwrap(), None, Device::flex()).unwrap();
    let fixture = Fixture::open("llama3");
    let logits = model.network().unwrap().forward(Flow::Tokens(fixture.ids()), &mut Ctx::default()).unwrap();
    assert!(largest_difference(&numbers(logits), &fixture.expected("logits")) < PARITY);
}
