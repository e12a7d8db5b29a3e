//! A small generator of digits: it takes noise away from a picture, told in words what the picture shows.
//!
//! Two blocks of attention between patches, attention to the words, and a feed-forward part, as in the networks of text to image. The first
//! word begins every text and is 30 times as loud as the others.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use trimtab::floors::io::ImageSet;
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::{Ctx, Flow, Layer, LayerMut, Network, Result, Site, SiteMeta, Stage, Weight};
use trimtab::floors::train::{self, Dataset, Item, Loss, Objective, OptimizerConfig, Pass, Silent, Trainer};

use super::super::pictures::{self, Cause};

/// Pixels of a side; patches are 2 by 2.
pub(super) const SIDE: usize = 14;
const PATCHES: usize = SIDE / 2;
const WIDTH: usize = 48;
const HEADS: usize = 4;
const HIDDEN: usize = 96;
const BLOCKS: usize = 2;
/// Numbers of a word.
pub(super) const WORD: usize = 32;
/// Words: the beginning, three in between, the end, and ten classes.
pub(super) const WORDS: usize = 15;
/// How much louder the first word is.
const LOUD: f64 = 30.0;
/// What is left of the picture under the noise.
const SIGNAL: f32 = 0.3;

/// The names of the maps of a block and their widths `[in, out]`, in the order in which data reaches them.
const MAPS: [(&str, [usize; 2]); 10] = [
    ("attn1.to_q", [WIDTH, WIDTH]),
    ("attn1.to_k", [WIDTH, WIDTH]),
    ("attn1.to_v", [WIDTH, WIDTH]),
    ("attn1.to_out", [WIDTH, WIDTH]),
    ("attn2.to_q", [WIDTH, WIDTH]),
    ("attn2.to_k", [WORD, WIDTH]),
    ("attn2.to_v", [WORD, WIDTH]),
    ("attn2.to_out", [WIDTH, WIDTH]),
    ("ff.up", [WIDTH, HIDDEN]),
    ("ff.down", [HIDDEN, WIDTH]),
];

/// The numbers of a word, the same in all runs.
pub(super) fn word(index: usize) -> Vec<f32> {
    let mut stream = Stream::new(82, "mixdq/words", index as u64, 0);
    let loud = if index == 0 { LOUD } else { 1.0 };
    (0..WORD).map(|_| (loud * stream.normal()) as f32).collect()
}

/// What is told of a class.
fn text(label: i64) -> [i64; 6] {
    [0, 1, 2, 3, 5 + label, 4]
}

/// Whether a map decides what is shown, rather than how well: attention to words, and what follows it.
pub(super) fn is_content(site: &str) -> bool {
    site.contains("attn2") || site.contains(".ff.")
}

/// Whether a map reads words.
pub(super) fn reads_words(site: &str) -> bool {
    site.ends_with("attn2.to_k") || site.ends_with("attn2.to_v")
}

#[derive(Clone)]
struct Generator {
    /// The patches' map, ten of each block, and the map back to pixels.
    sites: Vec<Site>,
}

fn site(name: String, [input, output]: [usize; 2], seed: u64) -> Site {
    let mut stream = Stream::new(seed, &format!("init/{name}"), 0, 0);
    // Words begin quietly: the first is loud enough.
    let factor = if reads_words(&name) { 0.1 } else { 1.0 };
    let deviation = factor / (input as f64).sqrt();
    let values: Vec<f32> = (0..input * output).map(|_| (deviation * stream.normal()) as f32).collect();
    let device = Device::flex().autodiff();
    let weight = Weight::dense(Tensor::from_data(TensorData::new(values, [output, input]), &device));
    let meta = SiteMeta::linear(name, output, input);
    let site = Site::new(meta, weight, Some(Tensor::zeros([output], &device)));
    site.expect("the weight has the shape of its site")
}

/// A new network, to be trained.
pub(super) fn network(seed: u64) -> Network {
    let mut sites = vec![site("embed".into(), [4, WIDTH], seed)];
    for block in 0..BLOCKS {
        sites.extend(MAPS.map(|(name, widths)| site(format!("blocks.{block}.{name}"), widths, seed)));
    }
    sites.push(site("unembed".into(), [WIDTH, 4], seed));
    Network::new(vec![Box::new(Generator { sites })], None, 1)
}

fn normalized(x: Tensor<3>) -> Tensor<3> {
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    centred / (variance + 1e-5).sqrt()
}

fn attend([q, k, v]: [Tensor<3>; 3]) -> Tensor<3> {
    let [b, t, _] = q.dims();
    let split = |x: Tensor<3>| {
        let [b, t, width] = x.dims();
        x.reshape([b, t, HEADS, width / HEADS]).swap_dims(1, 2)
    };
    let [q, k, v] = [q, k, v].map(split);
    let scores = q.matmul(k.swap_dims(2, 3)) / ((WIDTH / HEADS) as f32).sqrt();
    activation::softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([b, t, WIDTH])
}

/// Where each patch is, by waves of growing length along both sides.
fn places(device: &Device) -> Tensor<3> {
    let value = |i: usize| {
        let (patch, channel) = (i / WIDTH, i % WIDTH);
        let at = if channel % 2 == 0 { patch / PATCHES } else { patch % PATCHES } as f32;
        let angle = at * 0.6f32.powi((channel / 4) as i32) * 1.5;
        if channel / 2 % 2 == 0 { angle.sin() } else { angle.cos() }
    };
    let n = PATCHES * PATCHES;
    Tensor::from_data(TensorData::new((0..n * WIDTH).map(value).collect::<Vec<f32>>(), [1, n, WIDTH]), device)
}

