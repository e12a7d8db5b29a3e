//! What the program is built from: licences, sources, duplicates.
//!
//! A test and not cargo-deny: that is a program of several hundred crates, which would have to be compiled before every cold
//! run of the checks, for the three questions below; its fourth, security advisories, needs a database from the network.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences that allow to pass the program on in binary form, under its own licence.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // Of the list of root certificates, which is data.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    // Binds the files of the crate itself, which are used unchanged.
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that are not to come in by accident: a second library for encrypted connections, an asynchronous runtime.
const BANNED: [&str; 3] = ["native-tls", "openssl-sys", "tokio"];

/// Crates that the program holds in several versions, because crates that it needs disagree.
const TWICE: [&str; 17] = [
    "base64",
    "cpufeatures",
    "darling",
    "darling_core",
    "darling_macro",
    "equator",
    "equator-macro",
    "getrandom",
    "hashbrown",
    "miniz_oxide",
    "nom",
    "rand",
    "rand_core",
    "syn",
    "toml",
    "toml_datetime",
    "winnow",
];

/// `name version`, whether it comes from a registry, and the licence, of everything that is linked or compiled.
fn tree(arguments: &[&str]) -> Vec<(String, bool, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{l}"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.split_once('|').unwrap();
        let name = package.split(" (").next().unwrap();
        // Paths and addresses stand in brackets; so do procedural macros.
        let elsewhere = package.contains("://") || package.contains(" (/");
        let ours = name.starts_with("trimtab");
        let licence = licence.trim_end_matches(" (*)");
        found.insert((name.to_owned(), ours || !elsewhere, licence.to_owned()));
    }
    found.into_iter().collect()
}

/// Whether an SPDX expression leaves a choice that is allowed. Only brackets around alternatives occur.
fn is_allowed(licence: &str) -> bool {
    let allowed = |part: &str| {
        let text = part.trim().trim_start_matches('(').trim_end_matches(')');
        text.split(" OR ").flat_map(|one| one.split('/')).any(|one| LICENCES.contains(&one.trim()))
    };
    !licence.is_empty() && licence.split(" AND ").all(allowed)
}

#[test]
fn licences_are_read_as_they_are_meant() {
    for good in
        ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND Unicode-3.0", "Apache-2.0 / MIT"]
    {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(GPL-2.0 OR LGPL-2.1) AND MIT"] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

#[test]
fn everything_may_be_passed_on_and_comes_from_the_registry() {
    let all = tree(&["--workspace", "--edges", "normal,build,dev"]);
    assert!(all.len() > 100);
    let strange: Vec<_> = all.iter().filter(|(_, known, licence)| !known || !is_allowed(licence)).collect();
    assert!(strange.is_empty(), "from elsewhere, or under another licence: {strange:#?}");
    let banned = |name: &str| BANNED.iter().any(|banned| name.split(' ').next() == Some(banned));
    let banned: Vec<_> = all.iter().filter(|(name, ..)| banned(name)).collect();
    assert!(banned.is_empty(), "{banned:#?}");
}

#[test]
fn no_more_crates_are_there_twice_than_are_known() {
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for (package, ..) in tree(&["--package", "trimtab-cli", "--edges", "normal"]) {
        let (name, version) = package.split_once(' ').unwrap();
        versions.entry(name.into()).or_default().insert(version.into());
    }
    let twice: Vec<&str> = versions.iter().filter(|(_, v)| v.len() > 1).map(|(n, _)| n.as_str()).collect();
    assert_eq!(twice, TWICE, "a crate more comes in several versions, or one less");
}
