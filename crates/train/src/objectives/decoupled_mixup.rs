//! Decoupled mixup (paper 5): two mixed classes do not compete with each other.
//!
//! Source: Liu et al., "Harnessing hard mixed samples with decoupled regularizer", NeurIPS 2023, arXiv:2203.10761.
//!
//! In the cross-entropy of a mixed image its two classes share one softmax, so that a confident answer for one costs the
//! other. The decoupled term measures each of them against all classes *but its partner*:
//! `-w_a ln q_a - w_b ln q_b` with `q_a = exp(z_a) / sum_{c != b} exp(z_c)`, added to the usual loss.
//!
//! Labels are `(a, b, lambda)` by image. The released code reads both ratios off the first image of a batch, in the order of
//! the class indices, which exchanges the two weights wherever class `b` comes first; this does not.

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::images::MixedLabel;
use super::masked::log_sum_exp;

/// Shares within which an image counts as mixed; outside of them it is nearly one image.
const MIXED: std::ops::Range<f64> = 1e-3..1.0 - 1e-3;

/// Which of the two classes get the decoupled term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Both, as in the paper.
    #[default]
    Both,
    /// That of the smaller share.
    Less,
    /// That of the larger share.
    More,
}

/// What the classifier ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// A softmax over classes.
    #[default]
    Softmax,
    /// A sigmoid for each class; the targets of both classes are raised to `h` of their shares.
    Sigmoid,
}

/// The decoupled term. The defaults are those of the paper ([`DecoupledMixup::of`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct DecoupledMixup {
    /// Weight of the term.
    pub eta: f64,
    /// Exponent of the share in the weight: `h(u) = (u / xi)^t` below `xi`, 1 above. 0 takes no notice of the share.
    pub t: f64,
    /// Share from which on a class counts in full.
    pub xi: f64,
    /// Which classes.
    pub mode: Mode,
    /// Softmax or sigmoid.
    pub head: Head,
}

impl Default for DecoupledMixup {
    fn default() -> Self {
        Self::of(Head::Softmax)
    }
}

/// As a recipe has it: what is left out depends on the head.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    eta: Option<f64>,
    t: Option<f64>,
    xi: Option<f64>,
    mode: Mode,
    head: Head,
}

impl From<Written> for DecoupledMixup {
    fn from(Written { eta, t, xi, mode, head }: Written) -> Self {
        let own = Self::of(head);
        Self { eta: eta.unwrap_or(own.eta), t: t.unwrap_or(own.t), xi: xi.unwrap_or(own.xi), mode, head }
    }
}

impl DecoupledMixup {
    /// The defaults of a head: for a softmax a constant weight for both classes; for sigmoids targets that grow with the share, up to
    /// 1 at 0.8. A constant target would ask for a class of which nothing is to be seen.
    pub fn of(head: Head) -> Self {
        let [t, xi] = match head {
            Head::Softmax => [0.0, 1.0],
            Head::Sigmoid => [1.0, 0.8],
        };
        Self { eta: 0.1, t, xi, mode: Mode::Both, head }
    }

    /// What makes no sense, if anything.
    pub fn problem(&self) -> Option<String> {
        let Self { eta, t, xi, .. } = *self;
        let sound = eta >= 0.0 && t >= 0.0 && xi > 0.0 && [eta, t, xi].iter().all(|x| x.is_finite());
        (!sound).then(|| {
            format!("eta and t must not be negative and xi must be positive, found {eta}, {t}, {xi}")
        })
    }

    /// How much a class with this share counts.
    fn h(&self, share: f64) -> f64 {
        if share >= self.xi { 1.0 } else { (share / self.xi).powf(self.t) }
    }

    /// Weights of the two decoupled terms of an image.
    fn weights(&self, label: &MixedLabel) -> [f64; 2] {
        let MixedLabel { a, b, lambda } = *label;
        if a == b || !MIXED.contains(&lambda) {
            return [0.0; 2];
        }
        let [first, second] = match self.mode {
            Mode::Both => [true, true],
            Mode::Less => [lambda < 0.5, lambda >= 0.5],
            Mode::More => [lambda >= 0.5, lambda < 0.5],
        };
        let weight = |on: bool, share: f64| if on { self.eta * self.h(share) } else { 0.0 };
        [weight(first, lambda), weight(second, 1.0 - lambda)]
    }

    /// The loss of logits `[N, C]`, given their usual mean cross-entropy `[1]`.
    pub fn loss(&self, logits: Tensor<2>, labels: &[MixedLabel], usual: Tensor<1>) -> Tensor<1> {
        match self.head {
            Head::Softmax => usual + self.decoupled(logits, labels),
            Head::Sigmoid => self.sigmoids(logits, labels),
        }
    }

