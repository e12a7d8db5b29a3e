//! Logits of convolutional networks equal those of torchvision, timm and transformers
//! (`tests/fixtures/conv/PROVENANCE.md`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use trimtab_io::{
    AffineScheme, AffineTensor, Bytes, Checkpoint, Dtype, QuantizationConfig, RawTensor, to_safetensors,
    to_tensors,
};
use trimtab_models::{Model, Spec};
use trimtab_nn::{
    Ctx, Flow, Role, SiteKind, SiteMeta, StageSource, Tap, TapRows, TapSet, Task, Weight, host,
};

use crate::fixture::largest_difference;

/// Largest difference to the reference, both in f32.
pub const PARITY: f32 = 1e-4;

/// Folder, family, stages.
pub const FIXTURES: [(&str, &str, usize); 17] = [
    ("resnet_cifar", "resnet_cifar", 8),
    ("resnet", "resnet", 8),
    ("resnet_bottleneck", "resnet", 7),
    ("resnext", "resnet", 7),
    ("resnet_timm", "resnet", 7),
    ("vgg", "vgg", 8),
    ("vgg_bn", "vgg", 8),
    ("mobilenet_v2", "mobilenet_v2", 20),
    ("efficientnet", "efficientnet", 13),
    ("efficientnet_lite", "efficientnet_lite", 14),
    ("convnext", "convnext", 10),
    ("convnext_hf", "convnext_hf", 10),
    ("resnet_hf", "resnet_hf", 7),
    ("convnet", "convnet", 3),
    ("convnet_layer", "convnet", 3),
    ("convnet_plain", "convnet", 2),
    ("mlp", "mlp", 3),
];

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/conv").join(name)
}

pub fn files(folder: &Path) -> Vec<(String, Bytes)> {
    let names = ["config.json", "model.safetensors"].into_iter().filter(|name| folder.join(name).exists());
    names.map(|name| (name.to_string(), std::fs::read(folder.join(name)).unwrap().into())).collect()
}

pub fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::from_bytes(files(&folder(name))).unwrap()
}

