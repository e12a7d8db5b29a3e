use std::sync::{Arc, Mutex};

use trimtab_calibrate::SecondMoment;
use trimtab_nn::{Ctx, TapSet};
use trimtab_plan::Selection;

use super::*;
use crate::activations::Activations;
use crate::calibration::CalibrationSettings;

#[test]
fn a_pass_that_ends_at_the_tap_sees_what_a_whole_pass_sees() {
    let model = Model::open("@pico", None).unwrap();
    let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
    let settings = CalibrationSettings { samples: Some(5), ..CalibrationSettings::default() };
    let calibration = Calibration::load(&model, &settings).unwrap();
    // The whole network, undisturbed, one batch after the other.
    let network = model.network().unwrap();
    let mut taps = TapSet::new();
    let mut whole = BTreeMap::new();
    for site in &inventory.sites {
        let moment = Arc::new(Mutex::new(SecondMoment::of(&site.meta)));
        taps.attach(&site.meta.name, Arc::clone(&moment));
        whole.insert(site.meta.name.as_str(), moment);
    }
    for batch in &calibration.batches {
        let mut ctx = Ctx { taps: Some(&mut taps), ..batch.ctx() };
        network.forward(batch.input.clone(), &mut ctx).unwrap();
    }
    taps.finish().unwrap();
    // The stream, group by group, as treating asks.
    let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
    let stream = Stream::new(&model, &calibration.batches, model.device().clone(), settings);
    let mut seen = 0;
    stream
        .run(|block| -> Result<()> {
            let sites = inventory.sites.iter().filter(|site| site.stage == block.index());
            for group in reading_groups(sites.map(|site| &site.meta)) {
                for (name, moment) in block.second_moments(&group)? {
                    let expected = whole[name.as_str()].lock().unwrap().moment().unwrap();
                    let (moment, expected) = (moment.mean(), expected.mean());
                    let scale = expected.mean_diagonal();
                    let far = moment.as_slice().iter().zip(expected.as_slice());
                    let far = far.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(scale > 0.0 && far <= 1e-9 * scale, "{name}: {far} of {scale}");
                    seen += 1;
                }
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, inventory.sites.len());
}

#[test]
fn experts_are_treated_whether_a_token_reached_them_or_not() {
    let config = serde_json::json!({
        "model_type": "mixtral", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 32, "vocab_size": 50, "num_local_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 16,
    });
    let checkpoint = trimtab_models::init::checkpoint(&config, 1, trimtab_io::Dtype::F32).unwrap();
    let device = burn::tensor::Device::flex();
    let model = Model::from_checkpoint(checkpoint, None, device.clone()).unwrap();
    let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
    // One token reaches two of the four experts of a block.
    let batches = vec![trimtab_calibrate::Batch::windows(&[&[7u32][..]], &device)];
    let calibration = Calibration {
        batches,
        samples: 1,
        rows: 1,
        description: "one token".into(),
        rest: None,
        fisher: Default::default(),
        rest_is: "",
    };
    let scheme: Choice = "int4 g8".parse().unwrap();
    let assignment: Assignment =
        inventory.sites.iter().map(|site| (site.meta.name.clone(), scheme)).collect();
    let quantizer = Quantizer::default();
    let job = Job {
        model: &model,
        inventory: &inventory,
        assignment: &assignment,
        quantizer: &quantizer,
        form: Form::Packed,
    };
    let treated = job.collected(Some(&calibration), &mut crate::monitor::Quiet::default()).unwrap();
    let weights: usize = treated.0.values().map(|stage| stage.weights.len()).sum();
    assert_eq!(weights, inventory.sites.len());
    // A branch beside all of them, by the plain decomposition where nothing was seen.
    let beside = |(name, choice): (&String, &Choice)| (name.clone(), Choice { rank: 2, ..*choice });
    let assignment: Assignment = assignment.iter().map(beside).collect();
    let job = Job { assignment: &assignment, ..job };
    let mended = job.collected(Some(&calibration), &mut crate::monitor::Quiet::default()).unwrap();
    let branches: usize = mended.0.values().map(|stage| stage.branches.len()).sum();
    assert_eq!(branches, inventory.sites.len());
    for report in mended.0.values().flat_map(|stage| &stage.reports) {
        assert!(Some(report.damage) < report.bare_damage, "{report:?}");
    }
    // What is put over a network is taken off again, branches too.
    let mut network = model.network().unwrap();
    let overlay = mended.overlay(&inventory).unwrap();
    let (_, undo) = crate::measure::put(&mut network, &overlay).unwrap();
    let count = |network: &trimtab_nn::Network| {
        let stages = network.stages().iter();
        stages.flat_map(|stage| stage.sites()).map(|site| site.branches.len()).sum::<usize>()
    };
    assert_eq!(count(&network), inventory.sites.len());
    crate::measure::put(&mut network, &undo).unwrap();
    assert_eq!(count(&network), 0);
    let experts = inventory.sites.iter().filter(|site| site.meta.name.contains(".experts."));
    assert_eq!(experts.count(), 2 * 4 * 3);
}

#[test]
fn a_tower_is_treated_by_what_images_show_and_left_out_of_plans_on_text() {
    let part = |kind: &str| {
        serde_json::json!({
            "model_type": kind, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 32, "vocab_size": 50, "image_size": 8, "patch_size": 4,
            "max_position_embeddings": 16,
        })
    };
    let config = serde_json::json!({
        "model_type": "llava", "image_token_index": 49, "text_config": part("llama"),
        "vision_config": part("clip_vision_model"),
    });
    let checkpoint = trimtab_models::init::checkpoint(&config, 1, trimtab_io::Dtype::F32).unwrap();
    let device = burn::tensor::Device::flex();
    let model = Model::from_checkpoint(checkpoint, None, device.clone()).unwrap();
    let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
    let scheme: Choice = "int4 g8".parse().unwrap();
    let assignment: Assignment =
        inventory.sites.iter().map(|site| (site.meta.name.clone(), scheme)).collect();
    let quantizer = Quantizer::default();
    let run = |batch: Batch| {
        let (inventory, assignment, quantizer) = (&inventory, &assignment, &quantizer);
        let job = Job { model: &model, inventory, assignment, quantizer, form: Form::Packed };
        let description = "one text".to_string();
        let data = Calibration {
            batches: vec![batch],
            samples: 1,
            rows: 6,
            description,
            rest: None,
            fisher: Default::default(),
            rest_is: "",
        };
        let mut heard = crate::monitor::Quiet::default();
        let treated = job.collected(Some(&data), &mut heard).unwrap();
        let reports = treated.0.into_values().flat_map(|stage| stage.reports);
        // Damping is what GPTQ adds to what it saw.
        let blind: Vec<String> =
            reports.filter(|report| report.damping == 0.0).map(|report| report.site).collect();
        (blind, heard.warnings)
    };
    let text = Batch::windows(&[&[7u32, 49, 49, 49, 49, 8][..]], &device);
    let image = burn::tensor::Tensor::random([1, 3, 8, 8], burn::tensor::Distribution::Default, &device);
    let both = Batch { input: Flow::both(text.input.clone(), Flow::Image(image)), ..text.clone() };
    let (plannable, left_out) = inventory.clone().without_optional(&model, Form::Packed).unwrap();

    let (blind, heard) = run(both);
    assert!(blind.is_empty() && heard.is_empty(), "{blind:?} {heard:?}");
    let (blind, heard) = run(text);
    assert_eq!(blind, left_out);
    assert!(heard[0].contains("only images reach them"), "{heard:?}");
    // One block of the tower and two of the projector's maps; the other block stands behind the features.
    assert_eq!(left_out.len(), 6 + 2);
    assert_eq!(plannable.sites.len() + left_out.len(), inventory.sites.len());
    assert!(plannable.sites.iter().all(|site| site.meta.name.starts_with("language_model.")));
    let tower = Selection { include: vec!["vision_tower.*".into()], ..Selection::default() };
    let none = Inventory::take(&model, &tower, Form::Packed)
        .unwrap()
        .without_optional(&model, Form::Packed)
        .map(drop)
        .unwrap_err();
    assert!(none.to_string().contains("--method rtn"), "{none}");
}

#[test]
fn importance_weighs_tokens_and_uniform_importance_is_gptq() {
    use trimtab_calibrate::{Control, Importance, Strategy};
    let model = Model::open("@pico", None).unwrap();
    let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
    let settings = CalibrationSettings { samples: Some(4), window: Some(64), ..Default::default() };
    let calibration = Calibration::load(&model, &settings).unwrap();
    let choice: Choice = "int3 row sym".parse().unwrap();
    let assignment: Assignment =
        inventory.sites.iter().map(|site| (site.meta.name.clone(), choice)).collect();
    let codes = |importance: Option<Importance>| {
        let quantizer = Quantizer { importance, ..Quantizer::default() };
        let job = Job {
            model: &model,
            inventory: &inventory,
            assignment: &assignment,
            quantizer: &quantizer,
            form: Form::Packed,
        };
        let sink = job.collected(Some(&calibration), &mut crate::monitor::Quiet::default()).unwrap();
        let overlay = sink.overlay(&inventory).unwrap();
        overlay.into_iter().map(|(name, put)| (name, put.weight.to_f32())).collect::<BTreeMap<_, _>>()
    };
    let by = |strategy| Some(Importance { strategy, ..Importance::default() });
    let plain = codes(None);
    assert_eq!(plain, codes(by(Strategy::Uniform)));
    for strategy in Strategy::ALL.into_iter().filter(|strategy| *strategy != Strategy::Uniform) {
        assert_ne!(plain, codes(by(strategy)), "{}", strategy.name());
    }
    // Ranges of activations hold all tokens, also those that count for nothing in the codes.
    let ranges = |importance: Option<Importance>, method: Method| {
        let activations = Some(Activations::of("int8 tensor".parse().unwrap()));
        let quantizer = Quantizer { importance, activations, method, ..Quantizer::default() };
        let (model, inventory, assignment) = (&model, &inventory, &assignment);
        let job = Job { model, inventory, assignment, quantizer: &quantizer, form: Form::Packed };
        let treated = job.collected(Some(&calibration), &mut crate::monitor::Quiet::default()).unwrap();
        let inputs = treated.0.into_values().flat_map(|stage| stage.quantized.inputs);
        inputs.map(|(site, quantizer)| (site, quantizer.steps()[0])).collect::<BTreeMap<_, _>>()
    };
    let first = by(Strategy::First);
    assert_eq!(ranges(first, Method::Rtn), ranges(None, Method::Rtn));
    assert_ne!(ranges(first, Method::Gptq), ranges(None, Method::Gptq), "control: other codes, other inputs");
    // At any number of threads the same, also what is drawn.
    let shuffled = Some(Importance { control: Control::Shuffled(2), ..Importance::default() });
    let threads = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| (codes(by(Strategy::Attention)), codes(shuffled)))
    };
    assert_eq!(threads(1), threads(3));
}

