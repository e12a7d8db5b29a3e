//! Ranks as threads of one process.
//!
//! There is one primitive: every rank posts, and the last one to post publishes all posts of the round. A rank cannot
//! post to the next round before it has taken the posts of this one, so a published round is never overwritten too
//! early and needs no second barrier.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::communicator::{Communicator, all_reduce_bytes};
use crate::error::{Error, Result};

/// One rank of a group of threads.
///
/// Move each into the thread that runs it: a rank counts as lost when it is dropped, and a panic drops what its
/// thread owns. All others then end with [`Error::Lost`] at their next call, or in the one they wait in.
///
/// Calls block their thread. Give each rank a thread of its own, outside the pool on which compressors work: a worker
/// that waits in a call would hold up the work that another rank needs to make it.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    size: usize,
    board: Arc<Board>,
    sent: AtomicU64,
}

/// What one rank brings to a collective call.
#[derive(Debug)]
enum Post {
    Sum(Vec<f32>),
    Gather(Vec<u8>),
    Parts(Vec<Vec<u8>>),
    Broadcast(Vec<u8>),
}

impl Post {
    /// The call, and a length that must agree between ranks.
    fn describe(&self) -> (&'static str, usize) {
        match self {
            Post::Sum(values) => ("all-reduce", values.len()),
            Post::Gather(_) => ("all-gather", 0),
            Post::Parts(_) => ("all-to-all", 0),
            Post::Broadcast(_) => ("broadcast", 0),
        }
    }
}

type Round = Arc<Vec<Post>>;

#[derive(Debug)]
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Posts of the round in the making, by rank.
    posts: Vec<Option<Post>>,
    n_posted: usize,
    /// Rounds published so far.
    rounds: u64,
    last: Round,
    lost: Option<usize>,
}

impl Threads {
    /// A group of `n` ranks, by rank; at least one.
    pub fn ranks(n: usize) -> Vec<Threads> {
        let size = n.max(1);
        let posts = (0..size).map(|_| None).collect();
        let state = State { posts, n_posted: 0, rounds: 0, last: Round::default(), lost: None };
        let board = Arc::new(Board { state: Mutex::new(state), changed: Condvar::new() });
        let rank = |rank| Threads { rank, size, board: Arc::clone(&board), sent: AtomicU64::new(0) };
        (0..size).map(rank).collect()
    }

    /// Posts, waits for all ranks, and returns what they posted, all of one kind.
    fn round(&self, post: Post) -> Result<Round> {
        let own = post.describe();
        let mut state = self.board.lock();
        if let Some(rank) = state.lost {
            return Err(Error::Lost { rank });
        }
        let round = state.rounds;
        state.posts[self.rank] = Some(post);
        state.n_posted += 1;
        if state.n_posted == self.size {
            state.last = Arc::new(state.posts.iter_mut().filter_map(Option::take).collect());
            state.n_posted = 0;
            state.rounds += 1;
            self.board.changed.notify_all();
        }
        while state.rounds == round {
            // A complete round is taken even if a rank left right after it.
            if let Some(rank) = state.lost {
                return Err(Error::Lost { rank });
            }
            state = self.board.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let posts = Arc::clone(&state.last);
        drop(state);
        for (rank, post) in posts.iter().enumerate() {
            let theirs = post.describe();
            if theirs != own {
                let words = |(call, len): (&str, usize)| match len {
                    0 => call.to_string(),
                    _ => format!("{call} of {len} numbers"),
                };
                let (found, expected) = (words(theirs), words(own));
                return Err(Error::Mismatch { what: "collective call", rank, found, expected });
            }
        }
        Ok(posts)
    }

    fn count(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Board {
    /// No rank panics while it holds the lock, so a poisoned one still guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.board.lock().lost.get_or_insert(self.rank);
        self.board.changed.notify_all();
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<()> {
        let posts = self.round(Post::Sum(values.to_vec()))?;
        values.fill(0.0);
        for (rank, post) in posts.iter().enumerate() {
            let Post::Sum(theirs) = post else { continue };
            for (sum, &value) in values.iter_mut().zip(theirs) {
                // The first is copied: 0.0 + -0.0 would lose a sign that a group of one keeps.
                *sum = if rank == 0 { value } else { *sum + value };
            }
        }
        self.count(all_reduce_bytes(values.len(), self.rank, self.size));
        Ok(())
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let posts = self.round(Post::Gather(bytes.to_vec()))?;
        self.count((self.size as u64 - 1) * bytes.len() as u64);
        let theirs = |post: &Post| if let Post::Gather(bytes) = post { bytes.clone() } else { Vec::new() };
        Ok(posts.iter().map(theirs).collect())
    }

    fn all_to_all(&self, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        if parts.len() != self.size {
            return Err(Error::setting("all to all: parts", parts.len(), "one for each rank"));
        }
        let others = parts.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
        let sent = others.map(|(_, part)| part.len() as u64).sum();
        let posts = self.round(Post::Parts(parts))?;
        self.count(sent);
        let mine = |post: &Post| match post {
            Post::Parts(parts) => parts[self.rank].clone(),
            _ => Vec::new(),
        };
        Ok(posts.iter().map(mine).collect())
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let own = if self.rank == 0 { std::mem::take(bytes) } else { Vec::new() };
        let posts = self.round(Post::Broadcast(own))?;
        if let Some(Post::Broadcast(first)) = posts.first() {
            bytes.clone_from(first);
        }
        if self.rank == 0 {
            self.count((self.size as u64 - 1) * bytes.len() as u64);
        }
        Ok(())
    }

    fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