    /// Mean of `-w_a ln q_a - w_b ln q_b` over all images, `[1]`.
    ///
    /// With `R` the sum over the classes that are neither `a` nor `b`, `-ln q_a = softplus(ln R - z_a)`: one pass over the logits
    /// serves both terms.
    fn decoupled(&self, logits: Tensor<2>, labels: &[MixedLabel]) -> Tensor<1> {
        let ([n, classes], device) = (logits.dims(), logits.device());
        let pairs: Vec<i64> = labels.iter().flat_map(|label| [label.a as i64, label.b as i64]).collect();
        let pairs = Tensor::<2, Int>::from_data(TensorData::new(pairs, [n, 2]), &device);
        let weights: Vec<f32> =
            labels.iter().flat_map(|label| self.weights(label)).map(|weight| weight as f32).collect();
        let weights = Tensor::<2>::from_data(TensorData::new(weights, [n, 2]), &device);
        let mut mixed = vec![false; n * classes];
        for (row, label) in mixed.chunks_exact_mut(classes).zip(labels) {
            (row[label.a], row[label.b]) = (true, true);
        }
        let others = Tensor::from_data(TensorData::new(mixed, [n, classes]), &device);
        let lead = log_sum_exp(logits.clone(), others) - logits.gather(1, pairs);
        (softplus(lead) * weights).sum() / n as f64
    }

    /// Mean over images of the binary cross-entropy summed over classes, with `h` of the shares as targets, `[1]`.
    fn sigmoids(&self, logits: Tensor<2>, labels: &[MixedLabel]) -> Tensor<1> {
        let ([n, classes], device) = (logits.dims(), logits.device());
        let mut targets = vec![0.0f32; n * classes];
        for (i, label) in labels.iter().enumerate() {
            let row = &mut targets[i * classes..(i + 1) * classes];
            if label.a == label.b || !MIXED.contains(&label.lambda) {
                row[if label.lambda >= 0.5 { label.a } else { label.b }] = 1.0;
                continue;
            }
            row[label.a] = self.h(label.lambda) as f32;
            row[label.b] = self.h(1.0 - label.lambda) as f32;
        }
        let targets = Tensor::<2>::from_data(TensorData::new(targets, [n, classes]), &device);
        // -y ln s(z) - (1 - y) ln s(-z) = softplus(z) - y z.
        (softplus(logits.clone()) - logits * targets).sum() / n as f64
    }
}

