//! An example as inputs and targets with sentinels, and the way back.
//!
//! Source: T5 (Raffel et al., arXiv:1910.10683, figure 2). Kept parts `b`, masked parts `a`, sentinels `s0, s1, ...`:
//!
//! ```text
//! inputs  = mode b1 s0 b2 s1 ... end        S: inputs  = mode prefix
//! targets = s0 a1 s1 a2 ... end             S: targets = suffix end
//! ```

use std::ops::Range;

use super::error::{Error, Result};
use super::mixture::Mode;
use super::vocabulary::Vocabulary;

/// One corrupted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The mode of its denoiser, whether or not it is marked.
    pub mode: Mode,
    /// Tokens of text that were taken.
    pub tokens: usize,
    /// Mode token, what is kept, sentinels and end of sequence.
    pub inputs: Vec<u32>,
    /// What was masked, sentinels and end of sequence.
    pub targets: Vec<u32>,
}

impl Example {
    /// Replaces every span of `text` by a sentinel. `mark` is the mode token, if any.
    ///
    /// # Errors
    /// [`Error::Spans`] unless spans are in order, apart, and leave the first token; [`Error::Sentinels`];
    /// [`Error::SentinelInText`].
    pub fn from_spans(
        text: &[u32],
        spans: &[Range<usize>],
        mode: Mode,
        mark: Option<u32>,
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        refuse_sentinels(text, vocabulary)?;
        let sentinels = vocabulary.sentinels();
        if spans.len() > sentinels.len() {
            return Err(Error::Sentinels { needed: spans.len(), found: sentinels.len() });
        }
        let (mut inputs, mut targets) = (Vec::from_iter(mark), Vec::new());
        let mut kept_from = 0;
        for (span, &sentinel) in spans.iter().zip(sentinels) {
            if span.start <= kept_from || span.is_empty() || span.end > text.len() {
                return Err(Error::Spans { start: span.start, end: span.end, tokens: text.len() });
            }
            inputs.extend_from_slice(&text[kept_from..span.start]);
            inputs.push(sentinel);
            targets.push(sentinel);
            targets.extend_from_slice(&text[span.clone()]);
            kept_from = span.end;
        }
        inputs.extend_from_slice(&text[kept_from..]);
        inputs.push(vocabulary.eos());
        targets.push(vocabulary.eos());
        Ok(Self { mode, tokens: text.len(), inputs, targets })
    }

    /// Splits `text` at `pivot`: a prefix to read and a suffix to write. The inputs do not end, as the text goes on.
    ///
    /// # Errors
    /// [`Error::Spans`] unless both parts have a token; [`Error::SentinelInText`].
    pub fn from_prefix(
        text: &[u32],
        pivot: usize,
        mode: Mode,
        mark: Option<u32>,
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        refuse_sentinels(text, vocabulary)?;
        if pivot == 0 || pivot >= text.len() {
            return Err(Error::Spans { start: pivot, end: text.len(), tokens: text.len() });
        }
        let inputs = mark.into_iter().chain(text[..pivot].iter().copied()).collect();
        let targets = text[pivot..].iter().copied().chain([vocabulary.eos()]).collect();
        Ok(Self { mode, tokens: text.len(), inputs, targets })
    }

    /// The text again. `marked`: the inputs begin with a mode token.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if inputs and targets do not fit each other.
    pub fn restore(&self, marked: bool, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
        let unreadable = |what| Error::Unreadable { what };
        let Some((&end, mut targets)) = self.targets.split_last() else {
            return Err(unreadable("the targets are empty"));
        };
        let mut inputs = self.inputs.get(usize::from(marked)..).ok_or(unreadable("the inputs are empty"))?;
        if end != vocabulary.eos() {
            return Err(unreadable("the targets do not end"));
        }
        if !targets.first().is_some_and(|&id| vocabulary.is_sentinel(id)) {
            return Ok([inputs, targets].concat());
        }
        inputs = match inputs.split_last() {
            Some((&end, rest)) if end == vocabulary.eos() => rest,
            _ => return Err(unreadable("the inputs do not end")),
        };
        let mut order = vocabulary.sentinels().iter();
        let mut text = Vec::with_capacity(self.tokens);
        for &id in inputs {
            if !vocabulary.is_sentinel(id) {
                text.push(id);
                continue;
            }
            if order.next() != Some(&id) || targets.first() != Some(&id) {
                return Err(unreadable("a sentinel is out of order"));
            }
            targets = &targets[1..];
            let length = targets.iter().take_while(|&&id| !vocabulary.is_sentinel(id)).count();
            text.extend_from_slice(&targets[..length]);
            targets = &targets[length..];
        }
        if targets.is_empty() {
            Ok(text)
        } else {
            Err(unreadable("the targets have more spans than the inputs"))
        }
    }
}

fn refuse_sentinels(text: &[u32], vocabulary: &Vocabulary) -> Result<()> {
    match text.iter().position(|&id| vocabulary.is_sentinel(id)) {
        Some(position) => Err(Error::SentinelInText { position, id: text[position] }),
        None => Ok(()),
    }
}
