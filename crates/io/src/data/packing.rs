//! Documents in windows of one length.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which window a document goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackingOrder {
    /// The last window, or a new one.
    #[default]
    InOrder,
    /// The first window with room for it, or a new one: fewer windows, another order.
    FirstFit,
}

/// One window. The three lists have its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Token ids, then padding.
    pub tokens: Vec<u32>,
    /// Which document of the window a token belongs to, from 1; 0 is padding. A token may attend to its own segment only.
    pub segments: Vec<u32>,
    /// Place of the token in its document's piece, from 0; 0 for padding.
    pub positions: Vec<u32>,
}

impl Packed {
    fn push(&mut self, piece: &[u32]) {
        let segment = self.segments.last().map_or(1, |last| last + 1);
        self.tokens.extend_from_slice(piece);
        self.segments.resize(self.tokens.len(), segment);
        self.positions.extend(0..piece.len() as u32);
    }
}

/// Packs documents into windows of `window` tokens. A document that is longer is cut into pieces, each a segment of its own;
/// an empty one is left out. Free places hold `padding`.
///
/// # Errors
/// [`Error::Invalid`] if `window` is 0 or above `u32::MAX`.
pub fn pack<D: AsRef<[u32]>>(
    documents: &[D],
    window: usize,
    padding: u32,
    order: PackingOrder,
) -> Result<Vec<Packed>> {
    if window == 0 || u32::try_from(window).is_err() {
        return Err(Error::invalid("packing", format!("a window of {window} tokens")));
    }
    let mut windows: Vec<Packed> = Vec::new();
    let mut rooms = Rooms::default();
    for piece in documents.iter().flat_map(|document| document.as_ref().chunks(window)) {
        let fits = |packed: &Packed| window - packed.tokens.len() >= piece.len();
        let place = match order {
            PackingOrder::InOrder => windows.len().checked_sub(1).filter(|&last| fits(&windows[last])),
            PackingOrder::FirstFit => rooms.first(piece.len()),
        };
        let place = place.unwrap_or_else(|| {
            windows.push(Packed::default());
            windows.len() - 1
        });
        windows[place].push(piece);
        rooms.set(place, window - windows[place].tokens.len());
    }
    for packed in &mut windows {
        packed.tokens.resize(window, padding);
        packed.segments.resize(window, 0);
        packed.positions.resize(window, 0);
    }
    Ok(windows)
}

/// Free places of each window under a tree of maxima, so that the first window with room is found in logarithmic time.
#[derive(Default)]
struct Rooms {
    /// A power of two of leaves, or none; node `i` has the children `2i` and `2i + 1`, the root is 1.
    tree: Vec<usize>,
}

impl Rooms {
    fn set(&mut self, place: usize, room: usize) {
        if place >= self.tree.len() / 2 {
            let rooms = self.tree.split_off(self.tree.len() / 2);
            let leaves = (place + 1).next_power_of_two();
            self.tree = vec![0; 2 * leaves];
            self.tree[leaves..leaves + rooms.len()].copy_from_slice(&rooms);
            (1..leaves).rev().for_each(|i| self.tree[i] = self.tree[2 * i].max(self.tree[2 * i + 1]));
        }
        let mut node = self.tree.len() / 2 + place;
        self.tree[node] = room;
        while node > 1 {
            node /= 2;
            self.tree[node] = self.tree[2 * node].max(self.tree[2 * node + 1]);
        }
    }

    /// The first window with `needed` (at least 1) free places.
    fn first(&self, needed: usize) -> Option<usize> {
        let leaves = self.tree.len() / 2;
        if leaves == 0 || self.tree[1] < needed {
            return None;
        }
        let mut node = 1;
        while node < leaves {
            node = if self.tree[2 * node] >= needed { 2 * node } else { 2 * node + 1 };
        }
        Some(node - leaves)
    }
}

/// All documents in a row, `separator` after each where there is one.
pub fn concatenate<D: AsRef<[u32]>>(documents: &[D], separator: Option<u32>) -> Vec<u32> {
    documents.iter().flat_map(|document| document.as_ref().iter().copied().chain(separator)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_math::random::Stream;

    #[test]
    fn segments_and_positions_follow_documents() {
        let documents = [vec![1, 2, 3], vec![], vec![4, 5, 6], vec![7], vec![8, 9, 10, 11, 12]];
        let fit = pack(&documents, 4, 0, PackingOrder::FirstFit).unwrap();
        assert_eq!(fit[0].tokens, [1, 2, 3, 7]);
        assert_eq!(fit[0].segments, [1, 1, 1, 2]);
        assert_eq!(fit[0].positions, [0, 1, 2, 0]);
        assert_eq!((&fit[1].tokens[..], &fit[1].segments[..]), (&[4, 5, 6, 12][..], &[1, 1, 1, 2][..]));
        assert_eq!(fit.len(), 3);
        let ordered = pack(&documents, 4, 0, PackingOrder::InOrder).unwrap();
        assert_eq!(ordered[0].segments, [1, 1, 1, 0]);
        assert_eq!(ordered.len(), 4);
        assert!(pack(&documents, 0, 0, PackingOrder::InOrder).is_err());
    }

    #[test]
    fn the_tree_finds_what_a_search_finds() {
        let mut stream = Stream::new(1, "packing", 0, 0);
        let documents: Vec<Vec<u32>> = (0..300).map(|i| vec![i; stream.below(20)]).collect();
        let packed = pack(&documents, 16, u32::MAX, PackingOrder::FirstFit).unwrap();
        let mut windows: Vec<Vec<u32>> = Vec::new();
        for piece in documents.iter().flat_map(|d| d.chunks(16)) {
            match windows.iter_mut().find(|w| w.len() + piece.len() <= 16) {
                Some(window) => window.extend_from_slice(piece),
                None => windows.push(piece.to_vec()),
            }
        }
        windows.iter_mut().for_each(|w| w.resize(16, u32::MAX));
        assert_eq!(packed.into_iter().map(|p| p.tokens).collect::<Vec<_>>(), windows);
    }

    #[test]
    fn separators_end_documents() {
        let documents: [&[u32]; 3] = [&[1, 2], &[], &[3]];
        assert_eq!(concatenate(&documents, Some(0)), [1, 2, 0, 0, 3, 0]);
        assert_eq!(concatenate(&documents, None), [1, 2, 3]);
    }
}
