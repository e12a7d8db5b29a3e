//! Downloads from a hub on the loopback interface, sound and not.

mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use server::{COMMIT, Server, etag};
use trimtab_hub::{Error, Hub, HubName, Settings, Snapshot};
use trimtab_io::{Checkpoint, Dtype, RawTensor, to_safetensors};

/// Bytes of the weights, without their header.
const WEIGHTS: usize = 400_000;

fn weights(name: &str) -> Vec<u8> {
    let values: Vec<f32> = (0..WEIGHTS / 4).map(|i| i as f32).collect();
    let tensor = RawTensor::from_f32(vec![WEIGHTS / 4], &values, Dtype::F32).unwrap();
    to_safetensors(&[(name.to_owned(), tensor)], &BTreeMap::new()).unwrap()
}

fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"read me".to_vec()),
        ("config.json", br#"{"model_type":"llama"}"#.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", weights("w")),
        ("pytorch_model.bin", vec![7; 1000]),
    ]
}

fn settings(server: &Server, cache: &Path) -> Settings {
    Settings {
        endpoint: server.address.clone(),
        cache: cache.into(),
        token: None,
        offline: false,
        retries: 2,
        backoff: Duration::from_millis(1),
        timeout: Duration::from_secs(20),
    }
}

fn fetch(settings: Settings, name: &str) -> Result<Snapshot, Error> {
    Hub::new(settings).fetch(&HubName::parse(name).unwrap(), &mut |_| {})
}

fn check(snapshot: &Snapshot) {
    let checkpoint = Checkpoint::open(&snapshot.dir).unwrap();
    assert_eq!(checkpoint.config().unwrap()["model_type"], "llama");
    let values = checkpoint.tensor("w").unwrap().to_f32().unwrap();
    assert!(values.iter().enumerate().all(|(i, &v)| v == i as f32));
}

#[test]
fn a_model_arrives_in_the_layout_of_huggingface_hub() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    let mut heard = Vec::new();
    let hub = Hub::new(settings(&server, cache.path()));
    let name = HubName::parse("o/n").unwrap();
    let snapshot = hub.fetch(&name, &mut |p| heard.push((p.file.to_owned(), p.done, p.total))).unwrap();
    check(&snapshot);
    let folder = cache.path().join("models--o--n");
    assert_eq!(snapshot.dir, folder.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let blob = folder.join("blobs").join(etag("model.safetensors", &weights("w")));
    assert_eq!(std::fs::metadata(&blob).unwrap().len(), weights("w").len() as u64);
    #[cfg(unix)]
    assert_eq!(snapshot.dir.join("model.safetensors").canonicalize().unwrap(), blob.canonicalize().unwrap());
    let mut names: Vec<String> = std::fs::read_dir(&snapshot.dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"], "nothing that is not needed");
    let total = model()
        .iter()
        .filter(|(name, _)| names.contains(&name.to_string()))
        .map(|(_, b)| b.len() as u64)
        .sum();
    assert_eq!(snapshot.downloaded, total);
    let (_, done, last) = heard.last().unwrap().clone();
    assert_eq!((done, last), (total, total));
    assert!(heard.is_sorted_by_key(|(_, done, _)| *done), "progress goes forward");

    // Once more: only the listing is asked for. By its commit: nothing is.
    server.requests();
    assert_eq!(hub.fetch(&name, &mut |_| {}).unwrap().downloaded, 0);
    assert_eq!(server.requests().len(), 1);
    let pinned = hub.fetch(&HubName::parse(&format!("o/n@{COMMIT}")).unwrap(), &mut |_| {}).unwrap();
    assert_eq!((pinned.dir, server.requests().len()), (snapshot.dir, 0));
}

#[test]
fn damaged_caches_do_no_harm() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--o--n");
    let snapshot = folder.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    let index = br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let (reference, index_path) = (folder.join("refs/main"), snapshot.join("model.safetensors.index.json"));
    std::fs::write(snapshot.join("m-1.safetensors"), b"").unwrap();
    std::fs::write(snapshot.join("m-2.safetensors"), b"").unwrap();
    let settings =
        Settings { offline: true, cache: cache.path().into(), ..Settings::from_variables(|_| None) };
    let hub = Hub::new(settings);
    let name = HubName::parse("o/n").unwrap();
    let found = |bytes: &[u8], path: &Path| {
        std::fs::write(path, bytes).unwrap();
        hub.fetch(&name, &mut |_| {}).is_ok_and(|found| found.dir == snapshot)
    };
    std::fs::write(&index_path, index).unwrap();
    trimtab_hostile::storm_of(COMMIT.as_bytes(), 1, |commit| found(commit, &reference));
    std::fs::write(&reference, COMMIT).unwrap();
    trimtab_hostile::storm_of(index, 2, |index| found(index, &index_path));
    let make = |draws: &mut trimtab_hostile::Draws| {
        trimtab_hostile::change_text("Qwen/Qwen2.5-0.5B@refs/pr/1", draws)
    };
    trimtab_hostile::storm(trimtab_hostile::INPUTS, 3, make, |text| {
        HubName::parse(text).is_some_and(|name| !name.to_string().contains(".."))
    });
}

