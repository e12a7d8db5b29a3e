//! The seeded story grammar behind the embedded model: small English stories whose characters, objects and places must
//! be remembered, so that attention has work to do.
//!
//! A story is told by one of twenty plots. A plot casts characters, things and places from the lexicon, lets
//! events happen in a simulated world, and narrates them through templates. Later sentences depend on earlier
//! ones through the world alone: where the key was left, who has the ball, how many apples remain. Most stories end with
//! a question that the world answers, and with a moral, a wish or bedtime.
//!
//! ```
//! use trimtab_models::pico::grammar::{Split, story};
//!
//! assert_eq!(story(0, Split::Train, 7), story(0, Split::Train, 7));
//! assert_ne!(story(0, Split::Train, 7), story(0, Split::Heldout, 7));
//! ```

#[cfg(test)]
mod check;
mod discourse;
mod lexicon;
mod plots;
mod recall;
mod scenes;
mod slot;
mod teller;
mod template;
#[cfg(test)]
mod tests;
mod world;

use trimtab_math::random::Stream;

use plots::PLOTS;
use teller::{Teller, Telling};

/// Which part of the data a story belongs to. The parts draw from differently named random streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Text to train on.
    Train,
    /// Text to calibrate on.
    Calibration,
    /// Text to judge by.
    Heldout,
}

impl Split {
    /// The purpose of the split's random streams.
    const fn purpose(self) -> &'static str {
        match self {
            Split::Train => "pico/story/train",
            Split::Calibration => "pico/story/calibration",
            Split::Heldout => "pico/story/heldout",
        }
    }
}

/// The story with this index: one paragraph of 80 to 220 words, without a line break.
pub fn story(seed: u64, split: Split, index: u64) -> String {
    tell(seed, split, index).text
}

/// The first `n_stories` stories, separated by blank lines, with a line break at the end.
pub fn text(seed: u64, split: Split, n_stories: u64) -> String {
    let stories: Vec<String> = (0..n_stories).map(|index| story(seed, split, index)).collect();
    if stories.is_empty() { String::new() } else { stories.join("\n\n") + "\n" }
}

fn tell(seed: u64, split: Split, index: u64) -> Telling {
    let mut rng = Stream::new(seed, split.purpose(), 0, index);
    let plot = *rng.choose(&PLOTS);
    let mut teller = Teller::new(rng);
    plot(&mut teller);
    teller.finish()
}
