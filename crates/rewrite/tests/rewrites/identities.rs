//! Passes that follow one another, ways back, and what is refused.

use trimtab_models::{ConvSpec, Model, Spec};
use trimtab_nn::NormKind;
use trimtab_rewrite::{Draft, Error, Pass, PassSettings, apply_passes};

use crate::fixture::Fixture;

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest difference of any tensor.
fn distance(fixture: &Fixture, draft: &Draft<'_>) -> f32 {
    let original = fixture.model.checkpoint();
    let names = original.names().map(|name| {
        let (a, b) = (original.tensor(name).unwrap(), draft.tensor(name).unwrap());
        largest_difference(&a.to_f32().unwrap(), &b.to_f32().unwrap())
    });
    names.fold(0.0, f32::max)
}

#[test]
fn passes_that_have_a_way_back_find_it() {
    for (name, pass) in [
        ("llama", Pass::Rotate),
        ("phi", Pass::Rotate),
        ("bert", Pass::RotateHeads),
        ("qwen3", Pass::ScaleChannels),
        ("llama", Pass::InjectOutliers),
        ("qwen2_moe", Pass::FoldNormGain),
    ] {
        let fixture = Fixture::open(name);
        let settings = PassSettings { ranges: Some(fixture.ranges()), ..PassSettings::default() };
        let mut draft = fixture.draft();
        for first in pass.build(&settings).needs(&draft).unwrap() {
            first.build(&settings).apply(&mut draft).unwrap();
        }
        let before = draft.to_checkpoint().unwrap();
        let applied = pass.build(&settings).apply(&mut draft).unwrap();
        let moved = before.names().map(|name| {
            let (a, b) = (before.tensor(name).unwrap(), draft.tensor(name).unwrap());
            largest_difference(&a.to_f32().unwrap(), &b.to_f32().unwrap())
        });
        assert!(moved.fold(0.0, f32::max) > 1e-2, "{name} {pass}: nothing moves");
        applied.inverse.unwrap_or_else(|| panic!("{name} {pass}")).apply(&mut draft).unwrap();
        for tensor in before.names() {
            let (a, b) = (before.tensor(tensor).unwrap(), draft.tensor(tensor).unwrap());
            let far = largest_difference(&a.to_f32().unwrap(), &b.to_f32().unwrap());
            assert!(far < 1e-5, "{name} {pass}: {tensor} comes back {far:.1e} off");
        }
    }
}

#[test]
fn a_projection_has_no_way_back_and_says_so() {
    let fixture = Fixture::open("phi");
    let (_, applied) = fixture.rewrite(&[Pass::CenterLayerNorm], &PassSettings::default()).unwrap();
    assert!(applied[0].inverse.is_none());
}

#[test]
fn passes_follow_one_another() {
    for (name, passes) in [
        ("llama", &[Pass::InjectOutliers, Pass::ScaleChannels, Pass::Rotate][..]),
        ("gpt_neox", &[Pass::CenterLayerNorm, Pass::Rotate, Pass::RotateHeads]),
        ("gpt2", &[Pass::Rotate, Pass::CenterLayerNorm]),
        ("dinov2", &[Pass::FoldLayerScale, Pass::FoldNormGain, Pass::RotateHeads]),
        ("gemma", &[Pass::Untie, Pass::FoldNormGain, Pass::Rotate]),
        ("t5", &[Pass::Rotate]),
    ] {
        let fixture = Fixture::open(name);
        for seed in [0, 5] {
            let settings = PassSettings { seed, untie: true, ..PassSettings::default() };
            let (draft, applied) =
                fixture.rewrite(passes, &settings).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(applied.len() >= passes.len());
            assert!(distance(&fixture, &draft) > 1e-2, "{name}");
            let change = fixture.change(&draft);
            assert!(change <= 1e-4, "{name} {passes:?}: {change:.1e}");
        }
    }
}

#[test]
fn both_rotations_and_either_width() {
    // 48 = 4 * 12 has a Hadamard matrix.
    let fixture = Fixture::open("llama");
    for rotation in
        [trimtab_math::rotation::RotationKind::Hadamard, trimtab_math::rotation::RotationKind::Orthogonal]
    {
        for heads in [true, false] {
            let settings = PassSettings { rotation, heads, ..PassSettings::default() };
            let (draft, applied) = fixture.rewrite(&[Pass::Rotate], &settings).unwrap();
            assert!(
                applied.iter().any(|a| a.pass == Pass::FoldNormGain && a.needed_by == Some(Pass::Rotate))
            );
            assert!(fixture.change(&draft) <= 1e-4);
        }
    }
}