impl Stage for Generator {
    /// Pictures under noise `[B, 1, 14, 14]` and words `[B, T]` to pictures.
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let (picture, words) = flow.pair("generator")?;
        let (picture, words) = (picture.image("generator")?, words.tokens("generator")?);
        let [b, ..] = picture.dims();
        let n = PATCHES * PATCHES;
        let patches =
            picture.reshape([b, PATCHES, 2, PATCHES, 2]).permute([0, 1, 3, 2, 4]).reshape([b, n, 4]);
        let [embed, blocks @ .., unembed] = &self.sites[..] else { unreachable!("a generator has its maps") };
        let mut x = embed.forward(patches, ctx);
        let device = x.device();
        x = x + places(&device);
        let [_, t] = words.dims();
        let ids: Vec<i64> = words.into_data().iter::<i64>().collect();
        let rows: Vec<f32> = ids.iter().flat_map(|&id| word(id as usize)).collect();
        let words = Tensor::<3>::from_data(TensorData::new(rows, [b, t, WORD]), &device);
        for maps in blocks.chunks_exact(MAPS.len()) {
            let own = normalized(x.clone());
            let qkv = [0, 1, 2].map(|i| maps[i].forward(own.clone(), ctx));
            x = x + maps[3].forward(attend(qkv), ctx);
            let own = normalized(x.clone());
            let qkv = [
                maps[4].forward(own, ctx),
                maps[5].forward(words.clone(), ctx),
                maps[6].forward(words.clone(), ctx),
            ];
            x = x + maps[7].forward(attend(qkv), ctx);
            let hidden = activation::gelu(maps[8].forward(normalized(x.clone()), ctx));
            x = x + maps[9].forward(hidden, ctx);
        }
        let pixels = unembed.forward(normalized(x), ctx);
        let pixels = pixels.reshape([b, PATCHES, PATCHES, 2, 2]).permute([0, 1, 3, 2, 4]);
        Ok(Flow::Image(pixels.reshape([b, 1, SIDE, SIDE])))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        self.sites.iter().map(Layer::Site).collect()
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        self.sites.iter_mut().map(LayerMut::Site).collect()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}

/// Pictures under noise, what they show, and the pictures: what a network is trained on, or asked for.
pub(super) struct Noisy {
    pixels: Vec<f32>,
    pub labels: Vec<i64>,
    seed: u64,
}

/// Pictures under noise, words, pictures.
pub(super) type Batch = (Tensor<4>, Tensor<2, Int>, Tensor<4>);

impl Noisy {
    /// Images of [`SIDE`] by [`SIDE`] pixels, under noise of this seed.
    pub(super) fn new(images: &ImageSet, seed: u64) -> Self {
        let pixels = images.pixels(0..images.len()).iter().map(|&p| f32::from(p) / 255.0).collect();
        Self { pixels, labels: images.labels.clone(), seed }
    }

    /// What a network is given of a range of the pictures.
    pub(super) fn given(&self, range: std::ops::Range<usize>) -> train::Result<Flow> {
        let items: Vec<Item> = range.map(|index| Item { index, epoch: 0 }).collect();
        let (noisy, words, _) = self.batch(&items, &Device::flex())?;
        Ok(Flow::both(Flow::Image(noisy), Flow::Tokens(words)))
    }
}

impl Dataset for Noisy {
    type Batch = Batch;

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> train::Result<Batch> {
        let n = SIDE * SIDE;
        let (mut noisy, mut clean, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            let picture = &self.pixels[item.index * n..(item.index + 1) * n];
            let mut stream = Stream::new(self.seed, "mixdq/noise", item.epoch, item.index as u64);
            noisy.extend(picture.iter().map(|x| SIGNAL * (x - 0.13) / 0.31 + stream.normal() as f32));
            clean.extend_from_slice(picture);
            words.extend(text(self.labels[item.index]));
        }
        let image = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [items.len(), 1, SIDE, SIDE]), device)
        };
        let words = Tensor::from_data(TensorData::new(words, [items.len(), 6]), device);
        Ok((image(noisy), words, image(clean)))
    }
}

/// Mean squared difference of the pictures.
struct Denoise;

impl Objective<Network, Batch> for Denoise {
    fn loss(&self, model: &Network, (noisy, words, clean): &Batch, pass: &mut Pass) -> train::Result<Loss> {
        let given = Flow::both(Flow::Image(noisy.clone()), Flow::Tokens(words.clone()));
        let found = model.forward(given, &mut pass.ctx())?.image("loss")?;
        Ok(Loss::new((found - clean.clone()).square().mean(), clean.dims()[0]))
    }
}

/// A trained generator, without gradients.
pub(super) fn trained(data: &Noisy, epochs: f64, seed: u64) -> std::result::Result<Network, Cause> {
    let optimizer = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.99, epsilon: 1e-8, weight_decay: 0.0 };
    let settings = pictures::passes(seed, 32, &[epochs], 3e-3, &optimizer);
    let trainer = Trainer::new(data, &Denoise, &settings, Device::flex());
    Ok(trainer.run(network(seed), &mut Silent::default())?.module.valid())
}