#[test]
fn blocks_are_tuned_with_their_branches_in_place() {
    let model = Model::open("@pico", None).unwrap();
    let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
    let settings = CalibrationSettings { samples: Some(16), window: Some(32), ..Default::default() };
    let calibration = Calibration::load(&model, &settings).unwrap();
    let run = |form: Form, tuning: Option<ReconstructSettings>| {
        let rank = |site: &TreatedSite| if site.observed { 4 } else { 0 };
        let scheme = "int2 row real".parse().unwrap();
        let choice = |site: &TreatedSite| Choice { scheme, rank: rank(site) };
        let assignment: Assignment =
            inventory.sites.iter().map(|site| (site.meta.name.clone(), choice(site))).collect();
        let quantizer = Quantizer { method: Method::Decoupleq, tuning, ..Quantizer::default() };
        let (inventory, assignment, quantizer) = (&inventory, &assignment, &quantizer);
        let job = Job { model: &model, inventory, assignment, quantizer, form };
        let treated = job.collected(Some(&calibration), &mut crate::monitor::Quiet::default()).unwrap();
        treated.0
    };
    let tuning = ReconstructSettings { rate: 1e-3, epochs: 2, ..ReconstructSettings::default() };
    let (plain, packed) = (run(Form::Packed, None), run(Form::Packed, Some(tuning)));
    let dense = run(Form::Dense, Some(tuning));
    for (i, stage) in packed.iter().filter(|(_, stage)| stage.tuned.is_some()) {
        let [before, after] = stage.tuned.unwrap();
        assert!(after <= before, "{before} {after}");
        // Numbers that the file will hold have the branch in them.
        assert_eq!(stage.branches.len(), stage.weights.len());
        assert!(dense[i].branches.is_empty() && dense[i].tuned.is_some());
    }
    // The control: training helps some block on samples held out; blocks before it are as without.
    let helped = packed.iter().find(|(_, stage)| stage.tuned.is_some_and(|[before, after]| after < before));
    let first = helped.unwrap().0;
    let in_order = inventory.sites.iter().find(|site| packed[first].weights.contains_key(&site.meta.name));
    let reads = &in_order.unwrap().meta.reads;
    let (mut changed, mut compared) = (0, 0);
    for (name, treated) in &packed[first].weights {
        let site = inventory.sites.iter().find(|site| &site.meta.name == name).unwrap();
        let without = numbers(&plain[first].weights[name]);
        let mut mended = numbers(treated);
        changed += usize::from(mended != without);
        packed[first].branches[name].merge_into(&mut mended).unwrap();
        let rounded = Form::Dense.shape(Treated::Dense(mended.clone()), site.dtype).unwrap();
        let found = numbers(&dense[first].weights[name]);
        let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let apart: Vec<f32> = numbers(&rounded).iter().zip(&found).map(|(a, b)| a - b).collect();
        // Later sites of the block saw rounded numbers before them, and at two bits a code that tips over tips others.
        if &site.meta.reads == reads {
            assert!(norm(&apart) < 0.1 * norm(&found), "{name}: {} of {}", norm(&apart), norm(&found));
            compared += 1;
        }
    }
    assert!(changed > 0 && compared > 0, "{changed}, {compared}");
}