#[test]
fn the_mean_of_a_layer_norms_stream_is_left_where_it_is() {
    // A rotation that does not map ones to ones is no rewrite of a network with layer norms.
    let fixture = Fixture::open("gpt_neox");
    let mut draft = fixture.draft();
    let settings = PassSettings::default();
    apply_passes(&mut draft, &[Pass::FoldNormGain], &settings).unwrap();
    for norm in &mut draft.wiring.norms {
        norm.kind = NormKind::Rms;
    }
    apply_passes(&mut draft, &[Pass::Rotate], &settings).unwrap();
    assert!(fixture.change(&draft) > 1e-2);
}

#[test]
fn a_centred_model_says_so_and_is_read_so() {
    let fixture = Fixture::open("gpt_neox");
    let (draft, _) = fixture.rewrite(&[Pass::CenterLayerNorm], &PassSettings::default()).unwrap();
    let checkpoint = draft.to_checkpoint().unwrap();
    let model = Model::from_checkpoint(checkpoint, None, burn::tensor::Device::flex()).unwrap();
    let wiring = model.wiring();
    let on_stream = wiring.norms.iter().filter(|norm| norm.stream.is_some());
    assert!(on_stream.clone().count() > 2 && on_stream.into_iter().all(|norm| norm.kind == NormKind::Rms));
    // It is done once.
    let mut again = Draft::new(model.checkpoint(), wiring);
    let error = apply_passes(&mut again, &[Pass::CenterLayerNorm], &PassSettings::default()).err().unwrap();
    assert!(error.to_string().contains("already"), "{error}");
    // The switch alone, on weights that are not centred, is another function.
    let mut lie = fixture.draft();
    lie.set_config(&fixture.wiring().streams[0].centered_field, true);
    assert!(fixture.change(&lie) > 1e-3);
}

#[test]
fn refusals_name_what_stands_in_the_way() {
    let refuse = |name: &str, pass: Pass| {
        let fixture = Fixture::open(name);
        let error = fixture.rewrite(&[pass], &PassSettings::default()).map(drop).unwrap_err();
        assert!(matches!(error, Error::Refused { .. } | Error::Needs { .. }), "{name} {pass}: {error}");
        error.to_string()
    };
    for (name, pass, words) in [
        ("bert", Pass::FoldNormGain, "Post-LN"),
        ("bert", Pass::Rotate, "Post-LN"),
        ("opt_after", Pass::CenterLayerNorm, "Post-LN"),
        ("llama", Pass::CenterLayerNorm, "RMS norm"),
        ("gemma2", Pass::Rotate, "post_attention_layernorm"),
        ("olmo2", Pass::Rotate, "between a sublayer and the stream"),
        ("bloom", Pass::Rotate, "stands on the embedding"),
        ("qwen2_tied", Pass::Rotate, "--untie"),
        ("gpt2", Pass::CenterLayerNorm, "--untie"),
        ("llama", Pass::Untie, "does not borrow"),
        ("llama", Pass::FoldBatchNorm, "no batch norm"),
        ("conv/resnet", Pass::Rotate, "no residual stream"),
        ("conv/vgg", Pass::FoldBatchNorm, "no batch norm"),
    ] {
        let message = refuse(name, pass);
        assert!(message.contains(words), "{name} {pass}: {message}");
    }
}

#[test]
fn a_batch_norm_that_stands_before_its_convolution_is_refused() {
    let spec = r#"
name = "pre_activation"
[[stages]]
block = "blocks.{i}"
units = ["conv"]
[units.conv]
layers = [{ conv = "conv", kernel = 3 }, { act = "relu" }, { norm = "bn", optional = true }, { pool = "average", size = 2 }]
[head]
layers = [{ pool = "flatten" }, { linear = "head" }]
"#;
    let spec = ConvSpec::parse(spec, "x").unwrap();
    let fixture = Fixture::open("conv/convnet");
    let checkpoint = fixture.model.checkpoint().clone();
    let model =
        Model::from_checkpoint(checkpoint, Some(Spec::Conv(Box::new(spec))), burn::tensor::Device::flex());
    let model = model.unwrap();
    let mut draft = Draft::new(model.checkpoint(), model.wiring());
    let error = apply_passes(&mut draft, &[Pass::FoldBatchNorm], &PassSettings::default()).err().unwrap();
    assert!(error.to_string().contains("no convolution right before it"), "{error}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_at_any_number_of_threads() {
    let fixture = Fixture::open("mistral");
    let bytes = |seed: u64, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let settings = PassSettings { seed, ..PassSettings::default() };
            let (draft, _) = fixture.rewrite(&[Pass::Rotate], &settings).unwrap();
            draft
                .changed()
                .iter()
                .map(|name| draft.tensor(name).unwrap().to_f32().unwrap())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(bytes(1, 1), bytes(1, 2));
    assert_ne!(bytes(1, 1), bytes(2, 1));
}
