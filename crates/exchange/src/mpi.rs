//! Ranks as processes, over a system MPI library.
//!
//! Sums do not use the library's all-reduce, whose order of additions depends on its algorithm: every rank sends each
//! part of its buffer to the owner of the part, owners add in the order of the ranks, and the sums are gathered.
//!
//! Each call begins with sixteen bytes from everyone (which call, how long), so that ranks at different calls get an
//! error and not garbage. These bytes are not payload and not counted.
//!
//! # When a rank dies
//!
//! MPI cannot go on without a rank. A process that is killed or exits without a word is noticed by `mpirun`, which ends
//! all others and names the rank and its signal or exit code. A rank that fails in the program (it returns an error or
//! panics, so that its [`Mpi`] is dropped without [`Mpi::finish`]) says so on stderr and aborts the group, where the
//! others would otherwise wait for ever. Either way `mpirun` returns a code other than 0.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mpi::Count;
use mpi::Threading;
use mpi::datatype::{Equivalence, Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::{CommunicatorCollectives, Root};

use crate::communicator::{Communicator, all_reduce_bytes, owned_range};
use crate::error::{Error, Result};

/// This process as a rank of all that `mpirun` has started. One for each process.
pub struct Mpi {
    /// `None` once finished. Calls may come from any thread, one at a time.
    universe: Mutex<Option<Universe>>,
    rank: usize,
    size: usize,
    sent: AtomicU64,
}

/// The collective calls, as they are announced.
#[derive(Clone, Copy)]
enum Call {
    Sum,
    Gather,
    Scatter,
    Broadcast,
    Finish,
}

const NAMES: [&str; 5] = ["all-reduce", "all-gather", "all-to-all", "broadcast", "finish"];

impl Mpi {
    /// Joins the group.
    ///
    /// # Errors
    /// MPI is in use already, or does not allow calls from several threads in turn.
    pub fn join() -> Result<Self> {
        let transport = |problem: &str| Error::Transport { what: "mpi", problem: problem.to_string() };
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| transport("already joined\nhint: a process joins once; pass the group on"))?;
        if threading < Threading::Serialized {
            return Err(transport(
                "no calls from several threads\nhint: use an MPI library built with threads",
            ));
        }
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Ok(Self { universe: Mutex::new(Some(universe)), rank, size, sent: AtomicU64::new(0) })
    }

    /// Leaves the group together with all other ranks. A rank that is dropped instead aborts the group.
    ///
    /// # Errors
    /// Another rank is still at another call.
    pub fn finish(self) -> Result<()> {
        self.announce(&self.lock(), Call::Finish, 0)?;
        *self.lock() = None;
        Ok(())
    }

    /// The group, for one call.
    fn lock(&self) -> MutexGuard<'_, Option<Universe>> {
        self.universe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all ranks which call comes and how long this rank's part is; their lengths, by rank.
    fn announce(
        &self,
        group: &Option<Universe>,
        call: Call,
        len: usize,
    ) -> Result<(SimpleCommunicator, Vec<usize>)> {
        let left = || Error::Transport { what: "mpi", problem: "the group has been left".to_string() };
        let world = group.as_ref().ok_or_else(left)?.world();
        let mut all = vec![[0u64; 2]; self.size];
        world.all_gather_into(&[call as u64, len as u64], all.as_flattened_mut());
        for (rank, [theirs, _]) in all.iter().enumerate() {
            if *theirs != call as u64 {
                let found = NAMES.get(*theirs as usize).unwrap_or(&"an unknown call").to_string();
                let expected = NAMES[call as usize].to_string();
                return Err(Error::Mismatch { what: "collective call", rank, found, expected });
            }
        }
        Ok((world, all.into_iter().map(|[_, len]| len as usize).collect()))
    }

    fn count(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Lengths and offsets in the type of MPI.
///
/// # Errors
/// More elements in all than it can count.
fn layout(what: &'static str, lens: &[usize]) -> Result<(Vec<Count>, Vec<Count>)> {
    let too_long = || {
        let total: usize = lens.iter().sum();
        let problem =
            format!("{total} elements in one call, at most {}\nhint: exchange fewer at once", Count::MAX);
        Error::Transport { what, problem }
    };
    let (mut counts, mut offsets, mut end) = (Vec::new(), Vec::new(), 0 as Count);
    for &len in lens {
        let len = Count::try_from(len).map_err(|_| too_long())?;
        offsets.push(end);
        counts.push(len);
        end = end.checked_add(len).ok_or_else(too_long)?;
    }
    Ok((counts, offsets))
}

/// `send` is cut into `send_lens` for the ranks; what they send, one after the other, in `receive_lens`.
fn scatter<T: Equivalence + Default + Clone>(
    world: &SimpleCommunicator,
    what: &'static str,
    send: &[T],
    send_lens: &[usize],
    receive_lens: &[usize],
) -> Result<Vec<T>> {
    let (counts, offsets) = layout(what, send_lens)?;
    let (receive_counts, receive_offsets) = layout(what, receive_lens)?;
    let place = [T::default()];
    let mut received = buffer(receive_lens.iter().sum());
    let parts = Partition::new(placed(send, &place), counts, offsets);
    let mut into = PartitionMut::new(&mut received[..], receive_counts, receive_offsets);
    world.all_to_all_varcount_into(&parts, &mut into);
    Ok(received)
}

/// Everyone's `send`, one after the other, in `lens`.
fn gather<T: Equivalence + Default + Clone>(
    world: &SimpleCommunicator,
    what: &'static str,
    send: &[T],
    lens: &[usize],
) -> Result<Vec<T>> {
    let (counts, offsets) = layout(what, lens)?;
    let place = [T::default()];
    let mut received = buffer(lens.iter().sum());
    let mut into = PartitionMut::new(&mut received[..], counts, offsets);
    world.all_gather_varcount_into(placed(send, &place), &mut into);
    Ok(received)
}

/// `slice`, or an empty slice that has a place in memory. An empty slice of bytes may have the address 1, which some
/// libraries take for `MPI_IN_PLACE`.
fn placed<'a, T>(slice: &'a [T], place: &'a [T; 1]) -> &'a [T] {
    if slice.is_empty() { &place[..0] } else { slice }
}

/// `len` zeros that have a place in memory even if there are none.
fn buffer<T: Default + Clone>(len: usize) -> Vec<T> {
    let mut buffer = Vec::with_capacity(len.max(1));
    buffer.resize(len, T::default());
    buffer
}

/// Pieces of `lens` of what was received.
fn split(mut bytes: &[u8], lens: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::with_capacity(lens.len());
    for &len in lens {
        let (piece, rest) = bytes.split_at(len);
        pieces.push(piece.to_vec());
        bytes = rest;
    }
    pieces
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<()> {
        let group = self.lock();
        let (world, lens) = self.announce(&group, Call::Sum, values.len())?;
        if let Some(rank) = lens.iter().position(|&len| len != values.len()) {
            let words = |len: usize| format!("all-reduce of {len} numbers");
            let (found, expected) = (words(lens[rank]), words(values.len()));
            return Err(Error::Mismatch { what: "collective call", rank, found, expected });
        }
        let parts: Vec<usize> =
            (0..self.size).map(|r| owned_range(values.len(), r, self.size).len()).collect();
        let own = parts[self.rank];
        let received = scatter(&world, "all-reduce", values, &parts, &vec![own; self.size])?;
        let mut sum = received[..own].to_vec();
        for rank in 1..self.size {
            sum.iter_mut().zip(&received[rank * own..]).for_each(|(sum, value)| *sum += value);
        }
        values.copy_from_slice(&gather(&world, "all-reduce", &sum, &parts)?);
        self.count(all_reduce_bytes(values.len(), self.rank, self.size));
        Ok(())
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let group = self.lock();
        let (world, lens) = self.announce(&group, Call::Gather, bytes.len())?;
        let all = gather(&world, "all-gather", bytes, &lens)?;
        self.count((self.size as u64 - 1) * bytes.len() as u64);
        Ok(split(&all, &lens))
    }

    fn all_to_all(&self, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        if parts.len() != self.size {
            return Err(Error::setting("all to all: parts", parts.len(), "one for each rank"));
        }
        let group = self.lock();
        let (world, _) = self.announce(&group, Call::Scatter, 0)?;
        let lens: Vec<usize> = parts.iter().map(Vec::len).collect();
        let announced: Vec<u64> = lens.iter().map(|&len| len as u64).collect();
        let mut theirs = vec![0u64; self.size];
        world.all_to_all_into(&announced[..], &mut theirs[..]);
        let theirs: Vec<usize> = theirs.into_iter().map(|len| len as usize).collect();
        let received = scatter(&world, "all-to-all", &parts.concat(), &lens, &theirs)?;
        self.count(
            lens.iter().enumerate().filter(|(r, _)| *r != self.rank).map(|(_, &len)| len as u64).sum(),
        );
        Ok(split(&received, &theirs))
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let group = self.lock();
        let (world, lens) = self.announce(&group, Call::Broadcast, bytes.len())?;
        layout("broadcast", &lens[..1])?;
        bytes.resize(lens[0], 0);
        // All know that there is nothing; see `placed`.
        if !bytes.is_empty() {
            world.process_at_rank(0).broadcast_into(&mut bytes[..]);
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

impl Drop for Mpi {
    fn drop(&mut self) {
        let universe = self.lock().take();
        if let Some(universe) = universe.filter(|_| self.size > 1) {
            // The last words of a process that is about to be aborted: nobody is left to return an error to.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("error: rank {} has left the group before its end; all ranks are ended", self.rank);
            }
            universe.world().abort(1);
        }
    }
}