pub fn open(name: &str) -> Model {
    Model::from_checkpoint(checkpoint(name), None, Device::flex()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Images and logits of the reference.
pub fn expected(name: &str) -> (Tensor<4>, Vec<f32>) {
    let expected = Checkpoint::open(folder(name).join("expected.safetensors")).unwrap();
    let images = expected.tensor("images").unwrap();
    let data = TensorData::new(images.to_f32().unwrap(), images.shape);
    (Tensor::from_data(data, &Device::flex()), expected.tensor("logits").unwrap().to_f32().unwrap())
}

pub fn logits(model: &Model, images: Tensor<4>, device: &Device) -> Vec<f32> {
    let images = Tensor::from_data(images.into_data(), device);
    let network = model.network().unwrap_or_else(|e| panic!("{e}"));
    match network.forward(Flow::Image(images), &mut Ctx::default()).unwrap() {
        Flow::Vector(x) => host(x),
        other => panic!("unexpected {}", other.kind()),
    }
}

/// Largest differences of the logits to the reference: with the kernels of the house, and with the framework alone.
pub fn differences(name: &str) -> [f32; 2] {
    let (images, expected) = expected(name);
    [Device::flex(), Device::flex().autodiff()].map(|device| {
        let model = open(name).on(device.clone());
        largest_difference(&logits(&model, images.clone(), &device), &expected)
    })
}

#[test]
fn networks_equal_their_references() {
    for (name, family, stages) in FIXTURES {
        let model = open(name);
        assert_eq!((model.family(), model.task()), (family, Task::Images), "{name}");
        assert_eq!(model.stages().len(), stages, "{name}");
        assert!(model.unclaimed().is_empty(), "{name}");
        let differences = differences(name);
        assert!(differences.iter().all(|&difference| difference < PARITY), "{name}: {differences:?}");
    }
}

#[test]
fn the_trainable_network_computes_the_same_and_gives_back_its_tensors() {
    for (name, ..) in FIXTURES {
        let model = open(name);
        for device in [Device::flex(), Device::flex().autodiff()] {
            let network = model.trainable(&device).unwrap();
            let (images, expected) = expected(name);
            let images = Tensor::from_data(images.into_data(), &device);
            let found = network.forward(Flow::Image(images), &mut Ctx::default()).unwrap();
            let difference = largest_difference(&host(found.vector("test").unwrap()), &expected);
            assert!(difference < PARITY, "{name}: {difference}");
            let tensors = network.tensors();
            let claimed: usize = model.stages().iter().map(|stage| stage.tensors.len()).sum();
            // The count of batches that norms have seen is no number that a network computes with.
            let counters = model.stages().iter().flat_map(|stage| &stage.tensors);
            let counters = counters.filter(|name| name.ends_with("num_batches_tracked")).count();
            assert_eq!(tensors.len(), claimed - counters, "{name}");
            for (tensor, shape, values) in tensors {
                let stored = model.checkpoint().tensor(&tensor).unwrap();
                assert_eq!(
                    (stored.shape.clone(), stored.to_f32().unwrap()),
                    (shape, values),
                    "{name}: {tensor}"
                );
            }
        }
    }
}

#[test]
fn another_stride_activation_epsilon_or_padding_is_seen() {
    // What tensors do not tell stands in the specification: a wrong word there is far from the reference.
    let cases = [
        ("resnet_cifar", include_str!("../../specs/conv/resnet_cifar.toml"), "[1, 2, 2]", "[1, 2, 1]"),
        (
            "resnet",
            include_str!("../../specs/conv/resnet.toml"),
            "size = 3, stride = 2",
            "size = 3, stride = 1",
        ),
        ("vgg", include_str!("../../specs/conv/vgg.toml"), "pool = \"max\"", "pool = \"average\""),
        ("mobilenet_v2", include_str!("../../specs/conv/mobilenet_v2.toml"), "relu6", "relu"),
        (
            "efficientnet",
            include_str!("../../specs/conv/efficientnet.toml"),
            "gate = \"sigmoid\"",
            "gate = \"relu\"",
        ),
        (
            "efficientnet_lite",
            include_str!("../../specs/conv/efficientnet_lite.toml"),
            "eps = 1e-3",
            "eps = 1e-5",
        ),
        (
            "efficientnet_lite",
            include_str!("../../specs/conv/efficientnet_lite.toml"),
            ", padding = \"same\"",
            "",
        ),
        ("convnext", include_str!("../../specs/conv/convnext.toml"), "gelu", "relu"),
    ];
    for (name, text, from, to) in cases {
        assert!(text.contains(from), "{name}: {from}");
        let spec = Spec::parse(&text.replace(from, to), name).unwrap();
        let model = Model::from_checkpoint(checkpoint(name), Some(spec), Device::flex()).unwrap();
        let (images, expected) = expected(name);
        let difference = largest_difference(&logits(&model, images, &Device::flex()), &expected);
        assert!(difference > 10.0 * PARITY, "{name}: {from} as {to}: {difference}");
    }
}

/// Round to nearest, 8 bits, a scale a row.
fn quantize(values: &[f32], rows: usize, cols: usize) -> AffineTensor {
    let scheme = AffineScheme { bits: 8, group_size: None, symmetric: true };
    let (middle, max) = (f32::from(scheme.middle()), f32::from(scheme.max_code()));
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in values.chunks(cols) {
        let scale = 2.0 * row.iter().fold(1e-3f32, |m, x| m.max(x.abs())) / max;
        codes.extend(row.iter().map(|x| (x / scale + middle).round().clamp(0.0, max) as u8));
        scales.push(scale);
    }
    AffineTensor::from_codes(rows, cols, scheme, &codes, scales, None, None, Dtype::F32).unwrap()
}

#[test]
fn packed_networks_compute_what_their_numbers_compute() {
    // Packed weights do not tell the kernel: it follows from the columns and the specification.
    for (name, ..) in FIXTURES {
        let source = open(name);
        let roles = [Role::Embed, Role::Block, Role::Head];
        let sites: BTreeMap<String, _> = roles
            .iter()
            .flat_map(|&role| source.sites(role))
            .map(|site| (site.weight_name(), site))
            .collect();
        let (mut packed, mut dense, mut example) = (Vec::new(), Vec::new(), None);
        for tensor in source.checkpoint().names() {
            let raw = source.checkpoint().tensor(tensor).unwrap();
            let Some(site) = sites.get(tensor) else {
                packed.push((tensor.to_string(), raw.clone()));
                dense.push((tensor.to_string(), raw));
                continue;
            };
            let matrix = quantize(&raw.to_f32().unwrap(), site.rows, site.cols);
            packed.extend(to_tensors(&site.name, &matrix).unwrap());
            let numbers = RawTensor::from_f32(raw.shape, &matrix.dequantize(), Dtype::F32).unwrap();
            dense.push((tensor.to_string(), numbers));
            example = Some(matrix);
        }
        let metadata = source.checkpoint().metadata();
        let quantization = QuantizationConfig::of([("m", &example.unwrap())], &[]).to_json();
        let with = |tensors: &[(String, RawTensor)], quantization: Option<serde_json::Value>| {
            let mut config = source.checkpoint().config().cloned().unwrap_or(json!({}));
            if let Some(value) = quantization {
                config["quantization_config"] = value;
            }
            let files = vec![
                ("config.json".to_string(), config.to_string().into_bytes().into()),
                ("model.safetensors".into(), to_safetensors(tensors, metadata).unwrap().into()),
            ];
            let model = Model::from_checkpoint(Checkpoint::from_bytes(files).unwrap(), None, Device::flex());
            model.unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let (packed, dense) = (with(&packed, Some(quantization)), with(&dense, None));
        let all = |model: &Model| -> Vec<SiteMeta> {
            model.stages().iter().flat_map(|stage| stage.sites.clone()).collect()
        };
        assert_eq!((all(&packed), packed.family()), (all(&dense), dense.family()), "{name}");
        assert!(packed.unclaimed().is_empty(), "{name}: {:?}", packed.unclaimed());
        let network = packed.network().unwrap();
        assert!(network.sites().all(|site| matches!(site.weight, Weight::Packed(_))), "{name}");
        let (images, expected) = expected(name);
        let [a, b] = [&packed, &dense].map(|model| logits(model, images.clone(), &Device::flex()));
        let difference = largest_difference(&a, &b);
        assert!(difference < PARITY, "{name}: {difference}");
        // Eight bits are seen: the comparison can fail.
        assert!(largest_difference(&a, &expected) > 5.0 * PARITY, "{name}");
    }
}

#[test]
fn every_tensor_belongs_to_exactly_one_stage() {
    for (name, ..) in FIXTURES {
        let model = open(name);
        let mut known: Vec<String> = model.stages().iter().flat_map(|stage| stage.tensors.clone()).collect();
        known.sort();
        let names: Vec<String> = model.checkpoint().names().map(str::to_string).collect();
        assert_eq!(known, names, "{name}");
        let numel: usize = model.stages().iter().map(|stage| stage.numel).sum();
        let stored: usize = names.iter().map(|n| model.checkpoint().info(n).unwrap().numel()).sum();
        assert_eq!(numel, stored, "{name}");
        let roles: Vec<Role> = model.stages().iter().map(|stage| stage.role).collect();
        assert_eq!((roles[0], *roles.last().unwrap()), (Role::Embed, Role::Head), "{name}");
        assert!(roles[1..roles.len() - 1].iter().all(|role| *role == Role::Block), "{name}");
        let mut titles: Vec<&str> = model.stages().iter().map(|stage| stage.name.as_str()).collect();
        titles.sort_unstable();
        assert!(titles.windows(2).all(|pair| pair[0] != pair[1]), "{name}: {titles:?}");
    }
}

#[test]
fn channels_that_flow_together_share_an_axis() {
    let model = open("mobilenet_v2");
    let sites: BTreeMap<&str, _> = [Role::Embed, Role::Block, Role::Head]
        .into_iter()
        .flat_map(|role| model.sites(role))
        .map(|s| (s.name.as_str(), s))
        .collect();
    // A residual block gives back the axis that it takes; a depthwise convolution keeps that of its input.
    assert_eq!(sites["features.3.conv.2"].output, sites["features.3.conv.0.0"].input);
    assert_eq!(sites["features.3.conv.1.0"].output, sites["features.3.conv.0.0"].output);
    assert_ne!(sites["features.2.conv.2"].output, sites["features.2.conv.0.0"].input);
    let model = open("resnet");
    let sites: BTreeMap<&str, _> = model.sites(Role::Block).map(|s| (s.name.as_str(), s)).collect();
    assert_eq!(sites["layer2.0.conv2"].output, sites["layer2.0.downsample.0"].output);
    assert_eq!(sites["layer2.0.downsample.0"].input, sites["layer1.1.conv2"].output);
    assert_eq!(sites["layer1.1.conv2"].output, sites["layer1.0.conv1"].input);
}

/// Counts rows and checks their width.
#[derive(Default)]
struct Count(usize);

impl Tap for Count {
    fn input(&mut self, site: &SiteMeta, rows: TapRows<'_>) -> Result<(), String> {
        self.0 += rows.rows.len() / rows.width;
        (rows.width == site.cols).then_some(()).ok_or_else(|| format!("width {}", rows.width))
    }
}

#[test]
fn taps_see_every_site() {
    for (name, ..) in FIXTURES {
        let model = open(name);
        let network = model.network().unwrap();
        let (images, expected) = expected(name);
        let mut taps = TapSet::new();
        let counts: Vec<_> = network
            .sites()
            .map(|site| {
                let count = std::sync::Arc::new(std::sync::Mutex::new(Count::default()));
                taps.attach(site.name(), std::sync::Arc::clone(&count));
                (site.meta().clone(), count)
            })
            .collect();
        let weights = [1.0, 0.5];
        let mut ctx = Ctx { taps: Some(&mut taps), row_weights: Some(&weights), ..Ctx::default() };
        let out = network.forward(Flow::Image(images), &mut ctx).unwrap();
        taps.finish().unwrap();
        assert!(largest_difference(&host(out.vector("x").unwrap()), &expected) < PARITY);
        for (site, count) in counts {
            let rows = count.lock().unwrap().0;
            let groups = match site.kind {
                SiteKind::Conv(geometry) => geometry.groups,
                _ => 1,
            };
            assert!(rows > 0 && rows % (2 * groups) == 0, "{name}: {} saw {rows} rows", site.name);
        }
    }
}
