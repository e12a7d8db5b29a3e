//! Fixtures of the reference implementation (`tests/fixtures/PROVENANCE.md`) and what is compared with them.

use std::path::PathBuf;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use trimtab_io::Checkpoint;
use trimtab_models::spec::ModelSpec;
use trimtab_models::{Model, Spec};
use trimtab_nn::{Ctx, Flow, KvCache, Network, Role, SecondInput, StageSource, host};

/// Folders of decoders.
pub const DECODERS: &[&str] = &[
    "llama",
    "llama3",
    "mistral",
    "qwen2",
    "qwen2_tied",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi",
    "phi_norms",
    "phi3",
    "phi3_long",
    "granite",
    "olmo2",
    "stablelm",
    "stablelm_parallel",
    "starcoder2",
    "falcon",
    "falcon_new",
    "falcon_one_norm",
    "falcon_alibi",
    "gpt2",
    "gpt_neox",
    "gpt_neox_serial",
    "gptj",
    "opt",
    "opt_after",
    "bloom",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
];

/// Folders of encoders of text.
pub const ENCODERS: &[&str] = &["bert", "roberta", "distilbert", "electra"];

/// Folders of vision towers.
pub const TOWERS: &[&str] =
    &["vit", "vit_classifier", "deit", "dinov2", "dinov2_gated", "clip_vision", "siglip_vision"];

/// Folders of encoders of text whose pooled vector depends on the padding.
pub const TEXT_TOWERS: &[&str] = &["clip_text", "siglip_text"];

/// Folders of networks of two parts.
pub const PAIRS: &[&str] = &["t5", "t5_gated", "whisper", "clip", "siglip"];

/// Folders of decoders that read images.
pub const MULTIMODAL: &[&str] = &["llava", "llava_siglip"];

pub fn folder(fixture: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture)
}