#[test]
fn cut_connections_go_on_where_they_stopped() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    server.site().cuts = vec![150_000, 100_000];
    check(&fetch(settings(&server, cache.path()), "o/n").unwrap());
    let ranges: Vec<_> =
        server.requests().into_iter().filter(|(path, _)| path.starts_with("/store/")).collect();
    assert_eq!(
        ranges.iter().map(|(_, start)| *start).collect::<Vec<_>>(),
        [None, Some(150_000), Some(250_000)]
    );
}

#[test]
fn what_came_before_giving_up_is_kept_for_the_next_run() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    server.site().cuts = vec![150_000, 0, 0];
    let error = fetch(settings(&server, cache.path()), "o/n").unwrap_err();
    let Error::Cut { done: 150_000, .. } = error else { panic!("{error}") };
    assert!(error.to_string().contains("cut after 150000 of"), "{error}");
    assert!(!cache.path().join("models--o--n/refs/main").exists(), "an unfinished snapshot has no name");
    server.requests();
    check(&fetch(settings(&server, cache.path()), "o/n").unwrap());
    let stored: Vec<_> =
        server.requests().into_iter().filter(|(path, _)| path.starts_with("/store/")).collect();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].1, Some(150_000));
}

#[test]
fn a_wrong_partial_file_is_not_trusted() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    let blobs = cache.path().join("models--o--n/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", etag("model.safetensors", &weights("w"))));
    for length in [1000, WEIGHTS * 2, weights("w").len()] {
        std::fs::write(&part, vec![9; length]).unwrap();
        check(&fetch(settings(&server, cache.path()), "o/n").unwrap());
        assert!(!part.exists());
        std::fs::remove_dir_all(&blobs).unwrap();
        std::fs::create_dir_all(&blobs).unwrap();
    }
}

#[test]
fn a_server_without_ranges_sends_the_whole() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    server.site().cuts = vec![150_000];
    server.site().ignore_ranges = true;
    check(&fetch(settings(&server, cache.path()), "o/n").unwrap());
}

#[test]
fn wrong_lengths_and_contents_do_not_enter_the_cache() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    let blob = cache.path().join("models--o--n/blobs").join(etag("model.safetensors", &weights("w")));
    for lie in [-10, 10] {
        server.site().lie = lie;
        let error = fetch(settings(&server, cache.path()), "o/n").unwrap_err();
        let expected = weights("w").len() as u64;
        match error {
            Error::WrongLength { expected: listed, found, .. } => {
                assert_eq!((listed, found), (expected, expected.wrapping_add_signed(lie)));
            }
            other => panic!("{other}"),
        }
        assert!(!blob.exists());
    }
    server.site().lie = 0;
    server.site().corrupt = true;
    let error = fetch(settings(&server, cache.path()), "o/n").unwrap_err();
    assert!(matches!(error, Error::WrongContent { .. }), "{error}");
    assert!(!blob.exists());
    server.site().corrupt = false;
    check(&fetch(settings(&server, cache.path()), "o/n").unwrap());
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    for (status, expected) in
        [(401, "HF_TOKEN"), (403, "ask for access"), (404, "local directory has to exist")]
    {
        server.site().statuses = vec![status];
        let error = fetch(settings(&server, cache.path()), "o/n").unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("status {status}: as told")) && text.contains(expected), "{text}");
    }
    server.site().statuses = vec![404];
    let with_token = Settings { token: Some("t".into()), ..settings(&server, cache.path()) };
    server.site().statuses = vec![401];
    assert!(fetch(with_token, "o/n").unwrap_err().to_string().contains("and the token"));
    // A file that is refused after the listing was not.
    server.site().statuses = vec![200, 403];
    assert!(matches!(fetch(settings(&server, cache.path()), "o/n"), Err(Error::Status { status: 403, .. })));
    // What may pass is tried again, at the listing and at a file.
    server.site().statuses = vec![503, 429, 200, 500];
    check(&fetch(settings(&server, cache.path()), "o/n").unwrap());
    server.site().statuses = vec![503; 3];
    assert!(matches!(fetch(settings(&server, cache.path()), "o/n"), Err(Error::Status { status: 503, .. })));
}

