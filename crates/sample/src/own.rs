//! Texts that a model writes by itself, many at once: calibration data where there are none.
//!
//! Source: the idea is that of LLM-QAT (Liu et al., arXiv:2305.17888): what a language model says has the distribution that it was
//! trained on, as far as it has learned it. Here whole texts are drawn at temperature 1, so that frequent and rare continuations come
//! as often as the model thinks they do; the paper takes the likeliest token at the first places.

use burn::tensor::{Int, Tensor};
use trimtab_math::random::Stream;
use trimtab_nn::kernels::awake;
use trimtab_nn::{Flow, KvCache, Network, Result};

use crate::{Sampling, choose, ids, logits};

/// Texts that are written at the same time: each step reads the weights once for all of them.
const AT_ONCE: usize = 32;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwnText {
    /// Texts.
    pub texts: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// The token that a text begins with; without one, a token of the vocabulary that is drawn for each text.
    pub start: Option<u32>,
    /// The token that ends a text: what follows it begins anew with `start`, in the same row.
    pub end: Option<u32>,
    /// Tokens that may be drawn: what the tokenizer knows, where the table of the model is larger.
    pub vocab: usize,
    /// How tokens are chosen. Cuts make a text less varied than what the model was trained on.
    pub sampling: Sampling,
}

impl OwnText {
    /// As many texts of so many tokens at temperature 1, without cuts.
    pub fn new(texts: usize, tokens: usize, vocab: usize, seed: u64) -> Self {
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed };
        Self { texts, tokens, start: None, end: None, vocab, sampling }
    }

    /// Lets `network`, a language model of one part, write. A text depends on the seed and on its number, not on how many others
    /// there are. `go_on` hears how many of all tokens are written; `None` if it says no.
    ///
    /// # Errors
    /// A network that gives no logits for tokens.
    pub fn write(
        &self,
        network: &Network,
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Vec<Vec<u32>>>> {
        let all: Vec<usize> = (0..self.texts).collect();
        let mut written = Vec::with_capacity(self.texts);
        for numbers in all.chunks(AT_ONCE) {
            let mut texts: Vec<Vec<u32>> = numbers.iter().map(|&number| self.begin(number)).collect();
            let mut cache = KvCache::new();
            for length in 1..self.tokens {
                let last: Vec<u32> = texts.iter().filter_map(|text| text.last().copied()).collect();
                let found = awake(|| logits(network, 0, Flow::Tokens(column(&last)), &mut cache, 1))?;
                let width = found.len() / last.len().max(1);
                for ((text, row), &number) in texts.iter_mut().zip(found.chunks(width.max(1))).zip(numbers) {
                    text.push(self.next(text, &row[..width.min(self.vocab)], number));
                }
                let done = written.len() * self.tokens + texts.len() * (length + 1);
                if !go_on(done, self.texts * self.tokens) {
                    return Ok(None);
                }
            }
            written.extend(texts);
        }
        Ok(Some(written))
    }

    fn begin(&self, number: usize) -> Vec<u32> {
        let mut stream = Stream::new(self.sampling.seed, "own text/start", number as u64, 0);
        let first = self.start.unwrap_or_else(|| stream.below(self.vocab.max(1)) as u32);
        if self.tokens > 0 { vec![first] } else { Vec::new() }
    }

    fn next(&self, text: &[u32], logits: &[f32], number: usize) -> u32 {
        if let (Some(start), true) = (self.start, self.end.is_some() && text.last().copied() == self.end)
            && self.start != self.end
        {
            return start;
        }
        let mut stream = Stream::new(self.sampling.seed, "own text", number as u64, text.len() as u64);
        choose(logits, &self.sampling, stream.uniform())
    }
}

/// One token a row, `[B, 1]`.
fn column(tokens: &[u32]) -> Tensor<2, Int> {
    ids(tokens).reshape([tokens.len(), 1])
}
