//! Output that survives a kill at any moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use trimtab_io::{Checkpoint, Dtype, Error, OutDir, RawTensor};

use super::{tensor, tree};

const UNITS: usize = 4;
/// Two units fill a shard.
const SHARD: u64 = 100;

fn key(i: usize) -> String {
    format!("block.{i}")
}

fn unit(i: usize) -> Vec<(String, RawTensor)> {
    vec![
        (format!("layers.{i}.weight"), tensor(&[3, 3], i as f32, Dtype::F32)),
        (format!("layers.{i}.bias"), tensor(&[3], i as f32, Dtype::BF16)),
    ]
}

/// Does what is not done yet; returns how many units that were.
fn work(out: &mut OutDir) -> usize {
    let mut done = 0;
    for i in 0..UNITS {
        if !out.unit_done(&key(i)) {
            out.commit_unit(&key(i), &unit(i)).unwrap();
            done += 1;
        }
    }
    done
}

fn complete(mut out: OutDir) -> BTreeMap<String, Vec<u8>> {
    work(&mut out);
    out.put_file("config.json", b"{}").unwrap();
    out.put_file("1_Pooling/config.json", b"[]").unwrap();
    out.finish_shards(SHARD, &BTreeMap::new()).unwrap();
    tree(&out.finish().unwrap())
}

/// An uninterrupted run.
fn reference() -> BTreeMap<String, Vec<u8>> {
    let root = tempfile::tempdir().unwrap();
    complete(OutDir::create(root.path().join("out"), "job", false).unwrap())
}

/// A run that was killed after all units were committed; `OUT` and its partial directory.
fn interrupted(root: &Path) -> (PathBuf, PathBuf) {
    let out = root.join("out ü");
    let mut dir = OutDir::create(&out, "job", false).unwrap();
    assert_eq!(work(&mut dir), UNITS);
    let partial = dir.partial().to_path_buf();
    (out, partial)
}

#[test]
fn an_uninterrupted_run_leaves_the_output_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let files = complete(OutDir::create(&out, "job", false).unwrap());
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "1_Pooling/config.json",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "the partial directory is gone");
    let checkpoint = Checkpoint::open(&out).unwrap();
    assert_eq!(checkpoint.tensor("layers.3.weight").unwrap().to_f32().unwrap()[0], 3.0);
}

#[test]
fn a_journal_cut_at_any_byte_is_taken_up_and_ends_in_the_same_bytes() {
    let expected = reference();
    let root = tempfile::tempdir().unwrap();
    let (out, partial) = interrupted(root.path());
    let (journal, units) = (partial.join("journal.jsonl"), partial.join("units"));
    let whole = fs::read(&journal).unwrap();
    let saved = tree(&units);
    for cut in 0..=whole.len() {
        fs::create_dir_all(&units).unwrap();
        for (name, bytes) in &saved {
            fs::write(units.join(name), bytes).unwrap();
        }
        fs::write(&journal, &whole[..cut]).unwrap();
        let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
        let dir = OutDir::create(&out, "job", false).unwrap();
        let found: Vec<String> = dir.units().map(String::from).collect();
        assert_eq!(found, (0..lines.saturating_sub(1)).map(key).collect::<Vec<_>>(), "cut at {cut}");
        for i in 0..found.len() {
            assert_eq!(names_and_bytes(&dir.read_unit(&key(i)).unwrap()), names_and_bytes(&unit(i)));
        }
        // Running to the end each time would mean waiting for the disk thousands of times.
        if cut % 397 == 0 || cut == whole.len() {
            assert_eq!(complete(dir), expected, "cut at {cut}");
            fs::remove_dir_all(&out).unwrap();
            fs::create_dir(&partial).unwrap();
            fs::write(partial.join("lock"), b"").unwrap();
        }
    }
}

fn names_and_bytes(tensors: &[(String, RawTensor)]) -> Vec<(String, Vec<u8>)> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.bytes.to_vec())).collect()
}

