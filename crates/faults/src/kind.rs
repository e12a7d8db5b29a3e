//! The kinds of faults.

use std::str::FromStr;

use trimtab_io::fs::Operation;

/// What happens to the disk, or to the process, at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The disk is full from here on; a write takes half of its bytes first.
    Full,
    /// This one call fails with an input/output error.
    Broken,
    /// The disk can only be read from here on.
    ReadOnly,
    /// A signal interrupts a write before it does anything; the caller is to try again. Of the other calls, the standard
    /// library does so itself.
    Interrupted,
    /// A write takes half of its bytes; the caller is to go on.
    Short,
    /// The process ends at once; a write has taken half of its bytes.
    Kill,
    /// The power fails: the process ends, and whatever was not synced is lost.
    Power,
    /// Ctrl-C is pressed.
    CtrlC,
    /// Ctrl-C is pressed twice.
    CtrlCTwice,
    /// The process waits until the file `paused` in the spare folder is removed.
    Pause,
    /// Nothing: for counting calls.
    None,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "full" => Self::Full,
            "broken" => Self::Broken,
            "read-only" => Self::ReadOnly,
            "interrupted" => Self::Interrupted,
            "short" => Self::Short,
            "kill" => Self::Kill,
            "power" => Self::Power,
            "ctrl-c" => Self::CtrlC,
            "ctrl-c-twice" => Self::CtrlCTwice,
            "pause" => Self::Pause,
            "none" => Self::None,
            other => return Err(format!("TRIMTAB_FAULT: \"{other}\" is no kind of fault")),
        })
    }
}

impl Kind {
    /// Whether calls after the chosen one fail as well.
    pub fn lasts(self) -> bool {
        matches!(self, Self::Full | Self::ReadOnly)
    }

    /// Whether this fault can strike such a call.
    pub fn strikes(self, operation: Operation) -> bool {
        use Operation::{Create, CreateDir, Link, Lock, Map, Open, Read, Sync, SyncDir, Write};
        match self {
            Self::Full => matches!(operation, Create | Open | Write | Sync | CreateDir | Link),
            Self::ReadOnly => !matches!(operation, Read | Map | Lock | Sync | SyncDir),
            Self::Interrupted | Self::Short => operation == Write,
            _ => true,
        }
    }
}