#[test]
fn without_a_network_the_cache_has_to_do() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    let offline = || Settings { offline: true, ..settings(&server, cache.path()) };
    let error = fetch(offline(), "o/n").unwrap_err();
    assert!(error.to_string().contains("revision main was never downloaded"), "{error}");
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    // Nobody listens on the port of a listener that is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable =
        || Settings { endpoint: format!("http://{gone}"), retries: 0, ..settings(&server, cache.path()) };
    assert!(matches!(fetch(unreachable(), "o/n"), Err(Error::Unreachable { .. })));

    let first = fetch(settings(&server, cache.path()), "o/n").unwrap();
    server.requests();
    let second = fetch(offline(), "o/n").unwrap();
    check(&second);
    assert_eq!((second.dir, second.unreachable, server.requests().len()), (first.dir.clone(), None, 0));
    let third = fetch(unreachable(), "o/n").unwrap();
    assert_eq!(third.dir, first.dir);
    assert!(third.unreachable.unwrap().contains("no answer"));
    assert!(fetch(offline(), "o/n@v2").unwrap_err().to_string().contains("revision v2 was never"));

    std::fs::remove_file(
        cache.path().join("models--o--n/blobs").join(etag("model.safetensors", &weights("w"))),
    )
    .unwrap();
    assert!(fetch(offline(), "o/n").unwrap_err().to_string().contains("holds no weights"));
}

#[test]
fn nobody_there_is_said_at_once_and_a_cut_answer_is_asked_for_again() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let patient = |endpoint: String| Settings {
        endpoint,
        retries: 5,
        backoff: Duration::from_millis(500),
        ..settings(&server, cache.path())
    };
    let start = std::time::Instant::now();
    let error = fetch(patient(format!("http://{gone}")), "o/n").unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("check the network, HF_ENDPOINT"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    // More cuts than the attempts that an address without a listener gets.
    server.site().drops = 3;
    let quick = Settings { backoff: Duration::from_millis(1), ..patient(server.address.clone()) };
    check(&fetch(quick, "o/n").unwrap());
    assert_eq!(server.site().drops, 0);
}

#[test]
fn an_index_brings_its_shards_and_no_others() {
    let index = r#"{"weight_map":{"w":"model-1.safetensors","v":"model-2.safetensors"}}"#;
    let mut files = vec![("config.json", br#"{"model_type":"llama"}"#.to_vec())];
    files.push(("model.safetensors.index.json", index.into()));
    files.extend([("model-1.safetensors", weights("w")), ("model-2.safetensors", weights("v"))]);
    files.push(("model-3.safetensors", weights("x")));
    let (server, cache) = (Server::start(&files), tempfile::tempdir().unwrap());
    let snapshot = fetch(settings(&server, cache.path()), "o/n").unwrap();
    check(&snapshot);
    assert!(!snapshot.dir.join("model-3.safetensors").exists());
    let offline = || Settings { offline: true, ..settings(&server, cache.path()) };
    check(&fetch(offline(), "o/n").unwrap());
    std::fs::remove_file(snapshot.dir.join("model-2.safetensors")).unwrap();
    assert!(fetch(offline(), "o/n").unwrap_err().to_string().contains("has no model-2.safetensors"));

    server.site().files.remove("model-2.safetensors");
    let other = tempfile::tempdir().unwrap();
    let error = fetch(settings(&server, other.path()), "o/n").unwrap_err();
    assert!(error.to_string().contains("the index names \"model-2.safetensors\""), "{error}");
}

#[test]
fn mirrors_that_list_no_lengths() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    server.site().bare = true;
    check(&fetch(settings(&server, cache.path()), "o/n").unwrap());
    let blob = cache.path().join("models--o--n/blobs").join(etag("model.safetensors", &weights("w")));
    assert!(blob.exists(), "the same names as with a full listing");
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let (server, cache) = (Server::start(&model()), tempfile::tempdir().unwrap());
    let store = Server::start(&model());
    // The same interface under another name is another host.
    server.site().store = Some(store.address.replace("127.0.0.1", "localhost"));
    let settings = Settings { token: Some("hf_secret".into()), ..settings(&server, cache.path()) };
    check(&fetch(settings, "o/n").unwrap());
    assert!(server.site().log.iter().all(|request| request.token));
    let stored = std::mem::take(&mut store.site().log);
    assert_eq!(stored.len(), 1);
    assert!(!stored[0].token);
}

#[test]
fn repositories_without_a_model() {
    let server = Server::start(&[("README.md", b"x".to_vec()), ("a.gguf", vec![0]), ("b.gguf", vec![0])]);
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(settings(&server, cache.path()), "o/n").unwrap_err();
    assert!(error.to_string().contains("2 files with weights and no index: a.gguf, b.gguf"), "{error}");
}