/// `ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)`.
fn softplus(x: Tensor<2>) -> Tensor<2> {
    x.clone().clamp_min(0.0) + (x.abs().neg().exp() + 1.0).log()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::images::{Targets, soft_cross_entropy};
    use super::*;

    const CLASSES: usize = 5;

    fn labels() -> Vec<MixedLabel> {
        let label = |a, b, lambda| MixedLabel { a, b, lambda };
        // Mixed both ways round, at one half, of one class, and nearly of one image.
        vec![label(0, 3, 0.7), label(4, 1, 0.2), label(2, 0, 0.5), label(1, 1, 0.4), label(3, 2, 0.9995)]
    }

    fn logits() -> Vec<f64> {
        (0..5 * CLASSES).map(|i| f64::from(((i * 29 % 17) as f32 - 8.0) / 3.0)).collect()
    }

    /// The loss by its definition.
    fn oracle(config: &DecoupledMixup, z: &[f64], labels: &[MixedLabel]) -> f64 {
        let lse = |row: &[f64], without: usize| {
            row.iter().enumerate().filter(|(c, _)| *c != without).map(|(_, z)| z.exp()).sum::<f64>().ln()
        };
        let one = |(row, label): (&[f64], &MixedLabel)| {
            let MixedLabel { a, b, lambda } = *label;
            let all = lse(row, usize::MAX);
            let mut loss = lambda * (all - row[a]) + (1.0 - lambda) * (all - row[b]);
            if a != b && lambda > 1e-3 && lambda < 1.0 - 1e-3 {
                let h = |u: f64| if u >= config.xi { 1.0 } else { (u / config.xi).powf(config.t) };
                let on = |larger: bool| match config.mode {
                    Mode::Both => true,
                    Mode::Less => !larger,
                    Mode::More => larger,
                };
                let weight = |on: bool, u: f64| if on { config.eta * h(u) } else { 0.0 };
                loss += weight(on(lambda >= 0.5), lambda) * (lse(row, b) - row[a]);
                loss += weight(on(lambda < 0.5), 1.0 - lambda) * (lse(row, a) - row[b]);
            }
            loss
        };
        z.chunks(CLASSES).zip(labels).map(one).sum::<f64>() / labels.len() as f64
    }

    fn loss(config: &DecoupledMixup, z: Tensor<2>, labels: &[MixedLabel]) -> Tensor<1> {
        let targets = Targets::Mixed(labels.to_vec()).distributions(z.dims()[1], 0.0, &z.device());
        config.loss(z.clone(), labels, soft_cross_entropy(z, targets))
    }

    fn tensor(z: &[f64]) -> Tensor<2> {
        let z: Vec<f32> = z.iter().map(|&z| z as f32).collect();
        let rows = z.len() / CLASSES;
        Tensor::from_data(TensorData::new(z, [rows, CLASSES]), &Device::flex().autodiff()).require_grad()
    }

    fn value(x: Tensor<1>) -> f64 {
        f64::from(x.into_scalar::<f32>())
    }

    fn configs() -> Vec<DecoupledMixup> {
        let all = [(0.1, 0.0, 1.0), (1.0, 1.0, 1.0), (0.5, 0.5, 0.8)];
        let with = |mode| all.map(|(eta, t, xi)| DecoupledMixup { eta, t, xi, mode, head: Head::Softmax });
        [with(Mode::Both), with(Mode::Less), with(Mode::More)].concat()
    }

    #[test]
    fn the_loss_and_its_slope_are_those_of_the_definition() {
        let (z, labels) = (logits(), labels());
        for config in configs() {
            let x = tensor(&z);
            let found = loss(&config, x.clone(), &labels);
            assert!((value(found.clone()) - oracle(&config, &z, &labels)).abs() < 1e-6, "{config:?}");
            let gradient: Vec<f64> = x.grad(&found.backward()).unwrap().into_data().iter::<f64>().collect();
            for (i, gradient) in gradient.iter().enumerate() {
                let at = |step: f64| {
                    let mut z = z.clone();
                    z[i] += step;
                    oracle(&config, &z, &labels)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - gradient).abs() < 1e-6, "{config:?} {i}: {slope} {gradient}");
            }
        }
    }

    #[test]
    fn without_weight_it_is_the_usual_loss_and_with_two_classes_the_terms_vanish() {
        let (z, labels) = (logits(), labels());
        let none = DecoupledMixup { eta: 0.0, ..DecoupledMixup::default() };
        let targets = Targets::Mixed(labels.clone()).distributions(CLASSES, 0.0, &Device::flex().autodiff());
        let usual = value(soft_cross_entropy(tensor(&z), targets));
        assert_eq!(value(loss(&none, tensor(&z), &labels)), usual);
        assert!(value(loss(&DecoupledMixup::default(), tensor(&z), &labels)) > usual + 1e-2);
        let two = Tensor::<2>::from_floats([[3.0, -1.0]], &Device::flex());
        let label = [MixedLabel { a: 0, b: 1, lambda: 0.3 }];
        let term = DecoupledMixup::default().decoupled(two, &label);
        assert!(value(term).abs() < 1e-6);
    }

    #[test]
    fn a_decoupled_term_pulls_nothing_at_the_partner() {
        let x = tensor(&logits()[..CLASSES]);
        let config = DecoupledMixup { eta: 1.0, mode: Mode::More, ..DecoupledMixup::default() };
        let term = config.decoupled(x.clone(), &labels()[..1]);
        let gradient: Vec<f32> = x.grad(&term.backward()).unwrap().into_data().iter::<f32>().collect();
        assert_eq!(gradient[3], 0.0, "the partner of class 0 is class 3");
        assert!(gradient[0] < -1e-3 && gradient[1] > 1e-4, "{gradient:?}");
    }

    #[test]
    fn decoupled_probabilities_are_shares_without_the_partner() {
        // q_a (1 - s_b) = s_a.
        let z = &logits()[..CLASSES];
        let total: f64 = z.iter().map(|z| z.exp()).sum();
        let share = |c: usize| z[c].exp() / total;
        let config = DecoupledMixup { eta: 1.0, mode: Mode::More, ..DecoupledMixup::default() };
        let q = (-value(config.decoupled(tensor(z), &labels()[..1]))).exp();
        assert!((q * (1.0 - share(3)) - share(0)).abs() < 1e-6);
    }

    #[test]
    fn neither_the_order_of_the_classes_nor_that_of_the_images_matters() {
        for config in configs() {
            let (z, labels) = (logits(), labels());
            let here = value(loss(&config, tensor(&z), &labels));
            let swapped: Vec<MixedLabel> =
                labels.iter().map(|l| MixedLabel { a: l.b, b: l.a, lambda: 1.0 - l.lambda }).collect();
            // At one half, "the smaller share" is a matter of the order; all others must not change.
            let others = [0, 1, 3, 4];
            let pick = |of: &[MixedLabel]| others.map(|i| of[i]).to_vec();
            let rows: Vec<f64> =
                others.iter().flat_map(|&i| z[i * CLASSES..(i + 1) * CLASSES].to_vec()).collect();
            let (one, other) =
                (loss(&config, tensor(&rows), &pick(&labels)), loss(&config, tensor(&rows), &pick(&swapped)));
            assert!((value(one) - value(other)).abs() < 1e-6, "{config:?}");
            let reversed: Vec<f64> = z.chunks(CLASSES).rev().flatten().copied().collect();
            let back: Vec<MixedLabel> = labels.iter().rev().copied().collect();
            assert!((value(loss(&config, tensor(&reversed), &back)) - here).abs() < 1e-6);
            // The released code's mistake: weights in the order of the class indices.
            if config.t > 0.0 && config.mode == Mode::Both {
                let wrong: Vec<MixedLabel> = labels
                    .iter()
                    .map(|l| MixedLabel { lambda: if l.a < l.b { l.lambda } else { 1.0 - l.lambda }, ..*l })
                    .collect();
                assert!((value(loss(&config, tensor(&z), &wrong)) - here).abs() > 1e-3, "it would be seen");
            }
        }
    }

    #[test]
    fn sigmoids_get_raised_targets() {
        let config = DecoupledMixup { head: Head::Sigmoid, t: 1.0, xi: 0.8, ..DecoupledMixup::default() };
        let (z, labels) = (logits(), labels());
        let expected = z.chunks(CLASSES).zip(&labels).map(|(row, l)| {
            let target = |c: usize| match () {
                // Of one class, or nearly of one image, the first.
                () if l.a == l.b || l.lambda > 0.999 => f64::from(u8::from(c == l.a)),
                () if c == l.a => (l.lambda / 0.8).min(1.0),
                () if c == l.b => ((1.0 - l.lambda) / 0.8).min(1.0),
                () => 0.0,
            };
            let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
            let bce =
                |(c, &z): (usize, &f64)| -target(c) * sigmoid(z).ln() - (1.0 - target(c)) * sigmoid(-z).ln();
            row.iter().enumerate().map(bce).sum::<f64>()
        });
        let expected = expected.sum::<f64>() / labels.len() as f64;
        assert!((value(loss(&config, tensor(&z), &labels)) - expected).abs() < 1e-5);
    }

    #[test]
    fn sigmoids_do_not_ask_for_a_class_that_is_not_in_the_picture() {
        let z = &logits()[..CLASSES];
        let of = |config: &DecoupledMixup, a, b, lambda| {
            value(loss(config, tensor(z), &[MixedLabel { a, b, lambda }]))
        };
        let proportional = DecoupledMixup::of(Head::Sigmoid);
        let constant = DecoupledMixup { t: 0.0, ..proportional };
        for config in [proportional, constant] {
            let alone = of(&config, 3, 3, 1.0);
            assert_eq!([of(&config, 3, 2, 0.9995), of(&config, 2, 3, 0.0005)], [alone; 2], "{config:?}");
            assert!((of(&config, 3, 2, 0.5) - alone).abs() > 1e-2, "control: an even mixture asks for both");
        }
        // Of little more the constant target asks in full, the default hardly.
        let alone = of(&proportional, 3, 3, 1.0);
        assert!((of(&proportional, 3, 2, 0.998) - alone).abs() < 1e-2);
        assert!((of(&constant, 3, 2, 0.998) - alone).abs() > 1e-1, "control");
    }

    #[test]
    fn what_a_recipe_leaves_out_is_that_of_its_head() {
        let read = |text: &str| serde_json::from_str::<DecoupledMixup>(text);
        assert_eq!(
            read("{}").unwrap(),
            DecoupledMixup { eta: 0.1, t: 0.0, xi: 1.0, ..DecoupledMixup::default() }
        );
        let sigmoid = read(r#"{"head": "sigmoid"}"#).unwrap();
        assert_eq!((sigmoid, sigmoid.t, sigmoid.xi), (DecoupledMixup::of(Head::Sigmoid), 1.0, 0.8));
        let given = read(r#"{"head": "sigmoid", "t": 0.0, "xi": 1.0}"#).unwrap();
        assert_eq!((given.t, given.xi), (0.0, 1.0), "control: what is given stays");
        assert_eq!(read(&serde_json::to_string(&given).unwrap()).unwrap(), given);
        assert!(read(r#"{"tea": 0.0}"#).is_err());
    }
}
