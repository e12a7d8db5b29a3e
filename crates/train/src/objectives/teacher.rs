//! Texts with what a teacher says after each token, and the loss of a network that is to say the same (INT2.1: Chai et al.,
//! arXiv 2306.08162, whose branches are trained towards the model before quantization).
//!
//! Of each answer the `k` likeliest tokens are kept with their probabilities, and of all others their common probability: the teacher
//! need not be there while the network is trained. The loss is the divergence of these `k + 1` shares, which is at most that of
//! the whole answers, and zero where they agree.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use rayon::prelude::*;
use trimtab_nn::Ctx;

use super::masked::log_sum_exp;
use crate::data::{Dataset, TokenBatch, TokenWindows};
use crate::distil::largest;
use crate::error::{Error, Result};
use crate::objective::{Loss, Objective, Pass, cross_entropy};
use crate::sampler::Item;

/// Least probability of the tokens that are not kept: below it, there is nothing to follow.
const LEAST: f64 = 1e-12;

/// Windows of a text with the likeliest tokens of a teacher after each of theirs.
#[derive(Clone, Debug)]
pub struct TaughtWindows {
    windows: TokenWindows,
    window: usize,
    k: usize,
    /// `[windows, window, k]`: tokens, and the logarithms of their probabilities.
    tokens: Vec<u32>,
    kept: Vec<f32>,
    /// `[windows, window]`: the logarithm of the probability of all others.
    rest: Vec<f32>,
}

impl TaughtWindows {
    /// Asks a teacher about every window, `at_once` of them together. `logits` maps token ids `[B, T]` (on `device`, without gradients) to
    /// logits `[B, T, V]`. `go_on` hears how many of how many windows are done; `None` if it says no.
    ///
    /// # Errors
    /// [`Error::Setting`] for a `k` that keeps nothing or leaves nothing, and what the teacher refuses.
    pub fn of(
        windows: TokenWindows,
        (k, at_once): (usize, usize),
        device: &Device,
        logits: &mut dyn FnMut(Tensor<2, Int>) -> trimtab_nn::Result<Tensor<3>>,
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Self>> {
        let items: Vec<Item> = (0..windows.len()).map(|index| Item { index, epoch: 0 }).collect();
        let (mut tokens, mut kept, mut rest, mut window) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for part in items.chunks(at_once.max(1)) {
            let ids = windows.batch(part, device)?.inputs;
            let found = logits(ids)?;
            let [_, length, vocab] = found.dims();
            if !(1..vocab).contains(&k) {
                let message = format!("must lie between 1 and {}, found {k}", vocab - 1);
                return Err(Error::setting("top_k", message));
            }
            window = length;
            let rows = trimtab_nn::host(found);
            let answers: Vec<Answer> = rows.par_chunks(vocab).map(|row| Answer::of(row, k)).collect();
            for answer in answers {
                tokens.extend(answer.tokens);
                kept.extend(answer.kept);
                rest.push(answer.rest);
            }
            if !go_on(part[part.len() - 1].index + 1, items.len()) {
                return Ok(None);
            }
        }
        Ok(Some(Self { windows, window, k, tokens, kept, rest }))
    }
}

/// What a teacher says after one token.
struct Answer {
    tokens: Vec<u32>,
    kept: Vec<f32>,
    rest: f32,
}

impl Answer {
    fn of(row: &[f32], k: usize) -> Self {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |z: f32| f64::from(z - most).exp();
        let all: f64 = row.iter().map(|&z| weight(z)).sum();
        let tokens = largest(row, k);
        let mut is_kept = vec![false; row.len()];
        tokens.iter().for_each(|&token| is_kept[token] = true);
        let others: f64 = row.iter().zip(&is_kept).filter(|(_, kept)| !**kept).map(|(&z, _)| weight(z)).sum();
        Self {
            kept: tokens.iter().map(|&token| (f64::from(row[token] - most) - all.ln()) as f32).collect(),
            tokens: tokens.into_iter().map(|token| token as u32).collect(),
            rest: (others / all).max(LEAST).ln() as f32,
        }
    }
}

/// Windows and what the teacher says of them.
#[derive(Clone, Debug)]
pub struct TaughtBatch {
    /// The windows, and what follows each of their tokens in the text.
    pub text: TokenBatch,
    /// `[B * T, k]`.
    pub tokens: Tensor<2, Int>,
    /// Logarithms of the probabilities of these, `[B * T, k]`.
    pub kept: Tensor<2>,
    /// That of all others, `[B * T, 1]`.
    pub rest: Tensor<2>,
}

impl Dataset for TaughtWindows {
    type Batch = TaughtBatch;

