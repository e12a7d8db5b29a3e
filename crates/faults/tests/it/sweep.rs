//! A fault at every call of every verb, and the same command afterwards.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bench::{Bench, DOWNLOAD, Ended, Files, Verb, outputs, part};

/// Calls that each fault strikes in each verb, spread over the run. `TRIMTAB_FAULTS=all` strikes every one.
const STRUCK: usize = 8;

const READS: [&str; 2] = ["Read", "Map"];
/// What needs no new room on a disk.
const FREE: [&str; 7] = ["Read", "Map", "Lock", "Resize", "Rename", "RemoveFile", "RemoveDir"];
const HARMLESS: [&str; 5] = ["Read", "Map", "Lock", "Sync", "SyncDir"];

/// A kind of fault.
pub struct Fault {
    /// As the program on the failing disk calls it.
    pub kind: &'static str,
    pub what: &'static str,
    /// Whether it can strike such a call.
    strikes: fn(&str) -> bool,
    pub expected: Expected,
}

/// How a run with a fault has to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// With an error that names a file and this cause, or well where the call did not matter.
    Error(&'static str),
    /// As if nothing had been.
    Nothing,
    /// Not at all.
    Death,
    /// With a word on how to go on, or well where little was left to do.
    Stop,
    /// At once.
    Exit,
}

pub const FAULTS: [Fault; 9] = [
    Fault {
        kind: "full",
        what: "disk full (ENOSPC) from here on",
        strikes: |call| !FREE.contains(&call) && call != "SyncDir",
        expected: Expected::Error("not enough space left"),
    },
    Fault {
        kind: "broken",
        what: "one call fails (EIO)",
        strikes: |_| true,
        expected: Expected::Error("Input/output error"),
    },
    Fault {
        kind: "read-only",
        what: "disk read-only (EROFS) from here on",
        strikes: |call| !HARMLESS.contains(&call),
        expected: Expected::Error("ead-only file"),
    },
    Fault {
        kind: "interrupted",
        what: "a write is interrupted (EINTR)",
        strikes: |call| call == "Write",
        expected: Expected::Nothing,
    },
    Fault {
        kind: "short",
        what: "half a write",
        strikes: |call| call == "Write",
        expected: Expected::Nothing,
    },
    Fault {
        kind: "kill",
        what: "killed, in the middle of a write",
        strikes: |_| true,
        expected: Expected::Death,
    },
    Fault {
        kind: "power",
        what: "power cut: what is not synced is lost",
        strikes: |_| true,
        expected: Expected::Death,
    },
    Fault {
        kind: "ctrl-c",
        what: "Ctrl-C",
        strikes: |call| !READS.contains(&call),
        expected: Expected::Stop,
    },
    Fault {
        kind: "ctrl-c-twice",
        what: "Ctrl-C twice",
        strikes: |call| !READS.contains(&call),
        expected: Expected::Exit,
    },
];

/// What became of the faults of one kind in one verb.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub injected: usize,
    pub survived: usize,
    /// The message of the first that had one, with the call that was struck.
    pub seen: Option<(usize, String)>,
    pub failures: Vec<String>,
}