#[test]
fn reports_come_back_from_their_files_to_the_last_bit() {
    // A value that a reader without exact rounding brings back one unit off.
    let damage = 1.8459107313753826;
    let report = SiteReport {
        site: "a".into(),
        scheme: "int3 g64".into(),
        bytes: 1,
        damage,
        bare_damage: Some(damage),
        rtn_damage: damage,
        fell_back: false,
        damping: 0.01,
    };
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<SiteReport>(&text).unwrap(), report);
}

#[test]
fn the_output_error_of_a_convolution_with_groups_is_what_its_outputs_say() {
    /// What leaves a site.
    #[derive(Default)]
    struct Left(Vec<f32>);

    impl trimtab_nn::Tap for Left {
        fn input(&mut self, _: &SiteMeta, _: trimtab_nn::TapRows<'_>) -> std::result::Result<(), String> {
            Ok(())
        }

        fn output(&mut self, _: &SiteMeta, rows: trimtab_nn::TapRows<'_>) -> std::result::Result<(), String> {
            self.0.extend(rows.rows);
            Ok(())
        }

        fn wants_output(&self) -> bool {
            true
        }
    }

    let device = burn::tensor::Device::flex();
    for name in ["mobilenet_v2", "resnext"] {
        let folder = format!("{}/../models/tests/fixtures/conv/{name}", env!("CARGO_MANIFEST_DIR"));
        let checkpoint = trimtab_io::Checkpoint::open(&folder).unwrap();
        let model = Model::from_checkpoint(checkpoint, None, device.clone()).unwrap();
        let expected = trimtab_io::Checkpoint::open(format!("{folder}/expected.safetensors")).unwrap();
        let images = expected.tensor("images").unwrap();
        let data = burn::tensor::TensorData::new(images.to_f32().unwrap(), images.shape);
        let input = Flow::Image(burn::tensor::Tensor::from_data(data, &device));
        let batches = [Batch { input, mask: None, row_weights: None }];
        let outputs = |network: &Network, site: &str| {
            let left = Arc::new(Mutex::new(Left::default()));
            let mut taps = TapSet::new();
            taps.attach(site, Arc::clone(&left));
            let mut ctx = Ctx { taps: Some(&mut taps), ..batches[0].ctx() };
            network.forward(batches[0].input.clone(), &mut ctx).unwrap();
            taps.finish().unwrap();
            drop(taps);
            std::mem::take(&mut left.lock().unwrap().0)
        };
        let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
        let mut sums = [0.0; 2];
        for site in inventory.sites.iter().filter(|site| site.meta.conv_groups() > 1) {
            let mut treated = None;
            let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
            Stream::new(&model, &batches, device.clone(), settings)
                .run(|block| -> Result<()> {
                    if block.index() != site.stage {
                        return Ok(());
                    }
                    let moments = block.second_moments(&[&site.meta])?;
                    let moment = moments[&site.meta.name].as_ref();
                    assert_eq!(moment.groups().len(), site.meta.conv_groups());
                    let weight = block.site(&site.meta.name)?.to_f32();
                    let treat = |moment| {
                        let evidence = SiteEvidence { second_moment: Some(moment), fisher: None };
                        let method = Quantizer::default().treatment("int3 row".parse()?, site.dtype, true);
                        let failed = |message| Error::Site { site: site.meta.name.clone(), message };
                        method.unwrap().treat(&site.meta, &weight, evidence).map_err(failed)
                    };
                    let outcome = treat(moment)?;
                    let by_mean = numbers(&treat(&moment.mean().clone().into())?.treated);
                    let evidence = SiteEvidence { second_moment: Some(moment), fisher: None };
                    sums[1] += branching::damage(&weight, &by_mean, evidence)?;
                    treated = Some(outcome);
                    Ok(())
                })
                .unwrap();
            let outcome = treated.unwrap();
            let mut network = model.network().unwrap();
            let original = outputs(&network, &site.meta.name);
            let (_, place) = network.site_mut(&site.meta.name).unwrap();
            place.set_weight(outcome.treated.into_weight(&site.meta).unwrap()).unwrap();
            let changed = outputs(&network, &site.meta.name);
            let squares = original.iter().zip(&changed).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let positions = original.len() / site.meta.rows;
            let expected = squares / positions as f64;
            let damage = outcome.damage;
            assert!((damage / expected - 1.0).abs() < 1e-3, "{name}: {damage}, the outputs say {expected}");
            sums[0] += damage;
        }
        // Control: codes by the mean over groups do more damage.
        assert!(sums[1] > 1.05 * sums[0], "{name}: {sums:?}");
    }
}
