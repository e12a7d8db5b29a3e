//! A byte-level BPE tokenizer, trained on a text (Sennrich et al., arXiv:1508.07909; bytes as in GPT-2).

use std::collections::BTreeSet;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

use crate::error::{Error, Result};

/// The token after each text, and the only special one unless others are asked for.
pub const END_OF_TEXT: &str = "</s>";

/// The token that fills rows up, for networks that start a text with it, as the decoder of T5.
pub const PADDING: &str = "<pad>";

/// Smallest vocabulary: the bytes and the token that ends a text.
const SMALLEST: usize = 257;

/// Trains a tokenizer with `vocab` tokens and returns its `tokenizer.json`. A text may hold [`END_OF_TEXT`]; every other
/// text can be encoded, since all bytes are tokens.
///
/// # Errors
/// [`Error::Io`] if `vocab` is below 257 or the texts do not hold as many different pairs.
pub fn train<S: AsRef<str> + Sync>(texts: &[S], vocab: usize) -> Result<Vec<u8>> {
    train_with(texts, vocab, &[])
}

/// [`train`] with special tokens besides [`END_OF_TEXT`], among the `vocab`; the trainer never makes them of a text.
///
/// # Errors
/// Those of [`train`].
pub fn train_with<S: AsRef<str> + Sync>(texts: &[S], vocab: usize, special: &[String]) -> Result<Vec<u8>> {
    let failed = |message: String| Error::Io(trimtab_io::Error::Tokenizer { action: "train", message });
    if vocab < SMALLEST + special.len() {
        let more = match special.len() {
            0 => String::new(),
            n => format!(" and {n} more special tokens"),
        };
        return Err(failed(format!(
            "a vocabulary of {vocab} has no room for 256 bytes and \"{END_OF_TEXT}\"{more}"
        )));
    }
    let special = std::iter::once(END_OF_TEXT).chain(special.iter().map(String::as_str));
    let special = special.map(|token| AddedToken::from(token, true)).collect();
    let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(alphabet.into_iter().collect())
        .build();
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(bytes.into()))
    .with_decoder(Some(bytes.into()))
    .build()
    .map_err(|e| failed(e.to_string()))?;
    let texts = texts.iter().flat_map(|text| text.as_ref().split(END_OF_TEXT));
    tokenizer.train(&mut trainer, texts).map_err(|e| failed(e.to_string()))?;
    let found = tokenizer.get_vocab_size(true);
    if found != vocab {
        return Err(failed(format!("the text yields a vocabulary of {found}, expected {vocab}")));
    }
    let json = tokenizer.to_string(false).map_err(|e| failed(e.to_string()))?;
    Ok(json.into_bytes())
}

/// The `tokenizer_config.json` beside it, for programs that load tokenizers by class; [`PADDING`] is named as what it is.
pub fn config(positions: usize, special: &[String]) -> serde_json::Value {
    let mut config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": positions,
        "clean_up_tokenization_spaces": false,
    });
    let (padding, others): (Vec<&String>, Vec<&String>) = special.iter().partition(|token| *token == PADDING);
    if !padding.is_empty() {
        config["pad_token"] = PADDING.into();
    }
    if !others.is_empty() {
        config["additional_special_tokens"] = serde_json::json!(others);
    }
    config
}

#[cfg(test)]
mod tests {
    use trimtab_io::Tokenizer;

    use super::*;

    const TEXT: &str =
        "the key was in the kitchen, and the cat was in the garden.\n</s>the cat saw the key.\n</s>";

    #[test]
    fn any_text_comes_back_and_common_words_are_short() {
        let tokenizer = Tokenizer::from_bytes(&train(&[TEXT], 270).unwrap()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 270);
        for text in [TEXT, " två  ∂ \u{1F600}\t\r\n"] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
        let end = tokenizer.token_id(END_OF_TEXT).unwrap();
        let ids = tokenizer.encode(TEXT, false).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == end).count(), 2);
        assert!(tokenizer.encode(" the", false).unwrap().len() < 4, "merges were learned");
    }

    #[test]
    fn the_same_text_gives_the_same_bytes() {
        let parts: Vec<&str> = TEXT.split_inclusive(' ').collect();
        assert_eq!(train(&parts, 265).unwrap(), train(&parts, 265).unwrap());
    }

    #[test]
    fn special_tokens_are_whole_and_take_their_place() {
        let special = ["<extra_id_0>", "[NLU]"].map(String::from);
        let tokenizer = Tokenizer::from_bytes(&train_with(&[TEXT], 270, &special).unwrap()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 270);
        let ids = special.each_ref().map(|name| tokenizer.token_id(name).unwrap());
        assert_eq!(tokenizer.encode("[NLU]<extra_id_0>", false).unwrap(), [ids[1], ids[0]]);
        assert!(
            train_with(&[TEXT], 258, &special).unwrap_err().to_string().contains("2 more special tokens")
        );
    }

    #[test]
    fn impossible_vocabularies_are_refused() {
        assert!(train(&[TEXT], 100).unwrap_err().to_string().contains("256 bytes"));
        assert!(train(&[TEXT], 5000).unwrap_err().to_string().contains("expected 5000"));
    }
}
