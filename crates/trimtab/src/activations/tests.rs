use std::path::Path;

use serde_json::json;
use trimtab_calibrate::{Batch, Inputs, Stream, StreamSettings};
use trimtab_math::random;
use trimtab_models::Model;
use trimtab_nn::{Ctx, Flow, Network, StageSource};
use trimtab_plan::Selection;
use trimtab_quantize::repq::codes_agree;
use trimtab_rewrite::{Pass, PassSettings};

use super::*;
use crate::apply::{OutputSettings, apply};
use crate::calibration::{Calibration, CalibrationSettings};
use crate::choice::Choice;
use crate::inventory::Inventory;
use crate::monitor::Quiet;
use crate::quantizer::{Method, Quantizer};
use crate::treating::{Assignment, Job};

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Writes `model` with one scheme for all sites of its blocks.
fn written(
    model: &Model,
    calibration: &Calibration,
    (scheme, method): (&str, Method),
    activations: Option<Activations>,
    output: &Path,
) -> Result<Model> {
    let inventory = Inventory::take(model, &Selection::default(), Form::Packed)?;
    let choice: Choice = parse(scheme);
    let assignment: Assignment =
        inventory.sites.iter().map(|site| (site.meta.name.clone(), choice)).collect();
    let quantizer = Quantizer { method, activations, ..Quantizer::default() };
    let job = Job {
        model,
        inventory: &inventory,
        assignment: &assignment,
        quantizer: &quantizer,
        form: Form::Packed,
    };
    let out = OutputSettings { output: output.into(), form: Form::Packed, force: false };
    let settings = CalibrationSettings::default();
    let (_, finished) = apply(job, Some((calibration, &settings)), None, &out, &mut Quiet::default())?;
    finished.clear()?;
    Ok(Model::open(&output.display().to_string(), None)?)
}

fn pico() -> (Model, Calibration) {
    let model = Model::open("@pico", None).unwrap();
    let settings =
        CalibrationSettings { samples: Some(4), window: Some(64), ..CalibrationSettings::default() };
    let calibration = Calibration::load(&model, &settings).unwrap();
    (model, calibration)
}

