//! Which family a convolutional checkpoint belongs to, and what is refused.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use serde_json::json;
use trimtab_io::{Checkpoint, Dtype, RawTensor, to_safetensors};
use trimtab_models::{ConvSpec, Model, Spec};
use trimtab_nn::{Ctx, Flow};

use crate::conv_parity::{FIXTURES, PARITY, checkpoint, expected, files, folder, logits, open};
use crate::fixture::largest_difference;

/// The checkpoint with other tensors.
fn altered(name: &str, change: impl Fn(&str, RawTensor) -> Option<RawTensor>) -> Checkpoint {
    let source = checkpoint(name);
    let tensors: Vec<(String, RawTensor)> = source
        .names()
        .filter_map(|name| Some((name.to_string(), change(name, source.tensor(name).unwrap())?)))
        .collect();
    let mut files = files(&folder(name));
    files.retain(|(name, _)| name != "model.safetensors");
    files.push(("model.safetensors".into(), to_safetensors(&tensors, &BTreeMap::new()).unwrap().into()));
    Checkpoint::from_bytes(files).unwrap()
}

#[test]
fn names_that_tensors_share_are_told_by_the_architecture() {
    let with = |fixture: &str, config: Option<&str>| {
        let mut files = files(&folder(fixture));
        files.retain(|(name, _)| name != "config.json");
        let config = config.map(|name| json!({"architecture": name}).to_string().into_bytes().into());
        files.extend(config.map(|bytes| ("config.json".to_string(), bytes)));
        Model::from_checkpoint(Checkpoint::from_bytes(files).unwrap(), None, Device::flex())
    };
    let family = |model: Result<Model, _>| model.map(|model| model.family().to_string()).unwrap();
    assert_eq!(family(with("efficientnet_lite", Some("tf_efficientnet_lite3"))), "efficientnet_lite");
    assert_eq!(family(with("resnet", Some("resnet18"))), "resnet");
    assert_eq!(family(with("resnet", None)), "resnet");
    // The tensors of a network with other padding and another epsilon have the same names and shapes.
    for config in [None, Some("efficientnet_lite0"), Some("mobilenetv2_100")] {
        let error = with("efficientnet_lite", config).err().unwrap().to_string();
        assert!(error.contains(config.unwrap_or("tensor names")), "{error}");
    }
    assert!(with("resnet", Some("resnetaa50")).is_err());
}