#[test]
fn damaged_units_are_done_again_and_sound_ones_are_not() {
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, b"short").unwrap(),
        |path| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        },
        |path| fs::rename(path, path.with_extension("safetensors.tmp")).unwrap(),
    ];
    let expected = reference();
    for damage in damages {
        let root = tempfile::tempdir().unwrap();
        let (out, partial) = interrupted(root.path());
        let victim = fs::read_dir(partial.join("units")).unwrap().next().unwrap().unwrap().path();
        damage(&victim);
        let mut dir = OutDir::create(&out, "job", false).unwrap();
        assert_eq!(work(&mut dir), 1);
        assert_eq!(complete(dir), expected);
    }
}

#[test]
fn a_kill_while_assembling() {
    let expected = reference();
    let root = tempfile::tempdir().unwrap();
    let (out, partial) = interrupted(root.path());
    // One shard is whole but of another plan, one is cut off, and no line of the journal speaks of them.
    fs::write(partial.join("tree/model-00001-of-00003.safetensors"), b"old").unwrap();
    fs::write(partial.join("tree/model-00002-of-00003.safetensors.tmp"), b"half").unwrap();
    let mut dir = OutDir::create(&out, "job", false).unwrap();
    assert_eq!(work(&mut dir), 0);
    assert_eq!(complete(dir), expected);
}

#[test]
fn a_kill_after_assembling() {
    let expected = reference();
    let root = tempfile::tempdir().unwrap();
    let assemble = |out: &Path| {
        let mut dir = OutDir::create(out, "job", false).unwrap();
        work(&mut dir);
        dir.finish_shards(SHARD, &BTreeMap::new()).unwrap();
        assert!(matches!(dir.commit_unit("late", &[]), Err(Error::Output { .. })));
        dir.partial().to_path_buf()
    };
    let out = root.path().join("out");
    let partial = assemble(&out);
    assert!(!partial.join("units").exists(), "the units are in the shards");
    let mut dir = OutDir::create(&out, "job", false).unwrap();
    assert_eq!(work(&mut dir), 0);
    assert_eq!(names_and_bytes(&dir.read_unit(&key(2)).unwrap()), names_and_bytes(&unit(2)));
    assert_eq!(complete(dir), expected);

    // A shard that was damaged meanwhile: everything is done again.
    let out = root.path().join("damaged");
    let partial = assemble(&out);
    fs::write(partial.join("tree/model-00001-of-00002.safetensors"), b"x").unwrap();
    let mut dir = OutDir::create(&out, "job", false).unwrap();
    assert_eq!(work(&mut dir), UNITS);
    assert_eq!(complete(dir), expected);
}

#[test]
fn another_job_is_refused_unless_forced() {
    let root = tempfile::tempdir().unwrap();
    let (out, _) = interrupted(root.path());
    let error = OutDir::create(&out, "other", false).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("(job)") && text.contains("other") && text.contains("--force"), "{text}");
    let dir = OutDir::create(&out, "other", true).unwrap();
    assert_eq!(dir.units().count(), 0);
    drop(dir);
    assert!(matches!(OutDir::create(&out, "job", false), Err(Error::OtherJob { .. })));
}

#[test]
fn two_runs_at_once_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let first = OutDir::create(&out, "job", false).unwrap();
    assert!(matches!(OutDir::create(&out, "job", true), Err(Error::Locked { .. })));
    drop(first);
    OutDir::create(&out, "job", false).unwrap();
}

#[test]
fn an_existing_output_is_replaced_only_by_force() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    OutDir::create(&out, "job", false).expect("an empty directory is no output yet");
    fs::write(out.join("old"), b"old").unwrap();
    assert!(matches!(OutDir::create(&out, "job", false), Err(Error::OutputExists { .. })));
    assert!(out.join("old").exists());
    let files = complete(OutDir::create(&out, "job", true).unwrap());
    assert_eq!(files, reference(), "nothing of the old output is left");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn an_old_output_that_was_moved_aside_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let (out, partial) = interrupted(root.path());
    fs::create_dir(partial.join("replaced")).unwrap();
    fs::write(partial.join("replaced/old"), b"old").unwrap();
    assert!(matches!(OutDir::create(&out, "job", false), Err(Error::OutputExists { .. })));
    assert_eq!(fs::read(out.join("old")).unwrap(), b"old");
    let mut dir = OutDir::create(&out, "job", true).unwrap();
    assert_eq!(work(&mut dir), 0, "the finished units are still there");
}

