//! What the taps of a mixture of experts see.

use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor, TensorData};
use trimtab_nn::{Ctx, Flow, Role, SiteMeta, StageSource, Tap, TapRows, TapSet};

use crate::fixture::Fixture;

/// Rows and their weights, as a site's tap saw them.
#[derive(Default)]
struct Seen {
    calls: usize,
    rows: Vec<f32>,
    weight: f64,
}

impl Tap for Seen {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> Result<(), String> {
        self.calls += 1;
        self.rows.extend(rows.rows);
        self.weight += match rows.weights {
            Some(weights) => weights.iter().sum(),
            None => (rows.rows.len() / rows.width) as f64,
        };
        Ok(())
    }
}

/// Runs the first block of the mixtral fixture on `tokens` tokens; what each site saw.
fn observe(tokens: usize, weights: Option<&[f64]>) -> Vec<(String, usize, Arc<Mutex<Seen>>)> {
    let fixture = Fixture::open("mixtral");
    let index = fixture.model.stages().iter().position(|stage| stage.role == Role::Block).unwrap();
    let block = fixture.model.load(index).unwrap();
    let values: Vec<f32> = (0..tokens * 16).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 300.0).collect();
    let input = Tensor::<3>::from_data(TensorData::new(values, [1, tokens, 16]), &Device::flex());
    let mut taps = TapSet::new();
    let mut seen = Vec::new();
    for site in block.sites() {
        let tap = Arc::new(Mutex::new(Seen::default()));
        taps.attach(site.name(), Arc::clone(&tap));
        seen.push((site.name().to_string(), site.meta().cols, tap));
    }
    let mut ctx = Ctx { taps: Some(&mut taps), row_weights: weights, taps_only: true, ..Ctx::default() };
    block.forward(Flow::Hidden(input), &mut ctx).unwrap();
    taps.finish().unwrap();
    assert!(taps.are_satisfied(), "every tap has been shown its rows, or that there are none");
    seen
}

#[test]
fn experts_see_their_tokens_and_the_router_sees_all() {
    let tokens = 12;
    let seen = observe(tokens, None);
    let weight = |end: &str| -> f64 {
        seen.iter().filter(|(name, ..)| name.ends_with(end)).map(|(.., s)| s.lock().unwrap().weight).sum()
    };
    assert_eq!(weight("block_sparse_moe.gate"), tokens as f64);
    for end in [".w1", ".w2", ".w3"] {
        assert_eq!(weight(end), 2.0 * tokens as f64, "two of the experts for each token, {end}");
    }
    let all: Vec<f32> = {
        let (_, _, router) = seen.iter().find(|(name, ..)| name.ends_with("moe.gate")).unwrap();
        router.lock().unwrap().rows.clone()
    };
    for (name, cols, tap) in seen.iter().filter(|(name, ..)| name.ends_with(".w1")) {
        let tap = tap.lock().unwrap();
        assert!(tap.weight < tokens as f64, "{name} does not see every token");
        for row in tap.rows.chunks(*cols) {
            assert!(all.chunks(*cols).any(|token| token == row), "{name} sees rows of the router");
        }
    }
}

#[test]
fn an_expert_without_tokens_is_told_so() {
    // One token goes to two of the four experts.
    let seen = observe(1, None);
    let idle: Vec<_> = seen.iter().filter(|(.., tap)| tap.lock().unwrap().rows.is_empty()).collect();
    assert_eq!(idle.len(), 2 * 3, "two idle experts of three sites");
    assert!(idle.iter().all(|(.., tap)| tap.lock().unwrap().calls == 1));
}

#[test]
fn row_weights_follow_the_tokens() {
    let mut weights = vec![0.0; 12];
    weights[3] = 1.0;
    let seen = observe(12, Some(&weights));
    let sum: f64 =
        seen.iter().filter(|(name, ..)| name.ends_with(".w1")).map(|(.., s)| s.lock().unwrap().weight).sum();
    assert_eq!(sum, 2.0, "the one token that counts goes to two experts");
}