fn outputs(network: &Network, batches: &[Batch]) -> Vec<f32> {
    let numbers = |flow: Flow| match flow {
        Flow::Hidden(x) => host(x),
        Flow::Vector(x) => host(x),
        _ => panic!("numbers"),
    };
    batches.iter().flat_map(|b| numbers(network.forward(b.input.clone(), &mut b.ctx()).unwrap())).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn what_was_written_computes_with_quantized_activations() {
    let (model, calibration) = pico();
    let original = outputs(&model.network().unwrap(), &calibration.batches);
    let sites = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap().sites;
    let mut seen = Vec::new();
    for (scheme, inputs, softmax, method) in [
        ("int8 row sym", "int8 token sym", None, "compressed-tensors"),
        ("int8 row sym", "int8 tensor", None, "compressed-tensors"),
        ("int4 g32", "int4 tensor", None, "compressed-tensors"),
        ("int8 row sym", "int8 tensor dynamic", None, "compressed-tensors"),
        ("int8 row", "int8 channel", None, "trimtab"),
        ("int8 row", "int8 tensor", Some("int8 log-sqrt2"), "trimtab"),
        ("dense", "int8 token", None, "trimtab"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let settings = Activations {
            operands: softmax.map(|_| parse("int8 tensor")),
            softmax: softmax.map(parse),
            ..Activations::of(parse(inputs))
        };
        let path = folder.path().join("out");
        let back = written(&model, &calibration, (scheme, Method::Rtn), Some(settings), &path).unwrap();
        assert_eq!(back.quantization().unwrap().method(), method, "{scheme} {inputs}");
        assert_eq!(back.unclaimed(), Vec::<&str>::new());
        let network = back.network().unwrap();
        for site in network.sites() {
            let treated = sites.iter().any(|known| known.meta.name == site.name());
            let found = site.activation().map(|quantizer| quantizer.scheme().to_string());
            assert_eq!(found.as_deref(), treated.then_some(inputs), "{}", site.name());
        }
        let quantized = network.stages().iter().filter(|stage| stage.attention().is_some()).count();
        assert_eq!(quantized > 0, softmax.is_some());
        // The same weights, with activations as they come.
        let mut plain = back.network().unwrap();
        for index in 0..plain.stages().len() {
            let stage = plain.stage_mut(index);
            stage.set_attention(None);
            stage.sites_mut().into_iter().for_each(|site| site.set_activation(None).unwrap());
        }
        let (with, without) =
            (outputs(&network, &calibration.batches), outputs(&plain, &calibration.batches));
        let scale = original.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(apart(&with, &without) > 1e-4 * scale, "{inputs}: control, it rounds");
        if scheme != "int4 g32" {
            assert!(apart(&with, &original) < 0.2 * scale, "{scheme} {inputs}: {}", apart(&with, &original));
        }
        seen.push((inputs, with));
    }
    assert_ne!(seen[0].1, seen[1].1);
}

#[test]
fn steps_take_no_more_of_the_file_than_is_counted_for_them() {
    let (model, calibration) = pico();
    let sites = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap().sites;
    let folder = tempfile::tempdir().unwrap();
    let size = |name: &str, settings: Option<Activations>| {
        let path = folder.path().join(name);
        written(&model, &calibration, ("dense", Method::Rtn), settings, &path).unwrap();
        std::fs::metadata(path.join("model.safetensors")).unwrap().len()
    };
    let plain = size("plain", None);
    for (inputs, attention) in [("int8 tensor", true), ("int8 channel", false), ("int8 token", false)] {
        let settings = Activations {
            operands: attention.then(|| parse("int8 tensor")),
            softmax: attention.then(|| parse("int8 log-sqrt2")),
            ..Activations::of(parse(inputs))
        };
        let taken = size(&inputs.replace(' ', "-"), Some(settings)) - plain;
        let counted = settings.bytes(&sites);
        assert!(taken <= counted && counted <= 2 * taken, "{inputs}: {taken} bytes, {counted} counted");
        assert_eq!(taken > 0, !settings.inputs.is_dynamic(), "control");
    }
}

#[test]
fn ranges_found_again_are_the_same_and_later_blocks_see_what_was_written() {
    let (model, calibration) = pico();
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Activations { softmax: Some(parse("int4 log-sqrt2")), ..Activations::of(parse("int4 tensor")) };
    let write = |name: &str| {
        let path = folder.path().join(name);
        written(&model, &calibration, ("int4 g32", Method::Gptq), Some(settings), &path).unwrap();
        std::fs::read(path.join("model.safetensors")).unwrap()
    };
    let first = write("first");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(first == pool.install(|| write("second")), "the same bytes at any number of threads");
    // The steps of the last block are those of its inputs behind the treated blocks before it.
    let back = Model::open(&folder.path().join("first").display().to_string(), None).unwrap();
    let stream = Stream::new(
        &back,
        &calibration.batches,
        back.device().clone(),
        StreamSettings { inputs: Inputs::Treated, ..StreamSettings::default() },
    );
    let mut compared = 0;
    stream
        .run(|block| -> Result<()> {
            let sites: Vec<SiteMeta> = block.info().sites.clone();
            let first = &sites[0];
            let stored = block.site(&first.name)?.activation().cloned().unwrap();
            block.site_mut(&first.name)?.set_activation(None)?;
            let again = found(block, first, settings.inputs, settings.range)?;
            assert_eq!(stored.steps(), again.steps(), "{}", first.name);
            block.site_mut(&first.name)?.set_activation(Some(stored))?;
            compared += 1;
            Ok(())
        })
        .unwrap();
    assert!(compared > 1);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let (model, calibration) = pico();
    let sites = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap().sites;
    let of = |inputs: &str| Activations::of(parse(inputs));
    let refuse = |settings: Activations, form| settings.check(form, &sites).unwrap_err().to_string();
    assert!(refuse(of("int8 token"), Form::Dense).contains("no place"));
    assert!(refuse(of("int8 token"), Form::Gguf).contains("no place"));
    let rewritten = Activations { reparameterize: true, ..of("int8 token") };
    assert!(refuse(rewritten, Form::Packed).contains("int8 tensor"));
    let channel = Activations { operands: Some(parse("int8 channel")), ..of("int8 token") };
    assert!(refuse(channel, Form::Packed).contains("summed"));
    let mut blind = sites.clone();
    blind[0].observed = false;
    let message = of("int8 tensor").check(Form::Packed, &blind).unwrap_err().to_string();
    assert!(message.contains("int8 token"), "{message}");
    assert!(of("int8 token").check(Form::Packed, &blind).is_ok());
    // A norm without a bias cannot move its channels.
    let folder = tempfile::tempdir().unwrap();
    let settings = Activations { reparameterize: true, ..of("int8 tensor") };
    let path = folder.path().join("out");
    let error = written(&model, &calibration, ("dense", Method::Rtn), Some(settings), &path);
    let message = error.err().unwrap().to_string();
    assert!(message.contains("no bias") && message.contains("int8 tensor sym"), "{message}");
}

/// A small vision transformer whose norms give loud channels, and images.
fn vision(folder: &Path) -> (Model, Calibration) {
    let labels: serde_json::Map<_, _> = (0..10).map(|i| (i.to_string(), json!("x"))).collect();
    let config = json!({
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16,
        "patch_size": 4, "num_channels": 3, "id2label": labels,
    });
    let checkpoint = trimtab_models::init::checkpoint(&config, 1, Dtype::F32).unwrap();
    let model = Model::from_checkpoint(checkpoint, None, burn::tensor::Device::flex()).unwrap();
    let output = folder.join("loud");
    let job = crate::rewriting::RewriteSettings {
        passes: vec![Pass::InjectOutliers],
        settings: PassSettings { channels: 3, factor: 20.0, ..PassSettings::default() },
        dtype: None,
        calibration: CalibrationSettings::default(),
        output: output.clone(),
        force: false,
        spec: None,
    };
    crate::rewriting::rewrite(&model, &job, &mut Quiet::default()).unwrap();
    let model = Model::open(&output.display().to_string(), None).unwrap();
    let mut stream = random::Stream::new(3, "test/images", 0, 0);
    let images = (0..4).map(|_| {
        let pixels: Vec<f32> = (0..8 * 3 * 256).map(|_| stream.normal() as f32).collect();
        let pixels = Tensor::from_data(TensorData::new(pixels, [8, 3, 16, 16]), model.device());
        Batch { input: Flow::Image(pixels), mask: None, row_weights: None }
    });
    let batches = images.collect();
    (
        model,
        Calibration {
            batches,
            samples: 32,
            rows: 32,
            description: "noise".into(),
            rest: None,
            rest_is: "",
            fisher: Default::default(),
        },
    )
}

#[test]
fn a_rewritten_model_computes_the_same_and_its_codes_are_those_of_single_channels() {
    let folder = tempfile::tempdir().unwrap();
    let (model, calibration) = vision(folder.path());
    for inputs in ["int4 tensor", "int8 tensor sym"] {
        let settings = Activations { reparameterize: true, ..Activations::of(parse(inputs)) };
        let path = folder.path().join(inputs.replace(' ', "-"));
        let back = written(&model, &calibration, ("dense", Method::Rtn), Some(settings), &path).unwrap();
        let (before, mut after) = (model.network().unwrap(), back.network().unwrap());
        let steps: BTreeMap<String, ActivationQuantizer> = after
            .sites()
            .filter_map(|site| Some((site.name().to_string(), site.activation()?.clone())))
            .collect();
        let mut rows = 0;
        for index in 0..after.stages().len() {
            after
                .stage_mut(index)
                .sites_mut()
                .into_iter()
                .for_each(|site| site.set_activation(None).unwrap());
        }
        let (x, y) = (outputs(&before, &calibration.batches), outputs(&after, &calibration.batches));
        let scale = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(apart(&x, &y) < 1e-5 * scale, "{inputs}: {} of {scale}", apart(&x, &y));
        // Control: norms really changed.
        let gains = |network: &Network| -> Vec<f32> {
            let all =
                network.tensors().into_iter().filter(|(name, ..)| name.ends_with("layernorm_before.weight"));
            all.flat_map(|(.., values)| values).collect()
        };
        assert!(apart(&gains(&before), &gains(&after)) > 0.1);
        // Codes: what a step a channel makes of the rows that reach a map of the first block, and what the one step makes of the
        // rewritten rows.
        let wiring = model.wiring();
        let edge = wiring.free_norms().find(|edge| edge.name.ends_with("0.layernorm_before")).unwrap();
        let name = edge.readers[0].tensor.strip_suffix(".weight").unwrap().to_string();
        let meta = model.sites(trimtab_nn::Role::Block).find(|site| site.name == name).unwrap().clone();
        let channel = ActivationScheme { granularity: ActivationGranularity::Channel, ..settings.inputs };
        let mut each = None;
        let see = |source: &Model, each: &mut Option<ActivationQuantizer>| -> Vec<f32> {
            let mut all = Vec::new();
            let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
            let stream = Stream::new(source, &calibration.batches, source.device().clone(), settings);
            stream
                .run(|block| -> Result<()> {
                    if block.info().sites.iter().any(|site| site.name == name) {
                        block.site_mut(&name)?.set_activation(None)?;
                        if each.is_none() {
                            *each = Some(found(block, &meta, channel, RangeRule::Percentile)?);
                        }
                        block.each_input(&[&name], |_, rows, _| all.extend_from_slice(rows))?;
                    }
                    Ok(())
                })
                .unwrap();
            all
        };
        let (old, new) = (see(&model, &mut each), see(&back, &mut each));
        let each = each.unwrap();
        let one = steps[&name].steps()[0];
        let wide = |row: &[f32]| row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (mut differ, mut close) = (0, 0);
        for (a, b) in old.chunks(meta.cols).zip(new.chunks(meta.cols)) {
            // Norms compute in single precision: a code may turn within that of a tie.
            let found = codes_agree((&wide(a), each.steps()), (&wide(b), one), settings.inputs, 2e-4);
            (differ, close, rows) = (differ + found.0, close + found.1, rows + 1);
        }
        assert_eq!(differ, 0, "{inputs}: of {rows} rows");
        assert!(rows > 100 && close * 200 < rows * meta.cols, "{close} of {}", rows * meta.cols);
        // Control: the rows as they were have other codes by the one step.
        let control: usize = old
            .chunks(meta.cols)
            .map(|a| codes_agree((&wide(a), each.steps()), (&wide(a), one), settings.inputs, 2e-4).0)
            .sum();
        assert!(control > rows, "{control}");
    }
}

#[test]
fn weights_absorb_where_that_helps_on_rows_that_were_held_out() {
    // Six hundred rows for maps of 32 and 64 inputs; and fewer rows than inputs, which could only be learned by heart.
    let folder = tempfile::tempdir().unwrap();
    let (model, calibration) = vision(folder.path());
    let few = Calibration {
        batches: vec![{
            let Flow::Image(x) = calibration.batches[0].input.clone() else { panic!("images") };
            Batch { input: Flow::Image(x.narrow(0, 0, 1)), mask: None, row_weights: None }
        }],
        ..vision_like(&calibration)
    };
    let count = |data: &Calibration, scheme: &str| {
        let settings = Activations { absorb: true, ..Activations::of(parse(scheme)) };
        let wiring = None;
        let (mut absorbed, mut all) = (0, 0);
        let stream = Stream::new(&model, &data.batches, model.device().clone(), StreamSettings::default());
        stream
            .run(|block| -> Result<()> {
                let sites = block.info().sites.clone();
                let mut found = QuantizedInputs::default();
                for group in trimtab_calibrate::stream::reading_groups(&sites) {
                    found.quantize(block, &group, &settings, wiring, &|_| Ok(Dtype::F32))?;
                }
                (absorbed, all) = (absorbed + found.absorbed.len(), all + sites.len());
                Ok(())
            })
            .unwrap();
        (absorbed, all)
    };
    let (absorbed, all) = count(&calibration, "int4 tensor");
    assert!(2 * absorbed > all, "{absorbed} of {all}");
    // Control: from 17 rows nothing is learned that holds for others.
    let (by_heart, _) = count(&few, "int8 tensor");
    assert!(by_heart < all, "{by_heart} of {all}");
}

/// The same data without its batches.
fn vision_like(of: &Calibration) -> Calibration {
    Calibration {
        batches: Vec::new(),
        samples: of.samples,
        rows: of.rows,
        description: String::new(),
        rest: None,
        rest_is: "",
        fisher: Default::default(),
    }
}

#[test]
fn norms_on_the_stream_are_not_rewritten() {
    let config = json!({
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "vocab_size": 50, "max_position_embeddings": 16, "type_vocab_size": 2,
    });
    let checkpoint = trimtab_models::init::checkpoint(&config, 1, Dtype::F32).unwrap();
    let model = Model::from_checkpoint(checkpoint, None, burn::tensor::Device::flex()).unwrap();
    let batches = vec![Batch::windows(&[&[3u32, 7, 9, 1][..]], model.device())];
    let calibration = Calibration {
        batches,
        samples: 1,
        rows: 4,
        description: "one text".into(),
        rest: None,
        rest_is: "",
        fisher: Default::default(),
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = Activations { reparameterize: true, ..Activations::of(parse("int8 tensor")) };
    let path = folder.path().join("out");
    let refused = written(&model, &calibration, ("int8 row sym", Method::Rtn), Some(settings), &path);
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("Post-LN"), "{message}");
    // Without a rewrite it is quantized as any other.
    let settings = Activations { reparameterize: false, ..settings };
    let path = folder.path().join("plain");
    let back = written(&model, &calibration, ("int8 row sym", Method::Rtn), Some(settings), &path).unwrap();
    let mut ctx = Ctx::default();
    let ids = calibration.batches[0].input.clone();
    assert!(back.network().unwrap().forward_range(0, back.stages().len() - 1, ids, &mut ctx).is_ok());
}
