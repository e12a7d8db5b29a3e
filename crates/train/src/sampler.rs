//! Which items a step sees.

use trimtab_math::random::Stream;

/// An item as one pass over the data sees it. What a data set draws for it (a crop, a mask) depends on the pass, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Number of the item.
    pub index: usize,
    /// Number of the pass.
    pub epoch: u64,
}

/// Endless shuffled passes over `n` items: position `p` lies in epoch `p / n`, whose order depends on `(seed, epoch)`
/// alone. A resumed run continues by its position; nothing has to be saved.
#[derive(Clone, Debug)]
pub struct Sampler {
    n: usize,
    seed: u64,
    epoch: Option<u64>,
    order: Vec<usize>,
}

impl Sampler {
    /// Passes over `n` items.
    pub fn new(n: usize, seed: u64) -> Self {
        Self { n, seed, epoch: None, order: Vec::new() }
    }

    /// The items at the positions `from .. from + count`; none if there are no items.
    pub fn take(&mut self, from: u64, count: usize) -> Vec<Item> {
        if self.n == 0 {
            return Vec::new();
        }
        (from..from + count as u64).map(|position| self.at(position)).collect()
    }

    fn at(&mut self, position: u64) -> Item {
        let (epoch, index) = (position / self.n as u64, position % self.n as u64);
        if self.epoch != Some(epoch) {
            self.order = (0..self.n).collect();
            Stream::new(self.seed, "train/shuffle", epoch, 0).shuffle(&mut self.order);
            self.epoch = Some(epoch);
        }
        Item { index: self.order[index as usize], epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation_of_its_own() {
        let mut sampler = Sampler::new(20, 7);
        let (first, second) = (sampler.take(0, 20), sampler.take(20, 20));
        let indices = |items: &[Item]| items.iter().map(|item| item.index).collect::<Vec<_>>();
        assert_ne!(indices(&first), indices(&second));
        for (number, mut epoch) in [first, second].into_iter().enumerate() {
            epoch.sort_unstable();
            let all = (0..20).map(|index| Item { index, epoch: number as u64 });
            assert_eq!(epoch, all.collect::<Vec<_>>());
        }
    }

    #[test]
    fn positions_do_not_depend_on_what_was_drawn_before() {
        let all = Sampler::new(6, 1).take(0, 24);
        assert_eq!(Sampler::new(6, 1).take(10, 8), all[10..18], "straddles an epoch");
        assert_ne!(Sampler::new(6, 2).take(0, 24), all);
        assert!(Sampler::new(0, 1).take(0, 3).is_empty());
    }
}
