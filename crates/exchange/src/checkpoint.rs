//! The state of an exchange, saved and loaded bit for bit.

use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::state::{RESIDUAL, State};

const WINDOW: &str = "window/";
const LEVEL: &str = "level/";
/// Norms are `f64`; their bits travel as counters.
const NORM: &str = "norm_bits/";

impl Exchange {
    /// All state of this rank: a run that loads it goes on with the same bits.
    pub fn save(&self) -> State {
        let mut state = State::default();
        state.put_tensors(RESIDUAL, &self.residuals);
        state.put_tensors(WINDOW, &self.window.sums);
        let counters = [
            ("step", self.step),
            ("skipped", self.skipped),
            ("sent_bytes", self.sent_bytes),
            ("window_steps", self.window.n_steps),
        ];
        state.counters.extend(counters.map(|(name, value)| (name.to_string(), value)));
        state.counters.extend(self.levels.iter().map(|(name, &l)| (format!("{LEVEL}{name}"), l as u64)));
        let norms = self.window.norms.iter();
        state.counters.extend(norms.map(|(name, norm)| (format!("{NORM}{name}"), norm.to_bits())));
        if let Some(compressor) = &self.compressor {
            compressor.save(&mut state);
        }
        state
    }

    /// Goes on from `state`, saved under the same settings.
    ///
    /// # Errors
    /// [`Error::State`] for a counter that is missing, a level of zero or a number that is not finite; then nothing is
    /// changed.
    pub fn load(&mut self, state: &State) -> Result<()> {
        if let Some((name, _)) = state.tensors.iter().find(|(_, v)| !v.iter().all(|x| x.is_finite())) {
            let (found, expected) = ("a number that is not finite".to_string(), "finite ones".to_string());
            return Err(Error::State { name: name.clone(), found, expected });
        }
        let mut loaded = Self::new(self.config)?;
        loaded.step = state.counter("step")?;
        loaded.skipped = state.counter("skipped")?;
        loaded.sent_bytes = state.counter("sent_bytes")?;
        loaded.residuals = state.tensors_under(RESIDUAL);
        loaded.window.sums = state.tensors_under(WINDOW);
        loaded.window.n_steps = state.counter("window_steps")?;
        let norms = state.counters_under(NORM).into_iter();
        loaded.window.norms = norms.map(|(name, bits)| (name, f64::from_bits(bits))).collect();
        for (name, level) in state.counters_under(LEVEL) {
            let level = usize::try_from(level).ok().filter(|&level| level > 0);
            let bad = || Error::State {
                name: format!("{LEVEL}{name}"),
                found: "no level".to_string(),
                expected: "at least 1".to_string(),
            };
            loaded.levels.insert(name.clone(), level.ok_or_else(bad)?);
        }
        if let Some(compressor) = &mut loaded.compressor {
            compressor.load(state)?;
        }
        *self = loaded;
        Ok(())
    }
}
