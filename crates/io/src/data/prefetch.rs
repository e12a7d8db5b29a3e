//! Items made ahead on threads, given out in order.
//!
//! Each worker takes the next number, makes the item and puts it where the consumer looks for it. What comes out depends
//! on the maker alone, never on how many workers there are.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};

struct State<T> {
    /// Number of the item that the next free worker takes.
    next: u64,
    /// Number of the item that the consumer takes next.
    wanted: u64,
    end: u64,
    ready: BTreeMap<u64, Result<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Told of every change of the state.
    changed: Condvar,
    ahead: u64,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Makers run outside the lock, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, make: &impl Fn(u64) -> Result<T>) {
        loop {
            let mut state = self.lock();
            while state.next < state.end && state.next - state.wanted >= self.ahead {
                state = self.wait(state);
            }
            if state.next >= state.end {
                return;
            }
            let number = state.next;
            state.next += 1;
            drop(state);
            let made = catch_unwind(AssertUnwindSafe(|| make(number))).unwrap_or_else(|panic| {
                Err(Error::invalid(format!("item {number}"), format!("panicked: {}", said(&*panic))))
            });
            self.lock().ready.insert(number, made);
            self.changed.notify_all();
        }
    }
}

/// The message of a panic, where it has one.
fn said(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// An iterator over items that threads make ahead.
///
/// The first error ends it. Dropped, it waits for the items in the making and starts no other.
pub struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Makes the items `range` by `make` on `threads` threads; at most `ahead` items are made or in the making beyond those
    /// given out. An item may be a whole batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `threads` or `ahead` is 0; [`Error::Io`] if the system gives no thread.
    pub fn new(
        range: Range<u64>,
        threads: usize,
        ahead: usize,
        make: impl Fn(u64) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        if threads == 0 || ahead == 0 {
            return Err(Error::invalid("prefetch", format!("{threads} threads, {ahead} items ahead")));
        }
        let state = State { next: range.start, wanted: range.start, end: range.end, ready: BTreeMap::new() };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), ahead: ahead as u64 });
        let make = Arc::new(make);
        // Built first, so that workers already started are stopped if one cannot be.
        let mut prefetch = Self { shared, workers: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let (shared, make) = (prefetch.shared.clone(), make.clone());
            let worker = std::thread::Builder::new()
                .name("prefetch".into())
                .spawn(move || shared.work(&*make))
                .map_err(|e| Error::io("start a thread for", std::path::Path::new("prefetch"), e))?;
            prefetch.workers.push(worker);
        }
        Ok(prefetch)
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let mut state = self.shared.lock();
        while state.wanted < state.end {
            let wanted = state.wanted;
            if let Some(item) = state.ready.remove(&wanted) {
                state.wanted += 1;
                if item.is_err() {
                    state.end = state.wanted;
                    state.ready.clear();
                }
                self.shared.changed.notify_all();
                return Some(item);
            }
            state = self.shared.wait(state);
        }
        None
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.lock().end = 0;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // Panics of makers are caught where they happen, so there is nothing to learn here.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crate::data::augment::{Image, Pipeline};

    #[test]
    fn any_number_of_threads_gives_the_same_bytes() {
        let recipe =
            "[[augment]]\nkind = \"random_crop\"\npadding = 2\n[[augment]]\nkind = \"rand_augment\"\n";
        let run = |threads, seed| -> Vec<u32> {
            let pipeline: Pipeline = toml::from_str(recipe).unwrap();
            let make = move |item: u64| {
                // Late items first, so that order is put to the test.
                std::thread::sleep(Duration::from_millis((7 - item % 8) / 2));
                let image = Image::new([3, 6, 6], (0..108).map(|i| (i * 2) as u8).collect())?;
                Ok(pipeline.apply(image, seed, 0, item)?.into_pixels())
            };
            let items = Prefetch::new(3..43, threads, 6, make).unwrap().map(Result::unwrap);
            items.flatten().map(f32::to_bits).collect()
        };
        let one = run(1, 5);
        assert_eq!(one.len(), 40 * 108);
        assert_eq!(run(2, 5), one);
        assert_eq!(run(5, 5), one);
        assert_ne!(run(2, 6), one, "another seed");
    }

    #[test]
    fn errors_and_panics_come_out_in_their_turn() {
        for panics in [false, true] {
            let make = move |item: u64| match item {
                4 if panics => panic!("no item {item}"),
                4 => Err(Error::invalid("item", "no item 4")),
                _ => Ok(item),
            };
            let mut items = Prefetch::new(0..100, 3, 8, make).unwrap();
            for item in 0..4 {
                assert_eq!(items.next().unwrap().unwrap(), item);
            }
            assert!(items.next().unwrap().unwrap_err().to_string().contains("no item 4"));
            assert!(items.next().is_none());
        }
    }

    #[test]
    fn a_dropped_loader_stops_and_never_runs_far_ahead() {
        let made = Arc::new(AtomicU64::new(0));
        let counter = made.clone();
        let make = move |item| Ok((counter.fetch_add(1, Ordering::SeqCst), item));
        let mut items = Prefetch::new(0..u64::MAX, 4, 5, make).unwrap();
        assert_eq!(items.next().unwrap().unwrap().1, 0);
        std::thread::sleep(Duration::from_millis(30));
        assert!(made.load(Ordering::SeqCst) <= 6);
        drop(items);
        assert_eq!(Arc::strong_count(&made), 1, "the maker is gone, and the workers with it");
        assert_eq!(Prefetch::new(5..5, 2, 1, Ok).unwrap().count(), 0);
        assert!(Prefetch::new(0..5, 0, 1, Ok).is_err());
    }
}