    fn len(&self) -> usize {
        self.windows.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<TaughtBatch> {
        let (k, window) = (self.k, self.window);
        let of = |item: &Item| item.index * window..(item.index + 1) * window;
        let wide = |item: &Item| item.index * window * k..(item.index + 1) * window * k;
        let tokens: Vec<i64> =
            items.iter().flat_map(|item| self.tokens[wide(item)].iter().map(|&id| i64::from(id))).collect();
        let kept: Vec<f32> = items.iter().flat_map(|item| self.kept[wide(item)].iter().copied()).collect();
        let rest: Vec<f32> = items.iter().flat_map(|item| self.rest[of(item)].iter().copied()).collect();
        let n = rest.len();
        Ok(TaughtBatch {
            text: self.windows.batch(items, device)?,
            tokens: Tensor::from_data(TensorData::new(tokens, [n, k]), device),
            kept: Tensor::from_data(TensorData::new(kept, [n, k]), device),
            rest: Tensor::from_data(TensorData::new(rest, [n, 1]), device),
        })
    }
}

/// `teacher` times the divergence from a teacher, and `text` times the cross-entropy of what really follows. The first field maps a model,
/// token ids and a context to logits `[B, T, V]`.
#[derive(Clone, Copy, Debug)]
pub struct FollowTeacher<F> {
    /// The forward pass.
    pub logits: F,
    /// Weight of the divergence.
    pub teacher: f64,
    /// Weight of the cross-entropy.
    pub text: f64,
}

impl<M, F> Objective<M, TaughtBatch> for FollowTeacher<F>
where
    F: Fn(&M, Tensor<2, Int>, &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<3>>,
{
    fn loss(&self, model: &M, batch: &TaughtBatch, pass: &mut Pass) -> Result<Loss> {
        let logits = (self.logits)(model, batch.text.inputs.clone(), &mut pass.ctx())?;
        let [n, t, v] = logits.dims();
        let mut sum: Option<Tensor<1>> = None;
        if self.teacher != 0.0 {
            let rows = logits.clone().reshape([n * t, v]);
            sum = Some(divergence(rows, batch) * self.teacher);
        }
        if self.text != 0.0 {
            let entropy = cross_entropy(logits, batch.text.targets.clone()) * self.text;
            sum = Some(match sum {
                Some(sum) => sum + entropy,
                None => entropy,
            });
        }
        let mean = sum.ok_or_else(|| Error::setting("loss", "both of its weights are 0"))?;
        Ok(Loss::new(mean, n * t))
    }
}

/// Mean divergence `KL(teacher || network)` over rows of logits `[n, V]`, nats.
fn divergence(logits: Tensor<2>, batch: &TaughtBatch) -> Tensor<1> {
    let (dims, device) = (logits.dims(), logits.device());
    let log_q = activation::log_softmax(logits, 1);
    let ones = Tensor::<2>::ones(batch.tokens.dims(), &device);
    let is_kept =
        Tensor::<2>::zeros(dims, &device).scatter(1, batch.tokens.clone(), ones, IndexingUpdateOp::Add);
    let rest = log_sum_exp(log_q.clone(), is_kept.greater_elem(0.5));
    let kept = log_q.gather(1, batch.tokens.clone());
    let term = |p: &Tensor<2>, q: Tensor<2>| (p.clone().exp() * (p.clone() - q)).sum();
    (term(&batch.kept, kept) + term(&batch.rest, rest)) / dims[0] as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: usize = 7;

    fn windows() -> TokenWindows {
        TokenWindows::new((0..13).map(|i| (i * 5 % V) as u32).collect(), 4, V, "text").unwrap()
    }

    fn taught(k: usize) -> TaughtWindows {
        let mut answers = |ids: Tensor<2, Int>| {
            let [n, t] = ids.dims();
            let values = (0..n * t * V).map(|i| ((i * 7919) % 23) as f32 / 6.0).collect::<Vec<_>>();
            Ok(Tensor::from_data(TensorData::new(values, [n, t, V]), &Device::flex()))
        };
        TaughtWindows::of(windows(), (k, 2), &Device::flex(), &mut answers, &mut |_, _| true)
            .unwrap()
            .unwrap()
    }

    /// The divergence of `k + 1` shares from the definition.
    fn by_hand(teacher: &[f32], student: &[f32], k: usize) -> f64 {
        let softmax = |row: &[f32]| -> Vec<f64> {
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            row.iter().map(|&z| f64::from(z).exp() / sum).collect()
        };
        let (p, q) = (softmax(teacher), softmax(student));
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        let shares = |p: &[f64]| -> Vec<f64> {
            let kept: Vec<f64> = order[..k].iter().map(|&i| p[i]).collect();
            let rest = 1.0 - kept.iter().sum::<f64>();
            kept.into_iter().chain([rest]).collect()
        };
        shares(&p).iter().zip(shares(&q)).map(|(p, q)| p * (p / q).ln()).sum()
    }

    fn student(rows: usize) -> Vec<f32> {
        (0..rows * V).map(|i| ((i * 104_729) % 31) as f32 / 8.0).collect()
    }

    fn loss_of(data: &TaughtWindows, logits: Tensor<3>, teacher: f64, text: f64) -> Tensor<1> {
        let items = [0, 1].map(|index| Item { index, epoch: 0 });
        let batch = data.batch(&items, &logits.device()).unwrap();
        let objective = FollowTeacher {
            logits: |_: &(), _: Tensor<2, Int>, _: &mut Ctx<'_>| Ok(logits.clone()),
            teacher,
            text,
        };
        objective.loss(&(), &batch, &mut Pass::default()).unwrap().mean
    }

    #[test]
    fn the_loss_is_the_divergence_of_the_shares_and_the_whole_one_when_all_are_kept() {
        let (mine, n) = (student(8), 8);
        for k in [1, 3, V - 1] {
            let data = taught(k);
            let logits = Tensor::<3>::from_data(TensorData::new(mine.clone(), [2, 4, V]), &Device::flex());
            let found = f64::from(loss_of(&data, logits, 1.0, 0.0).into_scalar::<f32>());
            let teacher: Vec<f32> = (0..n * V).map(|i| ((i * 7919) % 23) as f32 / 6.0).collect();
            let rows = teacher.chunks(V).zip(mine.chunks(V));
            let expected = rows.map(|(p, q)| by_hand(p, q, k)).sum::<f64>() / n as f64;
            assert!((found - expected).abs() < 1e-5, "{k}: {found} {expected}");
        }
    }

    #[test]
    fn agreement_costs_nothing_and_gradients_are_those_of_differences() {
        let data = taught(3);
        let device = Device::flex().autodiff();
        let teacher: Vec<f32> = (0..8 * V).map(|i| ((i * 7919) % 23) as f32 / 6.0).collect();
        let tensor = |values: &[f32]| {
            Tensor::<3>::from_data(TensorData::new(values.to_vec(), [2, 4, V]), &device).require_grad()
        };
        let same = tensor(&teacher);
        let loss = loss_of(&data, same.clone(), 1.0, 0.0);
        let gradient = trimtab_nn::host(same.grad(&loss.backward()).unwrap());
        assert!(f64::from(loss.into_scalar::<f32>()).abs() < 1e-6);
        assert!(gradient.iter().all(|g| g.abs() < 1e-6), "{gradient:?}");
        for (kl, ce) in [(1.0, 0.0), (1.0, 0.5), (0.0, 1.0)] {
            let mine = student(8);
            let x = tensor(&mine);
            let gradient = trimtab_nn::host(x.grad(&loss_of(&data, x.clone(), kl, ce).backward()).unwrap());
            let at = |i: usize, by: f32| {
                let mut moved = mine.clone();
                moved[i] += by;
                f64::from(loss_of(&data, tensor(&moved), kl, ce).into_scalar::<f32>())
            };
            for i in [0, 5, 17, 40, 55] {
                let expected = (at(i, 0.02) - at(i, -0.02)) / 0.04;
                assert!((f64::from(gradient[i]) - expected).abs() < 2e-4, "{i}: {} {expected}", gradient[i]);
            }
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for k in [0, V] {
            let mut answers = |ids: Tensor<2, Int>| {
                let [n, t] = ids.dims();
                Ok(Tensor::zeros([n, t, V], &Device::flex()))
            };
            let found = TaughtWindows::of(windows(), (k, 2), &Device::flex(), &mut answers, &mut |_, _| true);
            assert!(found.map(drop).unwrap_err().to_string().contains("top_k"));
        }
        let data = taught(2);
        let items = [Item { index: 0, epoch: 0 }];
        let batch = data.batch(&items, &Device::flex()).unwrap();
        let logits =
            |_: &(), _: Tensor<2, Int>, _: &mut Ctx<'_>| Ok(Tensor::zeros([1, 4, V], &Device::flex()));
        let nothing = FollowTeacher { logits, teacher: 0.0, text: 0.0 };
        assert!(nothing.loss(&(), &batch, &mut Pass::default()).is_err());
    }
}