/// Every fault in every verb; by the places of both in their lists.
pub fn sweep(bench: &Bench, verbs: &[Verb]) -> BTreeMap<(usize, usize), Tally> {
    let every = std::env::var("TRIMTAB_FAULTS").is_ok_and(|value| value == "all");
    let runs: Vec<(Vec<String>, Files)> = verbs.iter().map(|verb| bench.undisturbed(verb)).collect();
    let mut cases = Vec::new();
    for (v, (calls, _)) in runs.iter().enumerate() {
        for (f, fault) in FAULTS.iter().enumerate() {
            let struck: Vec<usize> =
                (0..calls.len()).filter(|&i| (fault.strikes)(&calls[i])).map(|i| i + 1).collect();
            let n = if every { struck.len() } else { STRUCK.min(struck.len()) };
            // From the first to the last, at other places for every fault.
            let place = |i: usize| match i {
                0 => 0,
                i if i + 1 == n => struck.len() - 1,
                i => ((i * 9 + f) * struck.len() / (n * 9)).min(struck.len() - 1),
            };
            cases.extend((0..n).map(|i| (v, f, struck[place(i)])));
        }
    }
    let (next, tallies) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<_, Tally>::new()));
    let work = || {
        while let Some(&(v, f, call)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = survive(bench, &verbs[v], &runs[v].1, &FAULTS[f], call);
            let mut tallies = tallies.lock().unwrap();
            let tally = tallies.entry((v, f)).or_default();
            tally.injected += usize::from(!matches!(done, Ok(Survived::Unstruck)));
            match done {
                Ok(Survived::Unstruck) => {}
                Ok(Survived::Struck(seen)) => {
                    tally.survived += 1;
                    tally.seen = tally.seen.take().into_iter().chain(seen.map(|seen| (call, seen))).min();
                }
                Err(message) => {
                    let (verb, kind, operation) = (verbs[v].name, FAULTS[f].kind, &runs[v].0[call - 1]);
                    tally.failures.push(format!("{verb}, {kind}:{call} ({operation}): {message}"));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    tallies.into_inner().unwrap()
}

/// A run that lost nothing.
enum Survived {
    /// It did not come to the call.
    Unstruck,
    /// With what the user saw.
    Struck(Option<String>),
}

/// One fault; what the user saw, or what went wrong.
fn survive(
    bench: &Bench,
    verb: &Verb,
    expected: &Files,
    fault: &Fault,
    call: usize,
) -> Result<Survived, String> {
    let folder = bench.folder(&format!("{} {}-{call}", verb.name, fault.kind), &verb.before);
    let (struck, calls) = bench.traced(&verb.arguments, &folder, &format!("{}:{call}", fault.kind));
    // A download comes in as many pieces as the network makes of it: fewer than in the run that counted, and there is no such call.
    if calls.len() < call && verb.name == DOWNLOAD {
        std::fs::remove_dir_all(folder).map_err(|e| e.to_string())?;
        return Ok(Survived::Unstruck);
    }
    let seen = judge(&struck, fault).map_err(|why| format!("{why}: {struck:?}"))?;
    let after = outputs(&folder);
    unharmed(bench, verb, expected, &after, fault)?;
    let again = bench.run(&verb.arguments, &folder, "none:0");
    // Killed after the output was there: the same command finds nothing left to do, and says so.
    let is_whole = part(&after, verb.out) == part(expected, verb.out);
    let there = matches!(fault.expected, Expected::Death | Expected::Exit) || struck.code == Some(0);
    let refused = is_whole && there && again.code == Some(2) && again.stderr.contains("already exists");
    if again.code != Some(0) && !refused {
        return Err(format!("the same command afterwards: {again:?}, after {struck:?}"));
    }
    let found = outputs(&folder);
    if found != *expected {
        return Err(format!("other files than undisturbed: {}", differences(&found, expected)));
    }
    std::fs::remove_dir_all(folder).map_err(|e| e.to_string())?;
    Ok(Survived::Struck(seen))
}

/// Whether the run with the fault ended as it has to, and what the user saw.
fn judge(ended: &Ended, fault: &Fault) -> Result<Option<String>, &'static str> {
    if ended.stderr.contains("panicked") {
        return Err("a panic");
    }
    let message = || ended.stderr.lines().find(|line| line.starts_with("error: ")).map(str::to_owned);
    let one = ended.stderr.lines().filter(|line| line.starts_with("error: ")).count() == 1;
    match (fault.expected, ended.code) {
        (Expected::Error(_) | Expected::Stop | Expected::Nothing, Some(0)) => Ok(None),
        (Expected::Error(cause), Some(2)) => {
            let clear = one && ended.stdout.is_empty() && ended.stderr.contains(cause);
            // Every message of a file has a path in it; relative ones begin with the output.
            let names = message()
                .is_some_and(|m| ["/", "out", "plan.toml", "logits", "."].iter().any(|p| m.contains(p)));
            if clear && names { Ok(message()) } else { Err("not one clear message") }
        }
        (Expected::Stop, Some(2)) => {
            let says = ["the same command goes on", "nothing was written"];
            let clear = one && says.iter().any(|say| ended.stderr.contains(say));
            if clear { Ok(message()) } else { Err("does not say how to go on") }
        }
        (Expected::Death, None) if ended.signal == Some(6) => Ok(None),
        (Expected::Exit, Some(130)) => Ok(None),
        _ => Err("ended otherwise than it has to"),
    }
}

/// Inputs are as before, and the output is there whole, or as before, or not at all.
fn unharmed(
    bench: &Bench,
    verb: &Verb,
    expected: &Files,
    after: &Files,
    fault: &Fault,
) -> Result<(), String> {
    let inputs = crate::bench::contents(&bench.input());
    if inputs != bench.inputs {
        return Err(format!("an input changed: {}", differences(&inputs, &bench.inputs)));
    }
    // A cache fills file by file, and every file in it is whole.
    if verb.out == "cache" {
        let is_part = |name: &&String| name.ends_with(".incomplete") || name.ends_with(".tmp");
        let whole = |(name, bytes): (&String, &Vec<u8>)| is_part(&name) || expected.get(name) == Some(bytes);
        return if after.iter().all(whole) { Ok(()) } else { Err("a file in the cache is not whole".into()) };
    }
    let (now, old, new) = (part(after, verb.out), part(&verb.before, verb.out), part(expected, verb.out));
    // Between two renames, only a process that is no more leaves nothing; the old output is kept aside then.
    let gone = now.is_empty() && matches!(fault.expected, Expected::Death | Expected::Exit);
    if now != old && now != new && !gone {
        return Err(format!("half an output: {}", differences(&now, &new)));
    }
    let is_ours = |name: &String| {
        name.starts_with(&format!("{}.", verb.out))
            || name.ends_with(".tmp")
            || !part(after, verb.out).is_empty()
    };
    match after.keys().find(|name| !part(after, verb.out).contains_key(*name) && !is_ours(name)) {
        Some(stray) => Err(format!("{stray} is left behind")),
        None => Ok(()),
    }
}

fn differences(found: &Files, expected: &Files) -> String {
    let names: std::collections::BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let differ = names.into_iter().filter(|name| found.get(*name) != expected.get(*name));
    let length =
        |files: &Files, name: &String| files.get(name).map_or("absent".into(), |b| b.len().to_string());
    let list = differ.map(|name| format!("{name} ({} for {})", length(found, name), length(expected, name)));
    list.collect::<Vec<_>>().join(", ")
}
