//! Rows as a model takes them: for two stacks or for one, one example or several packed with segment ids.
//!
//! Fields are named as the collators of Hugging Face name theirs. Segments count from 1, padding is segment 0; a token sees
//! only its own segment, so that a sentinel may come back in the next one.

use super::error::{Error, Result};
use super::render::Example;
use super::vocabulary::Vocabulary;

/// The label of a place without loss.
pub const IGNORED: i64 = -100;

/// A row for an encoder and a decoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwoStacks {
    /// Encoder inputs, `[S]`.
    pub input_ids: Vec<u32>,
    /// 1 where the encoder has a token, `[S]`.
    pub attention_mask: Vec<u8>,
    /// Example of each encoder place, `[S]`.
    pub segment_ids: Vec<u32>,
    /// Targets, `[T]`; [`IGNORED`] at padding.
    pub labels: Vec<i64>,
    /// Decoder inputs, `[T]`: the labels of a segment one place later, after the padding token.
    pub decoder_input_ids: Vec<u32>,
    /// Example of each decoder place, `[T]`; a decoder place sees encoder places of its own example.
    pub decoder_segment_ids: Vec<u32>,
}

impl TwoStacks {
    /// Examples in rows of `inputs` and `targets` places, each in the first row that has room.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn pack(
        examples: &[Example],
        inputs: usize,
        targets: usize,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Self>> {
        let mut rows: Vec<Self> = Vec::new();
        for (number, example) in examples.iter().enumerate() {
            check_room(number, "inputs", example.inputs.len(), inputs)?;
            check_room(number, "targets", example.targets.len(), targets)?;
            let has_room = |row: &Self| {
                row.input_ids.len() + example.inputs.len() <= inputs
                    && row.labels.len() + example.targets.len() <= targets
            };
            let place = rows.iter().position(has_room).unwrap_or(rows.len());
            if place == rows.len() {
                rows.push(Self::default());
            }
            rows[place].push(example, vocabulary);
        }
        for row in &mut rows {
            row.pad(inputs, targets, vocabulary);
        }
        Ok(rows)
    }

    fn push(&mut self, example: &Example, vocabulary: &Vocabulary) {
        let last = self.segment_ids.last().max(self.decoder_segment_ids.last());
        let segment = last.map_or(1, |last| last + 1);
        self.input_ids.extend_from_slice(&example.inputs);
        self.attention_mask.resize(self.input_ids.len(), 1);
        self.segment_ids.resize(self.input_ids.len(), segment);
        self.labels.extend(example.targets.iter().map(|&id| i64::from(id)));
        let shifted = std::iter::once(vocabulary.padding()).chain(example.targets.iter().copied());
        self.decoder_input_ids.extend(shifted.take(example.targets.len()));
        self.decoder_segment_ids.resize(self.labels.len(), segment);
    }

    fn pad(&mut self, inputs: usize, targets: usize, vocabulary: &Vocabulary) {
        self.input_ids.resize(inputs, vocabulary.padding());
        self.attention_mask.resize(inputs, 0);
        self.segment_ids.resize(inputs, 0);
        self.labels.resize(targets, IGNORED);
        self.decoder_input_ids.resize(targets, vocabulary.padding());
        self.decoder_segment_ids.resize(targets, 0);
    }
}

/// A row for a decoder alone: inputs, then targets, in one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Tokens, `[T]`.
    pub input_ids: Vec<u32>,
    /// A target's id at its own place, [`IGNORED`] elsewhere, `[T]`. Models of Hugging Face shift labels themselves.
    pub labels: Vec<i64>,
    /// Places whose *next* token is a target, `[T]`: where a prediction counts.
    pub loss_mask: Vec<bool>,
    /// Place of each token in its example, `[T]`.
    pub position_ids: Vec<u32>,
    /// Example of each place, `[T]`.
    pub segment_ids: Vec<u32>,
    /// Tokens of each example that are seen from all its places: mode token and inputs. Indexed by segment minus 1.
    pub prefix_lengths: Vec<usize>,
}

impl Sequence {
    /// Examples in rows of `places`, each in the first row that has room.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn pack(examples: &[Example], places: usize, vocabulary: &Vocabulary) -> Result<Vec<Self>> {
        let mut rows: Vec<Self> = Vec::new();
        for (number, example) in examples.iter().enumerate() {
            let length = example.inputs.len() + example.targets.len();
            check_room(number, "inputs and targets", length, places)?;
            let has_room = |row: &Self| row.input_ids.len() + length <= places;
            let place = rows.iter().position(has_room).unwrap_or(rows.len());
            if place == rows.len() {
                rows.push(Self::default());
            }
            rows[place].push(example);
        }
        for row in &mut rows {
            row.pad(places, vocabulary);
        }
        Ok(rows)
    }

    fn push(&mut self, example: &Example) {
        let (inputs, targets) = (&example.inputs, &example.targets);
        self.prefix_lengths.push(inputs.len());
        let end = self.input_ids.len() + inputs.len() + targets.len();
        self.segment_ids.resize(end, self.prefix_lengths.len() as u32);
        self.position_ids.extend(0..(inputs.len() + targets.len()) as u32);
        self.input_ids.extend(inputs.iter().chain(targets));
        self.labels.resize(end - targets.len(), IGNORED);
        self.labels.extend(targets.iter().map(|&id| i64::from(id)));
        // The last input predicts the first target; the last target predicts nothing.
        let length = inputs.len() + targets.len();
        self.loss_mask.extend((1..=length).map(|next| next >= inputs.len() && next < length));
    }

    fn pad(&mut self, places: usize, vocabulary: &Vocabulary) {
        self.input_ids.resize(places, vocabulary.padding());
        self.labels.resize(places, IGNORED);
        self.loss_mask.resize(places, false);
        self.position_ids.resize(places, 0);
        self.segment_ids.resize(places, 0);
    }

    /// Whether place `query` sees place `key`: within its example, what came before, and the whole prefix. Padding and
    /// places outside the row neither see nor are seen.
    pub fn sees(&self, query: usize, key: usize) -> bool {
        let (Some(&segment), Some(&other)) = (self.segment_ids.get(query), self.segment_ids.get(key)) else {
            return false;
        };
        let prefix = segment.checked_sub(1).and_then(|i| self.prefix_lengths.get(i as usize));
        segment == other && prefix.is_some_and(|&p| key <= query || (self.position_ids[key] as usize) < p)
    }

    /// [`Sequence::sees`] for all pairs, row-major `[T, T]`, queries first.
    pub fn mask(&self) -> Vec<bool> {
        let places = self.input_ids.len();
        (0..places * places).map(|i| self.sees(i / places, i % places)).collect()
    }
}

fn check_room(example: usize, what: &'static str, found: usize, row: usize) -> Result<()> {
    if found <= row { Ok(()) } else { Err(Error::TooLong { example, what, found, row }) }
}
