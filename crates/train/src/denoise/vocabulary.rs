//! The ids of sentinels, mode tokens, end of sequence and padding: by name from a tokenizer, or as numbers.

use super::error::{Error, Result};
use super::mixture::Mode;

/// Ids of the special tokens. All are distinct, except that padding may be the end of sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    sentinels: Vec<u32>,
    sorted: Vec<u32>,
    modes: Option<[u32; 3]>,
    eos: u32,
    padding: u32,
}

impl Vocabulary {
    /// From ids. `sentinels` are in the order of their use; `modes` are those of [`Mode::ALL`].
    ///
    /// # Errors
    /// [`Error::SharedId`] if two of them are the same; [`Error::Sentinels`] if there is no sentinel.
    pub fn new(sentinels: Vec<u32>, modes: Option<[u32; 3]>, eos: u32, padding: u32) -> Result<Self> {
        if sentinels.is_empty() {
            return Err(Error::Sentinels { needed: 1, found: 0 });
        }
        let mut sorted = sentinels.clone();
        sorted.sort_unstable();
        let mut all: Vec<u32> = sorted.iter().copied().chain(modes.into_iter().flatten()).collect();
        all.push(eos);
        if padding != eos {
            all.push(padding);
        }
        all.sort_unstable();
        match all.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::SharedId { id: pair[0] }),
            None => Ok(Self { sentinels, sorted, modes, eos, padding }),
        }
    }

    /// For models without named tokens, such as byte-level ones: `count` sentinels downwards from `top`, as T5 numbers them.
    ///
    /// # Errors
    /// [`Error::Setting`] if they would go below 0; those of [`Vocabulary::new`].
    pub fn numbered(top: u32, count: u32, modes: Option<[u32; 3]>, eos: u32, padding: u32) -> Result<Self> {
        if u64::from(count) > u64::from(top) + 1 {
            return Err(Error::setting("number of sentinels", count, "at most one more than the top id"));
        }
        Self::new((0..count).map(|i| top - i).collect(), modes, eos, padding)
    }

    /// From a tokenizer: `<extra_id_0>`, `<extra_id_1>`, ... as far as they go. With `with_modes` also `[NLU]`, `[S2S]` and
    /// `[NLG]`, the names of the released checkpoints.
    ///
    /// # Errors
    /// [`Error::MissingToken`]; those of [`Vocabulary::new`], so that a tokenizer which answers every name with its unknown
    /// token is refused.
    pub fn from_names(
        id_of: impl Fn(&str) -> Option<u32>,
        with_modes: bool,
        eos: u32,
        padding: u32,
    ) -> Result<Self> {
        let mut sentinels: Vec<u32> = Vec::new();
        while let Some(id) = id_of(&format!("<extra_id_{}>", sentinels.len())) {
            if sentinels.last() == Some(&id) {
                return Err(Error::SharedId { id });
            }
            sentinels.push(id);
        }
        if sentinels.is_empty() {
            let hint = "use a tokenizer of the T5 family, or give the sentinels as numbers";
            return Err(Error::MissingToken { name: "<extra_id_0>".into(), hint });
        }
        let mode = |mode: Mode| {
            let hint = "add it to the tokenizer, or set mode_tokens = false";
            id_of(mode.token()).ok_or(Error::MissingToken { name: mode.token().into(), hint })
        };
        let [r, s, x] = Mode::ALL.map(mode);
        let modes = if with_modes { Some([r?, s?, x?]) } else { None };
        Self::new(sentinels, modes, eos, padding)
    }

    /// Sentinels in the order of their use.
    pub fn sentinels(&self) -> &[u32] {
        &self.sentinels
    }

    /// Whether an id is a sentinel.
    pub fn is_sentinel(&self, id: u32) -> bool {
        self.sorted.binary_search(&id).is_ok()
    }

    /// The token of a mode, if there are mode tokens.
    pub fn mode(&self, mode: Mode) -> Option<u32> {
        self.modes.map(|ids| ids[mode as usize])
    }

    /// End of sequence.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Padding; also the first input of a T5 decoder.
    pub fn padding(&self) -> u32 {
        self.padding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t5(name: &str) -> Option<u32> {
        match name {
            "[NLU]" => Some(32_100),
            "[S2S]" => Some(32_101),
            "[NLG]" => Some(32_102),
            _ => {
                let number: u32 = name.strip_prefix("<extra_id_")?.strip_suffix('>')?.parse().ok()?;
                (number < 100).then(|| 32_099 - number)
            }
        }
    }

    #[test]
    fn names_and_numbers_agree() {
        let named = Vocabulary::from_names(t5, true, 1, 0).unwrap();
        let modes = Some([32_100, 32_101, 32_102]);
        assert_eq!(named, Vocabulary::numbered(32_099, 100, modes, 1, 0).unwrap());
        assert_eq!((named.sentinels()[0], named.sentinels()[99]), (32_099, 32_000));
        assert!(named.is_sentinel(32_000) && !named.is_sentinel(31_999));
        assert_eq!(named.mode(Mode::X), Some(32_102));
    }

    #[test]
    fn what_is_missing_or_shared_is_named() {
        let plain = |name: &str| t5(name).filter(|_| name != "[S2S]");
        let error = Vocabulary::from_names(plain, true, 1, 0).unwrap_err().to_string();
        assert!(error.contains("[S2S]") && error.contains("mode_tokens"), "{error}");
        assert!(Vocabulary::from_names(plain, false, 1, 0).unwrap().mode(Mode::S).is_none());
        assert!(Vocabulary::from_names(|_| None, false, 1, 0).is_err());
        assert_eq!(Vocabulary::from_names(|_| Some(3), true, 1, 0), Err(Error::SharedId { id: 3 }));
        assert_eq!(Vocabulary::new(vec![5, 4], None, 4, 0), Err(Error::SharedId { id: 4 }));
        assert!(Vocabulary::numbered(2, 4, None, 9, 9).is_err());
        assert!(Vocabulary::numbered(2, 3, None, 9, 9).is_ok());
        assert!(Vocabulary::new(vec![], None, 1, 0).is_err());
    }
}
