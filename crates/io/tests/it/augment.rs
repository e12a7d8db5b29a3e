//! Augmentations give the bytes of torchvision (`tools/fixtures/make_augment.py`).

use std::collections::BTreeMap;
use std::path::Path;

use trimtab_io::Checkpoint;
use trimtab_io::augment::{
    Crop, Image, RAND_OPS, RandOp, autocontrast, brightness, contrast, equalize, gaussian_blur, hue,
    posterize, resized_crop, saturation, sharpness, solarize,
};

fn cases() -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/augment/cases.safetensors");
    Checkpoint::open(path).unwrap()
}

fn image(cases: &Checkpoint, name: &str) -> Image<u8> {
    let tensor = cases.tensor(name).unwrap();
    let &[c, h, w] = &tensor.shape[..] else { panic!("{name}: {:?}", tensor.shape) };
    Image::new([c, h, w], tensor.bytes.to_vec()).unwrap()
}

/// Each number of a list with commas.
fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(list: &str) -> Vec<T> {
    list.split(',').map(|number| number.parse().unwrap()).collect()
}

fn op(name: &str) -> RandOp {
    let quoted = format!("op = \"{name}\"");
    toml::from_str::<BTreeMap<String, RandOp>>(&quoted).unwrap()["op"]
}

/// The image after `operation` at these settings, which are written as in the fixture.
fn changed(original: &Image<u8>, operation: &str, settings: &str) -> Image<u8> {
    let mut image = original.clone();
    let factor = || settings.parse::<f64>().unwrap();
    match operation {
        "original" => {}
        "brightness" => brightness(&mut image, factor()),
        "contrast" => contrast(&mut image, factor()),
        "saturation" => saturation(&mut image, factor()),
        "hue" => hue(&mut image, factor()),
        "sharpness" => sharpness(&mut image, factor()),
        "posterize" => posterize(&mut image, settings.parse().unwrap()),
        "solarize" => solarize(&mut image, factor()),
        "autocontrast" => autocontrast(&mut image),
        "equalize" => equalize(&mut image),
        "resized_crop" => {
            let [top, left, height, width, rows, columns] = numbers::<usize>(settings)[..] else {
                panic!("{settings}")
            };
            return resized_crop(&image, Crop { top, left, height, width }, [rows, columns]).unwrap();
        }
        "gaussian_blur" => {
            let (side, sigma) = settings.split_once(',').unwrap();
            return gaussian_blur(&image, side.parse().unwrap(), sigma.parse().unwrap()).unwrap();
        }
        "rand" => {
            let [name, bin, sign] = settings.split(',').collect::<Vec<_>>()[..] else { panic!("{settings}") };
            let [_, height, width] = image.shape();
            let (strength, signed) = op(name).strength(bin.parse().unwrap(), 31, [height, width]);
            assert!(signed || sign == "+", "{name}");
            op(name).apply(&mut image, if sign == "-" { -strength } else { strength });
        }
        other => panic!("{other}"),
    }
    image
}

/// Greatest difference of two images of one shape, and how many numbers differ.
fn difference(a: &Image<u8>, b: &Image<u8>) -> (u8, usize) {
    assert_eq!(a.shape(), b.shape());
    let differences = a.pixels().iter().zip(b.pixels()).map(|(a, b)| a.abs_diff(*b));
    differences.fold((0, 0), |(most, count), d| (most.max(d), count + usize::from(d > 0)))
}

/// Bytes of a resized crop that may be off by one: at a tie the sum of four products depends on the order and on fused
/// multiplications.
const TIES: usize = 10;