#[test]
fn a_tensor_too_many_or_too_few_is_seen() {
    for (name, ..) in FIXTURES {
        // A site may lack a bias, as its tensors say; nothing else may be missing.
        let first = checkpoint(name).names().find(|name| name.ends_with("weight")).unwrap().to_string();
        let fewer = altered(name, |tensor, raw| (tensor != first).then_some(raw));
        assert!(Model::from_checkpoint(fewer, None, Device::flex()).is_err(), "{name} without {first}");
    }
    let source = checkpoint("vgg");
    let mut tensors: Vec<_> =
        source.names().map(|name| (name.to_string(), source.tensor(name).unwrap())).collect();
    let with = |tensors: &[(String, RawTensor)]| {
        let file = to_safetensors(tensors, &BTreeMap::new()).unwrap();
        let checkpoint = Checkpoint::from_bytes(vec![("model.safetensors".into(), file.into())]).unwrap();
        Model::from_checkpoint(checkpoint, None, Device::flex())
    };
    assert!(with(&tensors).is_ok());
    tensors.push(("features.extra.weight".into(), tensors[0].1.clone()));
    assert!(with(&tensors).is_err());
    let spec = ConvSpec::built_in().unwrap().into_iter().find(|spec| spec.name == "resnet").unwrap();
    let error = Model::from_checkpoint(checkpoint("vgg"), Some(Spec::Conv(Box::new(spec))), Device::flex());
    let text = error.err().unwrap().to_string();
    assert!(text.contains("resnet") && text.contains("conv1"), "{text}");
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let device = Device::flex();
    for (name, shape, part) in [
        ("resnet", [1, 1, 40, 33], "3 channels"),
        ("convnext", [1, 3, 3, 40], "at least [4, 4]"),
        ("convnext", [1, 3, 9, 40], "at least [2, 2]"),
        ("vgg", [1, 3, 4, 40], "at least [2, 2]"),
    ] {
        let network = open(name).network().unwrap();
        let images = Tensor::<4>::zeros(shape, &device);
        let error = network.forward(Flow::Image(images), &mut Ctx::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
}

#[test]
fn colours_are_normalized_as_stated_beside_or_by_the_family() {
    assert_eq!(open("resnet").normalization().unwrap().mean, [0.485, 0.456, 0.406]);
    assert!(open("resnet_cifar").normalization().unwrap_err().to_string().contains("normalize.mean"));
    let with = |text: &str| {
        let mut files = files(&folder("convnext_hf"));
        files.push(("preprocessor_config.json".into(), text.as_bytes().to_vec().into()));
        Model::from_checkpoint(Checkpoint::from_bytes(files).unwrap(), None, Device::flex()).unwrap()
    };
    let stated = with(r#"{"image_mean": [0.5, 0.4, 0.3], "image_std": [1, 2, 3]}"#).normalization().unwrap();
    assert_eq!((stated.mean, stated.std), (vec![0.5, 0.4, 0.3], vec![1.0, 2.0, 3.0]));
    assert!(with(r#"{"image_mean": [0.5], "image_std": [0]}"#).normalization().is_err());
    let mut files = files(&folder("resnet_timm"));
    files[0].1 =
        br#"{"architecture": "resnet50", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}}"#
            .to_vec()
            .into();
    let timm = Model::from_checkpoint(Checkpoint::from_bytes(files).unwrap(), None, Device::flex()).unwrap();
    assert_eq!(timm.normalization().unwrap().mean, [0.1, 0.2, 0.3]);
}

#[test]
fn configurations_that_are_not_described_are_refused() {
    let mut files = files(&folder("resnet_hf"));
    let text = String::from_utf8(files[0].1.to_vec()).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["downsample_in_first_stage"] = true.into();
    files[0].1 = config.to_string().into_bytes().into();
    let checkpoint = Checkpoint::from_bytes(files).unwrap();
    let error = Model::from_checkpoint(checkpoint, None, Device::flex()).err().unwrap().to_string();
    assert!(error.contains("downsample_in_first_stage"), "{error}");
}

#[test]
fn a_family_is_added_by_a_file_alone() {
    // Other names, another activation in the middle: the same network after renaming says what is to be expected.
    let text = r#"
        name = "mine"
        [stem]
        layers = [{ conv = "begin", norm = "begin_norm", act = "relu" }]
        [[stages]]
        block = "part{s}.{i}"
        strides = [1, 2, 2]
        units = ["basic"]
        [units.basic]
        layers = [{ conv = "a", stride = "block", norm = "na", act = "relu" }, { conv = "b", norm = "nb" }]
        shortcut = "pad"
        after = "relu"
        [head]
        layers = [{ pool = "global" }, { linear = "end" }]
    "#;
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint("resnet_cifar");
    let rename = |name: &str| {
        let pairs = [("layer", "part"), (".conv1", ".a"), (".conv2", ".b"), (".bn1", ".na"), (".bn2", ".nb")];
        let name = pairs.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to));
        name.replace("conv1.", "begin.").replace("bn1.", "begin_norm.").replace("linear", "end")
    };
    let tensors: Vec<(String, RawTensor)> =
        source.names().map(|name| (rename(name), source.tensor(name).unwrap())).collect();
    let (file, spec) = (folder.path().join("m.safetensors"), folder.path().join("mine.toml"));
    std::fs::write(&file, to_safetensors(&tensors, &BTreeMap::new()).unwrap()).unwrap();
    std::fs::write(&spec, text).unwrap();
    let path = file.display().to_string();
    assert!(Model::open(&path, None).is_err(), "no built-in family has these names");
    let model = Model::open(&path, Some(&spec)).unwrap();
    assert_eq!(model.family(), "mine");
    let (images, expected) = expected("resnet_cifar");
    assert!(largest_difference(&logits(&model, images, &Device::flex()), &expected) < PARITY);
}

#[test]
fn the_specification_in_the_guide_is_that_of_its_family() {
    let guide = include_str!("../../../../docs/new-family.md");
    let example = guide.split("```toml\n").map(|part| part.split("```").next().unwrap());
    let example = example.into_iter().find(|text| ConvSpec::is_meant_by(text)).unwrap();
    assert!(include_str!("../../specs/conv/resnet_cifar.toml").ends_with(example));
}

#[test]
fn specifications_with_mistakes_say_so() {
    let base = include_str!("../../specs/conv/resnet.toml");
    let cases = [
        ("stride = \"block\", norm = \"bn1\"", "stride = \"blok\", norm = \"bn1\"", "blok"),
        ("units = [\"bottleneck\", \"basic\"]", "units = [\"neck\"]", "neck"),
        ("{ pool = \"max\", size = 3, stride = 2, padding = 1 }", "{ pool = \"max\", stride = 2 }", "size"),
        ("block = \"layer{s}.{i}\"", "block = \"layer{x}.{i}\"", "{x}"),
        ("{ pool = \"global\" }", "{ pool = \"global\", linear = \"x\" }", "exactly one"),
        ("strides = [1, 2, 2, 2]", "strides = [1, 0]", "strides"),
        ("shortcut = \"identity\"", "shortcut = \"none\"", "none"),
    ];
    for (from, to, part) in cases {
        let text = base.replace(from, to);
        assert_ne!(text, base, "{from}");
        let error = ConvSpec::parse(&text, "x.toml").unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("x.toml"), "{error}");
    }
}

#[test]
fn shapes_that_make_no_network_are_errors_and_never_panics() {
    // A random tensor gets a random shape, thousands of times.
    let mut state = 9u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut refused = 0;
    for (name, ..) in FIXTURES {
        let source = checkpoint(name);
        let names: Vec<String> = source.names().map(str::to_string).collect();
        for _ in 0..100 {
            let victim = names[next(names.len())].clone();
            let shape: Vec<usize> = (0..next(5)).map(|_| [0, 1, 2, 3, 4, 7][next(6)]).collect();
            let numel = shape.iter().product();
            let changed = altered(name, |tensor, raw| match tensor == victim {
                true => Some(RawTensor::from_f32(shape.clone(), &vec![0.5; numel], Dtype::F32).unwrap()),
                false => Some(raw),
            });
            let result =
                Model::from_checkpoint(changed, None, Device::flex()).and_then(|m| m.network().map(drop));
            refused += usize::from(result.is_err());
        }
    }
    assert!(refused > 1000, "{refused} of 1300");
}
