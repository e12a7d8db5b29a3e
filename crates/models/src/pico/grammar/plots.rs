//! The plots: each casts a story, lets it happen and tells it.
//!
//! | module | plots turn on |
//! |---|---|
//! | [`lost`] | where a thing or an animal is |
//! | [`owners`] | who has a thing, and whose it is |
//! | [`names`] | who is who |
//! | [`numbers`] | how many, in which order, under which cup |
//! | [`promises`] | what was promised, asked for, wished or agreed |
//! | [`outings`] | who brought what, what grows where, which clue leads on |
//!
//! Names of slots are the same everywhere: `a` is the hero, `b` and `c` are friends, `m` a grown-up of the family, `n` a
//! neighbour, `p` an animal, `x`, `y`, `z` things, `s`, `r`, `u` spots, `w` a destination.

mod lost;
mod names;
mod numbers;
mod outings;
mod owners;
mod promises;

use super::teller::Teller;

/// A plot tells one story from the first sentence to the last.
pub type Plot = fn(&mut Teller);

/// Every plot, equally likely.
pub const PLOTS: [Plot; 20] = [
    lost::moved_while_away,
    lost::tidied_up,
    lost::missing_pet,
    lost::lights_out,
    owners::fair_trade,
    owners::lent_on,
    owners::lost_property,
    names::morning_post,
    names::new_pupil,
    numbers::basket,
    numbers::race,
    numbers::three_cups,
    promises::kept_promise,
    promises::errand,
    promises::birthday,
    promises::secret_word,
    outings::picnic,
    outings::garden,
    outings::treasure_hunt,
    outings::baking_day,
];
