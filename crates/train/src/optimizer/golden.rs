//! LAMB against the programs that people use: timm (whose LAMB is that of NVIDIA's Apex) and optax.
//!
//! `tests/fixtures/lamb.json` is made by `tools/fixtures/make_lamb.py`. Where a setting of theirs has no counterpart here, the test
//! says which tensors it changes.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::TensorData;
use serde::Deserialize;

use super::*;
use crate::gradients::Gradient;

type Tensors = BTreeMap<String, Vec<f64>>;

#[derive(Deserialize)]
struct Golden {
    rate: f64,
    epsilon: f32,
    decay: f32,
    betas: [f32; 2],
    shapes: BTreeMap<String, Vec<usize>>,
    start: Tensors,
    gradients: Vec<Tensors>,
    /// By name of the case, by step.
    cases: BTreeMap<String, BTreeMap<usize, Tensors>>,
}

/// Two matrices, one of them longer than its steps and one shorter, and a vector.
#[derive(Module, Debug)]
struct Three {
    wide: Param<Tensor<2>>,
    small: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

/// In f32 over twenty steps, from f64.
const CLOSE: f64 = 1e-6;

impl Golden {
    fn read() -> Self {
        serde_json::from_str(include_str!("../../tests/fixtures/lamb.json")).unwrap()
    }

    fn lamb(&self, variant: LambVariant, weight_decay: f32) -> OptimizerConfig {
        let ([beta_1, beta_2], epsilon) = (self.betas, self.epsilon);
        OptimizerConfig::Lamb { variant, beta_1, beta_2, epsilon, weight_decay }
    }

    fn data(&self, tensors: &Tensors, name: &str) -> TensorData {
        TensorData::new(floats(&tensors[name]), self.shapes[name].clone())
    }

    /// All tensors after each step, clipped as the loop clips.
    fn run(&self, rule: OptimizerConfig) -> Vec<Tensors> {
        let device = Device::flex();
        let leaf = device.clone().autodiff();
        let mut module = Three {
            wide: Param::from_tensor(Tensor::from_data(self.data(&self.start, "wide"), &leaf)),
            small: Param::from_tensor(Tensor::from_data(self.data(&self.start, "small"), &leaf)),
            bias: Param::from_tensor(Tensor::from_data(self.data(&self.start, "bias"), &leaf)),
        };
        let limit = rule.clips();
        let mut optimizer = Optimizer::new(&Phase::new(self.gradients.len(), self.rate, rule));
        let step = |of: &Tensors| {
            let gradient = |name: &String| {
                let shape = self.shapes[name].clone();
                let flat = TensorData::new(floats(&of[name]), [of[name].len()]);
                (name.clone(), Gradient { shape, values: Tensor::from_data(flat, &device) })
            };
            let mut gradients: Gradients = of.keys().map(gradient).collect();
            let norm = gradients.norm();
            limit.into_iter().for_each(|limit| gradients.clip(norm, limit));
            module = optimizer.step(module.clone(), gradients, &[self.rate]);
            let values = crate::parameters::values(&module).into_iter();
            values.map(|(name, data)| (name, data.iter::<f64>().collect())).collect()
        };
        self.gradients.iter().map(step).collect()
    }

    /// The largest difference of one tensor from a case, over all steps that the file holds.
    fn apart(&self, found: &[Tensors], case: &str, name: &str) -> f64 {
        let steps = self.cases[case].iter();
        let pairs = steps.flat_map(|(step, tensors)| found[step - 1][name].iter().zip(&tensors[name]));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    #[track_caller]
    fn same(&self, found: &[Tensors], case: &str, names: &[&str]) {
        for name in names {
            let apart = self.apart(found, case, name);
            assert!(apart < CLOSE, "{case}, {name}: {apart:.1e}");
        }
    }

    #[track_caller]
    fn other(&self, found: &[Tensors], case: &str, names: &[&str]) {
        for name in names {
            let apart = self.apart(found, case, name);
            assert!(apart > 1e2 * CLOSE, "{case}, {name}: {apart:.1e}");
        }
    }
}

fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

const ALL: [&str; 3] = ["wide", "small", "bias"];
const MATRICES: [&str; 2] = ["wide", "small"];

#[test]
fn nvlamb_is_timm() {
    let golden = Golden::read();
    let found = golden.run(golden.lamb(LambVariant::Nvlamb, golden.decay));
    golden.same(&found, "timm", &ALL);
    let plain = golden.run(golden.lamb(LambVariant::Nvlamb, 0.0));
    golden.same(&plain, "timm without decay", &ALL);
    golden.other(&found, "timm without decay", &MATRICES);
    // What timm offers besides, and nothing here does: vectors that adapt; ratios of at most 1; decay beside the step.
    golden.same(&found, "timm, always_adapt", &MATRICES);
    golden.other(&found, "timm, always_adapt", &["bias"]);
    golden.same(&found, "timm, trust_clip", &["small", "bias"]);
    golden.other(&found, "timm, trust_clip", &["wide"]);
    golden.same(&found, "timm, decoupled_decay", &["bias"]);
    golden.other(&found, "timm, decoupled_decay", &MATRICES);
}

#[test]
fn the_reference_does_not_clip_and_is_optax_on_matrices() {
    let golden = Golden::read();
    let found = golden.run(golden.lamb(LambVariant::Reference, golden.decay));
    golden.same(&found, "timm, no clipping", &ALL);
    golden.other(&found, "timm", &ALL);
    // Optax leaves vectors out of the decay by a mask, but never out of the ratio.
    golden.same(&found, "optax", &MATRICES);
    golden.other(&found, "optax", &["bias"]);
}

#[test]
fn the_first_version_corrects_no_bias() {
    let golden = Golden::read();
    let found = golden.run(golden.lamb(LambVariant::PaperV1, golden.decay));
    golden.same(&found, "timm, no clipping, no bias correction", &ALL);
    golden.other(&found, "timm, no clipping", &ALL);
}