#[test]
fn an_output_that_appears_meanwhile_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let dir = OutDir::create(&out, "job", false).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("theirs"), b"x").unwrap();
    assert!(matches!(dir.finish(), Err(Error::OutputExists { .. })));
    assert!(out.join("theirs").exists());
}

#[test]
fn places_where_nothing_can_be_put() {
    let root = tempfile::tempdir().unwrap();
    let refuse = |out: PathBuf, expected: &str| {
        let error = OutDir::create(&out, "job", true).unwrap_err();
        assert!(matches!(error, Error::Output { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refuse(root.path().join("absent/out"), "absent does not exist");
    fs::write(root.path().join("file"), b"x").unwrap();
    refuse(root.path().join("file"), "is a file");
    refuse(root.path().join("file/out"), "does not exist");
    refuse(root.path().join(".."), "not the name");
    fs::create_dir(root.path().join("mine.partial")).unwrap();
    fs::write(root.path().join("mine.partial/photo"), b"x").unwrap();
    refuse(root.path().join("mine"), "no unfinished run");
    assert!(root.path().join("mine.partial/photo").exists());
    let dir = OutDir::create(root.path().join("good"), "job", false).unwrap();
    assert!(dir.put_file("../x", b"").is_err());
    assert!(dir.put_file("", b"").is_err());
    assert!(dir.read_unit("absent").is_err());
}

#[test]
fn two_units_with_one_name_are_an_error() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = OutDir::create(root.path().join("out"), "job", false).unwrap();
    dir.commit_unit("a", &unit(0)).unwrap();
    dir.commit_unit("b", &unit(0)).unwrap();
    let error = dir.finish_shards(SHARD, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("layers.0.bias\" is given twice"), "{error}");
}

#[test]
fn a_journal_cut_anywhere_ends_in_the_same_bytes() {
    let expected = reference();
    let root = tempfile::tempdir().unwrap();
    let (_, partial) = interrupted(root.path());
    let whole = fs::read(partial.join("journal.jsonl")).unwrap();
    let ends = (0..whole.len()).filter(|&i| whole[i] == b'\n').flat_map(|i| [i, i + 1]);
    for cut in ends.chain((0..whole.len()).step_by(97)) {
        let root = tempfile::tempdir().unwrap();
        let (out, partial) = interrupted(root.path());
        fs::write(partial.join("journal.jsonl"), &whole[..cut]).unwrap();
        assert_eq!(complete(OutDir::create(&out, "job", false).unwrap()), expected, "cut at {cut}");
        assert!(!partial.exists());
    }
}

#[test]
fn a_published_output_is_taken_up_again_by_its_job_alone() {
    let root = tempfile::tempdir().unwrap();
    let (out, partial) = interrupted(root.path());
    let publish = |mut dir: OutDir| {
        dir.put_file("config.json", b"{}").unwrap();
        dir.put_file("1_Pooling/config.json", b"[]").unwrap();
        dir.finish_shards(SHARD, &BTreeMap::new()).unwrap();
        dir.publish().unwrap();
        dir
    };
    drop(publish(OutDir::create(&out, "job", false).unwrap()));
    assert!(partial.exists() && OutDir::is_published(&out).unwrap());
    assert!(matches!(OutDir::create(&out, "other", false), Err(Error::OutputExists { .. })));
    let mut again = OutDir::create(&out, "job", false).unwrap();
    assert_eq!(work(&mut again), 0);
    assert_eq!(again.get_file("config.json").unwrap().unwrap(), b"{}");
    assert_eq!(again.read_unit(&key(1)).unwrap().len(), 2);
    publish(again).clear(&[]).unwrap();
    assert!(!partial.exists());
    assert_eq!(tree(&out), reference());
    // Changed by somebody since: it is theirs.
    let other = root.path().join("other");
    fs::create_dir(&other).unwrap();
    let (out, partial) = interrupted(&other);
    drop(publish(OutDir::create(&out, "job", false).unwrap()));
    fs::write(out.join("model-00001-of-00002.safetensors"), b"mine").unwrap();
    assert!(matches!(OutDir::create(&out, "job", false), Err(Error::OutputExists { .. })));
    assert!(partial.exists());
    assert_eq!(complete(OutDir::create(&out, "job", true).unwrap()), reference());
}