#[test]
fn every_case_of_torchvision() {
    let cases = cases();
    let mut seen = BTreeMap::<&str, usize>::new();
    let mut ties = 0;
    for name in cases.names().filter(|name| !name.starts_with("strength/")) {
        let [picture, operation, settings] = name.split('/').collect::<Vec<_>>()[..] else {
            panic!("{name}")
        };
        let original = image(&cases, &format!("{picture}/original/"));
        let (most, count) = difference(&changed(&original, operation, settings), &image(&cases, name));
        if operation == "resized_crop" {
            assert!(most <= 1, "{name}: {count} bytes by up to {most}");
            ties += count;
        } else {
            assert_eq!(count, 0, "{name}: {count} bytes by up to {most}");
        }
        *seen.entry(operation).or_default() += 1;
    }
    assert!(ties <= TIES, "{ties} bytes of the crops");
    assert_eq!(seen.len(), 13, "{seen:?}");
    assert_eq!(seen["rand"], 2 * (9 * 3 * 2 + 2 * 3 + 3));
}

/// Strengths agree to the last bit but one: `torch.linspace` adds in vectors whose width depends on the processor. What is
/// used as a whole number agrees as one.
#[test]
fn every_strength_of_torchvision() {
    let cases = cases();
    let mut seen = 0;
    for name in cases.names().filter(|name| name.starts_with("strength/")) {
        let [_, operation, settings] = name.split('/').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let [bins, height, width] = numbers::<usize>(settings)[..] else { panic!("{name}") };
        let expected = cases.tensor(name).unwrap().to_f32().unwrap();
        assert_eq!(expected.len(), bins);
        for (bin, &expected) in expected.iter().enumerate() {
            let (strength, _) = op(operation).strength(bin, bins, [height, width]);
            let strength = strength as f32;
            assert!((strength - expected).abs() <= f32::EPSILON * expected.abs(), "{name}, bin {bin}");
            let whole = match operation {
                "posterize" | "solarize" => (strength, expected),
                "translate_x" | "translate_y" => (strength.trunc(), expected.trunc()),
                _ => continue,
            };
            assert_eq!(whole.0, whole.1, "{name}, bin {bin}");
        }
        seen += 1;
    }
    assert_eq!(seen, 55);
}

#[test]
fn the_comparison_sees_what_is_wrong() {
    let cases = cases();
    let original = image(&cases, "noise/original/");
    let differs =
        |name: &str, changed: &Image<u8>| difference(changed, &image(&cases, &format!("noise/{name}"))).1 > 0;
    // A wrong sign, or rows for columns.
    for name in ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"] {
        assert!(differs(&format!("rand/{name},9,+"), &changed(&original, "rand", &format!("{name},9,-"))));
    }
    assert!(differs("rand/shear_x,9,+", &changed(&original, "rand", "shear_y,9,+")));
    // Blue for red.
    let [c, h, w] = original.shape();
    let planes = original.pixels().rchunks_exact(h * w).flatten().copied().collect();
    let mirrored = Image::new([c, h, w], planes).unwrap();
    for (name, factor) in [("saturation", "0.55"), ("hue", "0.07")] {
        let planes = changed(&mirrored, name, factor);
        let planes = planes.pixels().rchunks_exact(h * w).flatten().copied().collect();
        assert!(differs(&format!("{name}/{factor}"), &Image::new([c, h, w], planes).unwrap()));
    }
    // To nearest where the fraction is dropped.
    let bytes = original.pixels().iter().map(|&v| (f32::from(v) * 0.55).round() as u8).collect();
    assert!(differs("brightness/0.55", &Image::new([c, h, w], bytes).unwrap()));
    // A box that is one row too low.
    assert!(differs("resized_crop/1,3,9,5,9,5", &changed(&original, "resized_crop", "2,3,9,5,9,5")));
}

#[test]
fn every_operation_is_in_the_fixture() {
    let cases = cases();
    for operation in RAND_OPS {
        let name = toml::to_string(&BTreeMap::from([("op", operation)])).unwrap();
        let name = name.trim().trim_start_matches("op = ").trim_matches('"').to_owned();
        let prefix = format!("noise/rand/{name},");
        assert!(cases.names().any(|case| case.starts_with(&prefix)), "{name}");
    }
}
