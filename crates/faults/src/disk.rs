//! The disk that fails.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use trimtab_io::fs::{Call, Interference, Operation, Verdict};

use crate::kind::Kind;
use crate::power::Unsynced;

/// Long enough for another thread to hear of a signal.
const HEARD: Duration = Duration::from_millis(30);

/// Counts calls and strikes one.
pub struct Disk {
    kind: Kind,
    at: u64,
    calls: AtomicU64,
    trace: Option<PathBuf>,
    spare: PathBuf,
    unsynced: Mutex<Unsynced>,
}

impl Disk {
    /// The disk that the environment asks for, if it does.
    pub fn from_env() -> Result<Option<Self>, String> {
        let Ok(fault) = std::env::var("TRIMTAB_FAULT") else { return Ok(None) };
        let (kind, at) = fault.split_once(':').ok_or("TRIMTAB_FAULT: expected KIND:N")?;
        let spare = PathBuf::from(std::env::var_os("TRIMTAB_SPARE").unwrap_or_default());
        Ok(Some(Self {
            kind: kind.parse()?,
            at: at.parse().map_err(|e| format!("TRIMTAB_FAULT: {at}: {e}"))?,
            calls: AtomicU64::new(0),
            trace: std::env::var_os("TRIMTAB_TRACE").map(PathBuf::from),
            unsynced: Mutex::new(Unsynced::new(spare.clone())),
            spare,
        }))
    }

    fn trace(&self, call: &Call<'_>) -> io::Result<()> {
        let Some(trace) = &self.trace else { return Ok(()) };
        let mut file = OpenOptions::new().create(true).append(true).open(trace)?;
        let line = format!("{:?}\t{}\t{}\n", call.operation, call.path.display(), call.bytes);
        file.write_all(line.as_bytes())
    }

    fn unsynced(&self) -> std::sync::MutexGuard<'_, Unsynced> {
        self.unsynced.lock().expect("nothing panics with this lock")
    }

    /// The fault itself.
    fn strike(&self, call: &Call<'_>, first: bool) -> io::Result<Verdict> {
        let is_write = call.operation == Operation::Write;
        let half = Verdict::Short((call.bytes / 2) as usize);
        match self.kind {
            Kind::Full if first && is_write && call.bytes > 1 => Ok(half),
            Kind::Full => Err(ErrorKind::StorageFull.into()),
            Kind::Broken => Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())),
            Kind::ReadOnly => Err(ErrorKind::ReadOnlyFilesystem.into()),
            Kind::Interrupted => Err(ErrorKind::Interrupted.into()),
            Kind::Short if call.bytes > 1 => Ok(half),
            Kind::Kill if is_write => Ok(half),
            Kind::Kill => std::process::abort(),
            Kind::Power => {
                self.unsynced().lose()?;
                std::process::abort()
            }
            Kind::CtrlC | Kind::CtrlCTwice => {
                let times = if self.kind == Kind::CtrlC { 1 } else { 2 };
                for _ in 0..times {
                    kill_process(getpid(), Signal::INT)?;
                    std::thread::sleep(HEARD);
                }
                Ok(Verdict::Proceed)
            }
            Kind::Pause => {
                let paused = self.spare.join("paused");
                std::fs::write(&paused, [])?;
                while paused.exists() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(Verdict::Proceed)
            }
            Kind::Short | Kind::None => Ok(Verdict::Proceed),
        }
    }
}

impl Interference for Disk {
    fn before(&self, call: &Call<'_>) -> io::Result<Verdict> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.trace(call)?;
        let struck = self.kind.strikes(call.operation) && (n == self.at || n > self.at && self.kind.lasts());
        if struck {
            let verdict = self.strike(call, n == self.at)?;
            if verdict != Verdict::Proceed {
                return Ok(verdict);
            }
        }
        if self.kind == Kind::Power {
            self.unsynced().before(call)?;
        }
        Ok(match call.operation {
            Operation::Sync | Operation::SyncDir => Verdict::Omit,
            _ => Verdict::Proceed,
        })
    }

    fn after(&self, call: &Call<'_>) {
        // A write that was cut in half: the rest of the process does not come to pass.
        if self.kind == Kind::Kill && self.calls.load(Ordering::SeqCst) == self.at {
            std::process::abort();
        }
        let _ = call;
    }
}