pub struct Fixture {
    pub name: String,
    pub model: Model,
    expected: Checkpoint,
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        Self::with(name, None, |_| {})
    }

    /// The fixture under another specification or configuration.
    pub fn with(name: &str, spec: Option<ModelSpec>, change: impl Fn(&mut serde_json::Value)) -> Self {
        // The folder also holds the expected numbers: the model is opened by its own file names.
        let weights = std::fs::read(folder(name).join("model.safetensors")).unwrap();
        Self::of(name, weights, spec, change)
    }

    /// The fixture with its tensors under other names.
    pub fn renamed(name: &str, rename: impl Fn(&str) -> String) -> Self {
        let source = Checkpoint::open(folder(name).join("model.safetensors")).unwrap();
        let tensors: Vec<_> =
            source.names().map(|name| (rename(name), source.tensor(name).unwrap())).collect();
        let weights = trimtab_io::to_safetensors(&tensors, &Default::default()).unwrap();
        Self::of(name, weights, None, |_| {})
    }

    fn of(
        name: &str,
        weights: Vec<u8>,
        spec: Option<ModelSpec>,
        change: impl Fn(&mut serde_json::Value),
    ) -> Self {
        let folder = folder(name);
        let mut config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        change(&mut config);
        let checkpoint = Checkpoint::from_bytes(vec![
            ("config.json".to_string(), config.to_string().into_bytes().into()),
            ("model.safetensors".to_string(), weights.into()),
        ]);
        let spec = spec.map(|spec| Spec::Transformer(Box::new(spec)));
        let model = Model::from_checkpoint(checkpoint.unwrap(), spec, Device::flex());
        Self {
            name: name.into(),
            model: model.unwrap_or_else(|e| panic!("{name}: {e}")),
            expected: Checkpoint::open(folder.join("expected.safetensors")).unwrap(),
        }
    }

    pub fn network(&self) -> Network {
        self.model.network().unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn ints(&self, name: &str) -> Option<TensorData> {
        self.expected.contains(name).then(|| {
            let tensor = self.expected.tensor(name).unwrap();
            TensorData::new(tensor.to_i64().unwrap(), tensor.shape)
        })
    }

    pub fn ids(&self) -> Tensor<2, Int> {
        Tensor::from_data(self.ints("input_ids").unwrap(), &Device::flex())
    }

    /// Both inputs of a network of two parts.
    pub fn pair(&self) -> Flow {
        let ids = |name: &str| Flow::Tokens(Tensor::from_data(self.ints(name).unwrap(), &Device::flex()));
        if self.has("decoder_input_ids") {
            let first = if self.has("input_features") { self.input() } else { ids("input_ids") };
            return Flow::both(first, ids("decoder_input_ids"));
        }
        Flow::both(self.input(), ids("input_ids"))
    }

    /// Masks of both inputs, where the fixture has them.
    pub fn pair_ctx(&self) -> Ctx<'static> {
        let mask = self.ctx().mask;
        match self.has("pixel_values") {
            true => Ctx { second: SecondInput { mask, row_weights: None }, ..Ctx::default() },
            false => Ctx { mask, ..Ctx::default() },
        }
    }

    /// Largest differences of a network of two parts: hidden states of both, and what both give in the end.
    pub fn pair_differences(&self) -> (f32, f32) {
        let network = self.network();
        let (mut flow, mut hidden) = (self.pair(), 0.0f32);
        let (mut part, mut count) = ("first", 0);
        for (stage, info) in self.model.stages().iter().enumerate() {
            flow = network.forward_range(stage, stage + 1, flow, &mut self.pair_ctx()).unwrap();
            if info.role == Role::Embed && stage > 0 {
                (part, count) = ("second", 0);
            }
            let Flow::Pair(both) = flow.clone() else { panic!("a pair") };
            if info.role != Role::Head {
                let values = numbers(if part == "first" { both.0 } else { both.1 });
                let expected = self.expected(&format!("{part}_hidden_{count}"));
                hidden = hidden.max(largest_difference(&values, &expected));
                count += 1;
            }
        }
        let Flow::Pair(both) = flow else { panic!("a pair") };
        let ends = [(both.0, "first_output"), (both.1, "second_output")];
        let end = ends.map(|(flow, name)| largest_difference(&numbers(flow), &self.expected(name)));
        (hidden, end[0].max(end[1]))
    }

    /// Largest difference between a full pass of the decoder and one token at a time; the encoder runs once.
    pub fn pair_decode_difference(&self) -> f32 {
        let network = self.network();
        let start = self.model.stages().iter().rposition(|stage| stage.role == Role::Embed).unwrap();
        let encoded = network.forward_range(0, start, self.pair(), &mut self.pair_ctx()).unwrap();
        let (memory, second) = encoded.pair("test").unwrap();
        let ids = second.tokens("test").unwrap();
        let [b, t] = ids.dims();
        let run = |ids: Tensor<2, Int>, cache: Option<&mut KvCache>| {
            let mut ctx = Ctx { cache, ..self.pair_ctx() };
            let flow = Flow::both(memory.clone(), Flow::Tokens(ids));
            let Flow::Pair(both) = network.forward_from(start, flow, &mut ctx).unwrap() else {
                panic!("a pair")
            };
            let Flow::Hidden(logits) = both.1 else { panic!("logits") };
            logits
        };
        let full = run(ids.clone(), None);
        let vocab = full.dims()[2];
        let (mut cache, mut largest) = (KvCache::new(), 0.0f32);
        for i in 0..t {
            let step = run(ids.clone().slice([0..b, i..i + 1]), Some(&mut cache));
            cache.advance(1);
            let expected = host(full.clone().slice([0..b, i..i + 1, 0..vocab]));
            largest = largest.max(largest_difference(&host(step), &expected));
        }
        largest
    }

    /// A text and the images beside it.
    pub fn text_and_images(&self) -> Flow {
        Flow::both(Flow::Tokens(self.ids()), self.input())
    }

    /// Largest differences of a decoder that reads images: hidden states of tower and decoder and the projected
    /// features, and the logits.
    pub fn multimodal_differences(&self) -> (f32, f32) {
        let network = self.network();
        let (mut flow, mut hidden) = (self.text_and_images(), 0.0f32);
        let (mut beside, mut read) = (0, 0);
        let stages = self.model.stages();
        for (stage, info) in stages.iter().enumerate() {
            flow = network.forward_range(stage, stage + 1, flow, &mut Ctx::default()).unwrap();
            let projects = info.optional && !stages[stage + 1].optional;
            let (found, name) = match flow.clone() {
                Flow::Pair(both) if projects => (both.1, "first_output".to_string()),
                Flow::Pair(both) => {
                    beside += 1;
                    (both.1, format!("first_hidden_{}", beside - 1))
                }
                single if info.role == Role::Head => {
                    let logits = numbers(single);
                    return (hidden, largest_difference(&logits, &self.expected("second_output")));
                }
                single => {
                    read += 1;
                    (single, format!("second_hidden_{}", read - 1))
                }
            };
            hidden = hidden.max(largest_difference(&numbers(found), &self.expected(&name)));
            assert_eq!(info.optional, matches!(flow, Flow::Pair(_)), "{}", info.name);
        }
        panic!("{}: no head", self.name)
    }

    /// Tokens or images.
    pub fn input(&self) -> Flow {
        if self.has("input_features") {
            let tensor = self.expected.tensor("input_features").unwrap();
            let [b, mels, frames] = tensor.shape[..] else { panic!("a spectrogram") };
            let data = TensorData::new(tensor.to_f32().unwrap(), [b, mels, 1, frames]);
            return Flow::Image(Tensor::from_data(data, &Device::flex()));
        }
        if !self.has("pixel_values") {
            return Flow::Tokens(self.ids());
        }
        let tensor = self.expected.tensor("pixel_values").unwrap();
        let data = TensorData::new(tensor.to_f32().unwrap(), tensor.shape);
        Flow::Image(Tensor::from_data(data, &Device::flex()))
    }

    /// Mask and token types, where the fixture has them.
    pub fn ctx(&self) -> Ctx<'static> {
        let device = Device::flex();
        let mask = self.ints("attention_mask").map(|data| {
            let shape = data.shape().clone();
            let keep: Vec<bool> = data.iter::<i64>().map(|m| m == 1).collect();
            Tensor::<2, Bool>::from_data(TensorData::new(keep, shape), &device)
        });
        let token_types = self.ints("token_type_ids").map(|data| Tensor::from_data(data, &device));
        Ctx { mask, token_types, ..Ctx::default() }
    }

    pub fn has(&self, name: &str) -> bool {
        self.expected.contains(name)
    }

    pub fn expected(&self, name: &str) -> Vec<f32> {
        self.expected.tensor(name).unwrap().to_f32().unwrap()
    }

    /// Largest difference of the hidden states before and after each block, and of what the head gives (if there is one).
    pub fn differences(&self) -> (f32, Option<f32>) {
        let outputs = trace(&self.network(), self.input(), || self.ctx());
        let hidden = (0..).map(|i| format!("hidden_{i}")).take_while(|name| self.has(name));
        let hidden: Vec<f32> = hidden
            .enumerate()
            .map(|(stage, name)| largest_difference(&outputs[stage], &self.expected(&name)))
            .collect();
        let head = ["logits", "embeds", "pooler_output"].into_iter().find(|name| self.has(name));
        assert_eq!(outputs.len(), hidden.len() + usize::from(head.is_some()), "{}: stages", self.name);
        let head = head.map(|name| largest_difference(outputs.last().unwrap(), &self.expected(name)));
        (hidden.into_iter().fold(0.0, f32::max), head)
    }

    /// Largest difference between a full pass and a prompt of five tokens, then one token at a time.
    pub fn decode_difference(&self) -> f32 {
        self.decoded_after(5, Flow::Tokens)
    }

    /// The same for a decoder that reads images: all of them stand in the prompt of eleven tokens.
    pub fn multimodal_decode_difference(&self) -> f32 {
        self.decoded_after(11, |ids| Flow::both(Flow::Tokens(ids), self.input()))
    }

    /// Largest difference between a full pass and a prompt of some tokens, then one token at a time; `whole` makes the
    /// input of a pass that begins at the first token.
    fn decoded_after(&self, prompt: usize, whole: impl Fn(Tensor<2, Int>) -> Flow) -> f32 {
        let network = self.network();
        let ids = self.ids();
        let [b, t] = ids.dims();
        let full = network.forward(whole(ids.clone()), &mut Ctx::default()).unwrap();
        let Flow::Hidden(full) = full else { panic!("logits") };
        let [_, _, vocab] = full.dims();
        let mut cache = KvCache::new();
        let mut largest = 0.0f32;
        for (from, to) in std::iter::once((0, prompt)).chain((prompt..t).map(|i| (i, i + 1))) {
            let part = ids.clone().slice([0..b, from..to]);
            let part = if from == 0 { whole(part) } else { Flow::Tokens(part) };
            let mut ctx = Ctx { cache: Some(&mut cache), ..Ctx::default() };
            let step = numbers(network.forward(part, &mut ctx).unwrap());
            cache.advance(to - from);
            let expected = host(full.clone().slice([0..b, from..to, 0..vocab]));
            largest = largest.max(largest_difference(&step, &expected));
        }
        largest
    }
}

