//! A hub on the loopback interface that serves one repository and misbehaves as it is told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use sha1::{Digest, Sha1};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub range: Option<u64>,
    pub token: bool,
}

/// What is served, and how.
#[derive(Default)]
pub struct Site {
    pub files: BTreeMap<String, Vec<u8>>,
    pub log: Vec<Request>,
    /// Lengths after which the next bodies of large files end, one a request.
    pub cuts: Vec<usize>,
    /// What is added to the announced length of large files.
    pub lie: i64,
    /// Statuses of the next requests.
    pub statuses: Vec<u16>,
    /// How many of the next requests are cut before an answer.
    pub drops: usize,
    pub ignore_ranges: bool,
    pub corrupt: bool,
    /// Whether the listing leaves out lengths and hashes, as some mirrors do.
    pub bare: bool,
    /// Host of large files, if it is another.
    pub store: Option<String>,
}

pub struct Server {
    pub address: String,
    site: Arc<Mutex<Site>>,
}

impl Server {
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
        let site = Arc::new(Mutex::new(Site { files, ..Site::default() }));
        let shared = site.clone();
        // Ends with the process: the listener has no other owner.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &shared);
            }
        });
        Self { address: format!("http://127.0.0.1:{port}"), site }
    }

    pub fn site(&self) -> MutexGuard<'_, Site> {
        self.site.lock().unwrap()
    }

    /// Paths that were asked for since the last call, with the first byte of ranges.
    pub fn requests(&self) -> Vec<(String, Option<u64>)> {
        self.site().log.drain(..).map(|request| (request.path, request.range)).collect()
    }
}

/// The name of a file in the cache: SHA-256 of large files, git's hash of others.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) {
        return trimtab_io::sha256(bytes);
    }
    let hash = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".gguf"].iter().any(|end| name.ends_with(end))
}

fn answer(mut stream: TcpStream, site: &Mutex<Site>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let original = head.lines().next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let range =
        field("range:").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    let only_first = field("range:").is_some_and(|range| range.ends_with("=0-0"));
    let token = field("authorization:").is_some();
    let mut site = site.lock().unwrap();
    site.log.push(Request { path: original.clone(), range, token });
    if site.drops > 0 {
        site.drops -= 1;
        return Ok(());
    }
    if !site.statuses.is_empty() {
        let status = site.statuses.remove(0);
        if status != 200 {
            let head = format!(
                "HTTP/1.1 {status} no\r\nx-error-message: as told\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            return stream.write_all(head.as_bytes());
        }
    }
    if original.starts_with("/api/models/") {
        let body = listing(&site);
        return stream.write_all(
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
                .as_bytes(),
        );
    }
    let name = original.rsplit('/').next().unwrap_or_default().to_owned();
    let stored = original.starts_with("/store/");
    let Some(bytes) = site.files.get(&name).cloned() else {
        return stream.write_all(b"HTTP/1.1 404 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let about =
        format!("etag: \"{}\"\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n", etag(&name, &bytes));
    if is_large(&name) && !stored {
        let place = format!("{}/store/{name}", site.store.clone().unwrap_or_default());
        let head = format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\n{about}content-length: 0\r\n\r\n");
        return stream.write_all(head.as_bytes());
    }
    let start = if site.ignore_ranges { None } else { range }.map(|start| start as usize);
    if start.is_some_and(|start| start >= bytes.len()) {
        return stream.write_all(b"HTTP/1.1 416 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    let mut body = bytes[start.unwrap_or(0)..].to_vec();
    if only_first {
        body.truncate(1);
    }
    let lie = if stored { site.lie } else { 0 };
    let announced = (body.len() as i64 + lie) as usize;
    let head = match start {
        Some(start) => {
            let last = start + body.len() - 1;
            format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{last}/{}\r\n", bytes.len())
        }
        None => "HTTP/1.1 200 OK\r\n".into(),
    };
    if site.corrupt && stored {
        body[0] ^= 1;
    }
    if stored && !site.cuts.is_empty() {
        body.truncate(site.cuts.remove(0));
    }
    stream.write_all(format!("{head}{about}content-length: {announced}\r\n\r\n").as_bytes())?;
    stream.write_all(&body)?;
    stream.flush()
}

fn listing(site: &Site) -> String {
    let files: Vec<String> = site
        .files
        .iter()
        .map(|(name, bytes)| {
            let (size, etag) = (bytes.len(), etag(name, bytes));
            match (site.bare, is_large(name)) {
                (true, _) => format!(r#"{{"rfilename":"{name}"}}"#),
                (false, true) => format!(
                    r#"{{"rfilename":"{name}","size":{size},"blobId":"aa","lfs":{{"sha256":"{etag}","size":{size}}}}}"#
                ),
                (false, false) => format!(r#"{{"rfilename":"{name}","size":{size},"blobId":"{etag}"}}"#),
            }
        })
        .collect();
    format!(r#"{{"id":"o/n","sha":"{COMMIT}","siblings":[{}]}}"#, files.join(","))
}
