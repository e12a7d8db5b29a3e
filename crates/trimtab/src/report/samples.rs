//! Samples before and after: a text continued by the original and by the result; the pairs of sentences whose
//! similarity changed most.

use serde::{Deserialize, Serialize};
use trimtab_eval::pairs::cosine;
use trimtab_models::Model;
use trimtab_nn::{Network, Task};
use trimtab_sample::{Generation, Sampling};

use crate::error::Result;
use crate::judge::{Judge, embed};

/// Beginnings that are continued.
const SAMPLES: usize = 3;
/// Tokens of a beginning, and tokens that are added.
const PROMPT: usize = 24;
const ADDED: usize = 48;

/// A text continued greedily by two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The beginning, from the data that the result was judged on.
    pub prompt: String,
    /// What the original adds.
    pub original: String,
    /// What the result adds.
    pub result: String,
}

impl Sample {
    /// Characters that both continuations begin with, in bytes.
    pub fn common(&self) -> usize {
        let same = self.original.chars().zip(self.result.chars()).take_while(|(a, b)| a == b);
        same.map(|(a, _)| a.len_utf8()).sum()
    }
}

/// Continues a few beginnings of the judge's text; none for models that do not speak.
pub fn samples(model: &Model, judge: &Judge, original: &Network, result: &Network) -> Result<Vec<Sample>> {
    let (Task::Language, Judge::Text { tokens, window, .. }) = (model.task(), judge) else {
        return Ok(Vec::new());
    };
    let length = PROMPT.min(window.saturating_sub(1)).max(1);
    let tokenizer = model.tokenizer()?;
    let mut found = Vec::new();
    // Evenly spread over the text, each at the first beginning of a sentence in a window.
    let windows = tokens.len() / window;
    for i in 0..SAMPLES.min(windows) {
        let mut first = i * windows / SAMPLES * window;
        for at in first..if first == 0 { 0 } else { first + window - length } {
            let piece = tokenizer.decode(&tokens[at..=at], true)?;
            if piece.contains('\n') || piece.trim_end().ends_with(['.', '!', '?']) {
                first = at + 1;
                break;
            }
        }
        let prompt = &tokens[first..first + length];
        let continued = |network: &Network| -> Result<String> {
            Ok(tokenizer.decode(&greedy(network, prompt, ADDED.min(window - length))?, true)?)
        };
        found.push(Sample {
            prompt: tokenizer.decode(prompt, true)?,
            original: continued(original)?,
            result: continued(result)?,
        });
    }
    Ok(found)
}

/// Pairs that are looked at, and pairs that are shown.
const PAIRS: usize = 256;
const SHOWN: usize = 5;

/// Two sentences and how alike both models find them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedPair {
    /// The first sentence.
    pub first: String,
    /// The second sentence.
    pub second: String,
    /// Cosine of their embeddings by the original.
    pub original: f64,
    /// The same by the result.
    pub result: f64,
}

/// The pairs among the first of the judge whose similarity changed most; none for models that do not embed.
pub fn moved_pairs(
    model: &Model,
    judge: &Judge,
    original: &Network,
    result: &Network,
) -> Result<Vec<MovedPair>> {
    let Judge::Pairs { sides, .. } = judge else { return Ok(Vec::new()) };
    let n = sides[0].len().min(PAIRS);
    let texts: Vec<&[u32]> = sides.iter().flat_map(|side| side[..n].iter().map(Vec::as_slice)).collect();
    let alike = |network: &Network| -> Result<Vec<f64>> {
        let found = embed(network, model, &texts, &mut |_| {})?;
        Ok((0..n).map(|i| cosine(&found[i], &found[n + i])).collect())
    };
    let (before, after) = (alike(original)?, alike(result)?);
    let mut order: Vec<usize> = (0..n).collect();
    let moved = |i: usize| (before[i] - after[i]).abs();
    order.sort_by(|&a, &b| moved(b).total_cmp(&moved(a)));
    let tokenizer = model.tokenizer()?;
    let pair = |&i: &usize| {
        Ok(MovedPair {
            first: tokenizer.decode(&sides[0][i], true)?,
            second: tokenizer.decode(&sides[1][i], true)?,
            original: before[i],
            result: after[i],
        })
    };
    order.iter().take(SHOWN).map(pair).collect()
}

fn greedy(network: &Network, prompt: &[u32], tokens: usize) -> Result<Vec<u32>> {
    let mut generation = Generation::new(network, Sampling { temperature: 0.0, ..Sampling::default() });
    let mut said = Vec::with_capacity(tokens);
    if tokens > 0 {
        said.push(generation.next(prompt)?);
    }
    while said.len() < tokens {
        said.push(generation.next(&said[said.len() - 1..])?);
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_beginnings_end_between_characters() {
        let sample =
            |a: &str, b: &str| Sample { prompt: String::new(), original: a.into(), result: b.into() };
        assert_eq!(sample("für dich", "für alle").common(), "für ".len());
        assert_eq!(sample("ü", "ö").common(), 0, "the first bytes are equal, the characters are not");
        assert_eq!(sample("same", "same").common(), 4);
    }
}