/// Runs `check` on every fixture and reports all that fail, not the first alone.
pub fn each<'n>(names: impl IntoIterator<Item = &'n &'n str>, check: impl Fn(Fixture)) {
    let check = std::panic::AssertUnwindSafe(check);
    let failed = names.into_iter().filter_map(|name| {
        let run = std::panic::catch_unwind(|| check(Fixture::open(name)));
        let cause = run.err()?;
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| text.to_string()));
        Some(format!("{name}: {}", text.unwrap_or_default()))
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{} fixtures fail:\n{}", failed.len(), failed.join("\n"));
}

/// Every folder.
pub fn all() -> impl Iterator<Item = &'static &'static str> {
    DECODERS.iter().chain(ENCODERS).chain(TEXT_TOWERS).chain(TOWERS)
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference =
        |(a, b): (&f32, &f32)| if a.is_nan() || b.is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

pub fn numbers(flow: Flow) -> Vec<f32> {
    match flow {
        Flow::Hidden(x) => host(x),
        Flow::Vector(x) => host(x),
        other => panic!("unexpected {}", other.kind()),
    }
}

/// Output of every stage.
pub fn trace(network: &Network, input: Flow, ctx: impl Fn() -> Ctx<'static>) -> Vec<Vec<f32>> {
    let mut flow = input;
    let mut outputs = Vec::new();
    for stage in 0..network.stages().len() {
        flow = network.forward_range(stage, stage + 1, flow, &mut ctx()).unwrap();
        outputs.push(numbers(flow.clone()));
    }
    outputs
}
