//! A mapped file that is shortened, or whose disk fails, while it is read: a message and an exit instead of a bus error.
//!
//! Reading a page that is not there any more raises `SIGBUS` in the middle of whatever was reading; there is no way back.
//! What is finished is in the journal, so that ending the process loses nothing.

use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Files that can be named at the same time; more stay nameless.
const PLACES: usize = 512;

/// A mapped range and its file. Start 0 is a free place.
struct Place {
    start: AtomicUsize,
    end: AtomicUsize,
    name: AtomicPtr<u8>,
    name_len: AtomicUsize,
}

static MAPPED: [Place; PLACES] = [const {
    Place {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        name: AtomicPtr::new(null_mut()),
        name_len: AtomicUsize::new(0),
    }
}; PLACES];

/// A file in the list; it leaves the list with this value.
pub(crate) struct Registered {
    place: usize,
    // Read by the handler through the pointer in the list.
    _name: Box<[u8]>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        MAPPED[self.place].start.store(0, Ordering::SeqCst);
    }
}

/// Puts a mapped file in the list, if there is a place.
pub(crate) fn register(map: &[u8], path: &Path) -> Option<Registered> {
    let start = map.as_ptr() as usize;
    let mut name: Box<[u8]> = path.display().to_string().into_bytes().into();
    let taken = |place: &Place| {
        place.start.compare_exchange(0, usize::MAX, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    };
    let place = MAPPED.iter().position(taken)?;
    let entry = &MAPPED[place];
    entry.end.store(start + map.len(), Ordering::SeqCst);
    entry.name.store(name.as_mut_ptr(), Ordering::SeqCst);
    entry.name_len.store(name.len(), Ordering::SeqCst);
    // Last: from here on the handler takes it for complete.
    entry.start.store(start, Ordering::SeqCst);
    Some(Registered { place, _name: name })
}

/// From now on the process ends with a message and exit code 2 where it reads a mapped page that is gone. For programs; a
/// library leaves signals alone.
pub fn report_lost_pages() {
    #[cfg(unix)]
    // SAFETY: the action is fully set before it is installed: zeroes are no flags and an empty mask, and the handler makes
    // no calls but those that are allowed in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = lost;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, null_mut());
    }
}

#[cfg(unix)]
extern "C" fn lost(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system passes a valid description to a handler that was installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let holds = |place: &&Place| {
        let start = place.start.load(Ordering::SeqCst);
        // A free place has the end of the range before.
        start != 0 && (start..place.end.load(Ordering::SeqCst)).contains(&address)
    };
    let say = |text: &[u8]| {
        // SAFETY: pointer and length are those of a slice. A message that cannot be written is lost; the code tells.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    };
    let Some(place) = MAPPED.iter().find(holds) else {
        // Not a file of ours: as if nobody had listened. The same access raises the signal again.
        // SAFETY: setting the default action is always allowed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    say(b"error: cannot read ");
    let (name, len) = (place.name.load(Ordering::SeqCst), place.name_len.load(Ordering::SeqCst));
    // SAFETY: the range is being read, so its map is alive, and with it the name: the list lets go of a place before the
    // name is freed.
    say(unsafe { std::slice::from_raw_parts(name, len) });
    say(b": it was shortened, or its disk failed, while it was in use\n\
hint: what was finished is kept; put the file right and run the same command again\n");
    // SAFETY: ends the process without running anything else.
    unsafe { libc::_exit(2) }
}
