//! Sampling from a language model, one token at a time; many texts at once where nobody reads along.

mod own;

use burn::tensor::{Device, Int, Tensor, TensorData};
use trimtab_math::random::Stream;
use trimtab_nn::kernels::awake;
use trimtab_nn::{Ctx, Error, Flow, KvCache, Network, Result, host};

pub use own::OwnText;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Only the `k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 keeps all.
    pub top_p: f64,
    /// Seed of the choice.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 0, top_p: 0.95, seed: 0 }
    }
}

/// A text in the making: the model, its cache, and what was said so far.
pub struct Generation<'n> {
    network: &'n Network,
    /// The first stage of the decoder, and what its encoder made of what it read.
    read: Option<(usize, Flow)>,
    cache: KvCache,
    sampling: Sampling,
    drawn: u64,
}

impl<'n> Generation<'n> {
    /// Starts with an empty cache.
    pub fn new(network: &'n Network, sampling: Sampling) -> Self {
        Self { network, read: None, cache: KvCache::new(), sampling, drawn: 0 }
    }

    /// Lets the encoder of a network of two parts read `tokens` (at least one); `decoder` is the first stage of the other part.
    /// What is fed from then on goes to the decoder.
    ///
    /// # Errors
    /// A network of another kind.
    pub fn reading(network: &'n Network, decoder: usize, tokens: &[u32], sampling: Sampling) -> Result<Self> {
        // The encoder has no use for what the decoder will read.
        let both = Flow::both(Flow::Tokens(ids(tokens)), Flow::Tokens(ids(&tokens[..1])));
        let read = awake(|| network.forward_range(0, decoder, both, &mut Ctx::default()))?;
        let (memory, _) = read.pair("encoder")?;
        Ok(Self { read: Some((decoder, memory)), ..Self::new(network, sampling) })
    }

    /// Positions that the cache holds.
    pub fn position(&self) -> usize {
        self.cache.len()
    }

    /// Feeds `tokens` (at least one) and chooses the next.
    pub fn next(&mut self, tokens: &[u32]) -> Result<u32> {
        let logits = self.feed(tokens)?;
        let mut stream = Stream::new(self.sampling.seed, "generate", self.drawn, 0);
        self.drawn += 1;
        Ok(choose(&logits, &self.sampling, stream.uniform()))
    }

    /// Feeds `tokens` and returns the logits after the last.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        awake(|| self.feed_here(tokens))
    }

    fn feed_here(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let fed = Flow::Tokens(ids(tokens));
        let (first, fed) = match &self.read {
            Some((decoder, memory)) => (*decoder, Flow::both(memory.clone(), fed)),
            None => (0, fed),
        };
        logits(self.network, first, fed, &mut self.cache, tokens.len())
    }
}

/// The logits after the last of `n` tokens of each row, `[B, V]`, row by row; `fed` enters at stage `first`.
fn logits(network: &Network, first: usize, fed: Flow, cache: &mut KvCache, n: usize) -> Result<Vec<f32>> {
    let features = network.features();
    let both = matches!(fed, Flow::Pair(_));
    let mut ctx = Ctx { cache: Some(&mut *cache), ..Ctx::default() };
    let last = last_position(network.forward_range(first, features, fed, &mut ctx)?)?;
    let logits = network.forward_from(features, last, &mut ctx)?;
    cache.advance(n);
    let logits = match logits {
        Flow::Pair(pair) if both => pair.1,
        other => other,
    };
    match logits {
        Flow::Hidden(x) => Ok(host(x)),
        other => Err(Error::Flow { stage: "sampling".into(), expected: "logits", found: other.kind() }),
    }
}

fn ids(tokens: &[u32]) -> Tensor<2, Int> {
    let ids: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_data(TensorData::new(ids, [1, tokens.len()]), &Device::flex())
}

/// Only the last position is read out: the head is the widest map of a small model.
fn last_position(flow: Flow) -> Result<Flow> {
    match flow {
        Flow::Pair(both) => Ok(Flow::both(both.0, last_position(both.1)?)),
        flow => {
            let hidden = flow.hidden("head")?;
            let [b, t, width] = hidden.dims();
            Ok(Flow::Hidden(hidden.slice([0..b, t - 1..t, 0..width])))
        }
    }
}

/// Chooses a token; `draw` is uniform in `[0, 1)`.
fn choose(logits: &[f32], sampling: &Sampling, draw: f64) -> u32 {
    // Equal logits go by index.
    if sampling.temperature <= 0.0 || logits.is_empty() {
        let larger = |best: usize, id: usize| if logits[id] > logits[best] { id } else { best };
        return (0..logits.len()).fold(0, larger) as u32;
    }
    // Where nothing is cut, the order does not matter, and a large vocabulary takes long to sort.
    if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        return draw_in_order(logits, sampling.temperature, draw);
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let best = f64::from(logits[order[0]]);
    let weight = |id: usize| ((f64::from(logits[id]) - best) / sampling.temperature).exp();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut kept = 0.0;
    let nucleus = order.iter().position(|&id| {
        kept += weight(id);
        kept >= sampling.top_p * total
    });
    order.truncate(nucleus.map_or(order.len(), |last| last + 1));
    let mut rest = draw * order.iter().map(|&id| weight(id)).sum::<f64>();
    for &id in &order {
        rest -= weight(id);
        if rest < 0.0 {
            return id as u32;
        }
    }
    order.last().map_or(0, |&id| id as u32)
}

/// The token at which the softmax, summed in the order of the vocabulary, passes `draw`.
fn draw_in_order(logits: &[f32], temperature: f64, draw: f64) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |z: f32| (f64::from(z - best) / temperature).exp();
    let mut rest = draw * logits.iter().map(|&z| weight(z)).sum::<f64>();
    let mut last = 0;
    for (id, weight) in logits.iter().map(|&z| weight(z)).enumerate().filter(|(_, weight)| *weight > 0.0) {
        rest -= weight;
        last = id;
        if rest < 0.0 {
            break;
        }
    }
    last as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, 2.0];

    fn counts(sampling: Sampling) -> [usize; 4] {
        let mut counts = [0; 4];
        (0..1000).for_each(|i| counts[choose(&LOGITS, &sampling, i as f64 / 1000.0) as usize] += 1);
        counts
    }

    #[test]
    fn greedy_takes_the_lower_index_on_ties() {
        assert_eq!(counts(Sampling { temperature: 0.0, ..Sampling::default() }), [0, 1000, 0, 0]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let all = Sampling { temperature: 1.0, top_p: 1.0, ..Sampling::default() };
        let total: f64 = LOGITS.iter().map(|&z| f64::from(z).exp()).sum();
        for (count, z) in counts(all).into_iter().zip(LOGITS) {
            assert!((count as f64 / 1000.0 - f64::from(z).exp() / total).abs() < 2e-3);
        }
    }

    #[test]
    fn cuts_remove_the_tail() {
        let two = Sampling { temperature: 1.0, top_k: 2, top_p: 1.0, ..Sampling::default() };
        assert_eq!(counts(two), [0, 500, 0, 500]);
        let nucleus = Sampling { temperature: 1.0, top_k: 0, top_p: 0.79, ..Sampling::default() };
        assert_eq!(counts(nucleus), [0, 500, 0, 500], "two tokens hold 0.797 of the mass");
        let wider = Sampling { top_p: 0.81, ..nucleus };
        assert!(counts(wider)[2] > 0, "the third is needed to pass 0.81");
    }
}
