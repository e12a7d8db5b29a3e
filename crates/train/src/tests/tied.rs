//! A tied weight, as language models have it.

use super::*;

/// Embedding, a gated layer and the embedding again: what a language model does to its tied weight.
#[derive(Module, Debug)]
struct Tied {
    embed: Site,
    up: Site,
    norm: Norm,
}

const VOCAB: usize = 40;
const WIDTH: usize = 24;

fn tied() -> Tied {
    let device = Device::flex().autodiff();
    let site = |name: &str, kind, rows: usize| {
        let meta = SiteMeta {
            name: name.into(),
            kind,
            rows,
            cols: WIDTH,
            transposed: false,
            input: Axis::new("residual", WIDTH),
            output: Axis::new(name, rows),
            reads: name.into(),
            fused: None,
        };
        let mut stream = Stream::new(0, name, 0, 0);
        let values: Vec<f32> = (0..rows * WIDTH).map(|_| 0.3 * stream.normal() as f32).collect();
        let weight = Weight::dense(Tensor::from_data(TensorData::new(values, [rows, WIDTH]), &device));
        Site::new(meta, weight, None).unwrap()
    };
    let gain = Tensor::ones([WIDTH], &device);
    Tied {
        embed: site("embed", SiteKind::Embedding, VOCAB),
        up: site("up", SiteKind::Linear, WIDTH),
        norm: Norm::new("norm", (NormKind::Rms, 1e-5), Axis::new("residual", WIDTH), gain, None),
    }
}

fn tied_logits(model: &Tied, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<3>> {
    let x = model.embed.lookup(ids, ctx);
    let x = x.clone() + activation::silu(model.up.forward(x, ctx));
    let x = model.norm.forward(x, ctx);
    Ok(model.embed.forward(x, ctx))
}

#[test]
fn the_gradient_of_a_tied_weight_is_that_of_both_uses() {
    let (device, model) = (Device::flex(), tied());
    let data = TokenWindows::new((0..65).map(|i| (i * 7) % 31).collect(), 16, VOCAB, "text").unwrap();
    let loss = |model: &Tied, device: &Device| {
        let batch = data.batch(&first_items(4), device).unwrap();
        NextToken(tied_logits).loss(model, &batch, &mut Pass::default()).unwrap().mean
    };
    let backward = loss(&model, &device.clone().autodiff()).backward();
    let Weight::Dense(param) = &model.embed.weight else { panic!("dense") };
    let gradient: Vec<f32> = param.val().grad(&backward).unwrap().into_data().try_into_vec().unwrap();
    let base: Vec<f32> = param.val().into_data().try_into_vec().unwrap();
    let at = |index: usize, step: f32| {
        let mut changed = base.clone();
        changed[index] += step;
        let mut model = model.valid();
        let tensor = Tensor::from_data(TensorData::new(changed, [VOCAB, WIDTH]), &device);
        model.embed.set_weight(Weight::dense(tensor)).unwrap();
        f64::from(loss(&model, &device).into_scalar::<f32>())
    };
    // Row 35 is never an input, only a candidate of the head.
    for index in [0, 5 * WIDTH + 3, 30 * WIDTH + 7, 35 * WIDTH + 1] {
        let step = 1e-2;
        let difference = (at(index, step) - at(index, -step)) / (2.0 * f64::from(step));
        // The loss (about 3.7) is rounded to 2e-7, so a difference to 2e-5; curvature adds less.
        assert!(
            (difference - f64::from(gradient[index])).abs() < 1e-4,
            "{index}: {difference} {}",
            gradient[index]
        );
    }
    assert!(gradient.iter().any(|g| g.abs() > 1e-3), "there is something to compare");
}

#[test]
fn threads_do_not_change_a_byte() {
    let data =
        TokenWindows::new((0..4097).map(|i: u32| (i * i / 7) % 37).collect(), 64, VOCAB, "text").unwrap();
    let settings = settings(16, vec![phase(4, 3e-3, OptimizerConfig::default())]);
    let settings = Settings { clip_norm: Some(0.5), ..settings };
    let trained = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let objective = NextToken(tied_logits);
        let trainer = Trainer::new(&data, &objective, &settings, Device::flex());
        numbers(&pool.install(|| trainer.run(tied(), &mut Silent::default())).unwrap().module)
    };
    let one = trained(1);
    assert_eq!(one, trained(2));
    assert_eq!(one, trained(3));
    assert_ne!(one, numbers(&tied()), "training does something");
}
