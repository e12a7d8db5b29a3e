//! Requests: answers in memory, and files that grow on disk, cut or not, until they are whole and right.

use std::io::{Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use trimtab_io::fs::{self, File};
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::check::Check;
use crate::error::{Error, Result};
use crate::settings::Settings;

const CHUNK: usize = 1 << 18;
/// Longest answer that is kept in memory.
const MAX_ANSWER: u64 = 64 << 20;
/// Longest message of a refusal.
const MAX_MESSAGE: usize = 300;
/// A transfer that went on by this much is not counted as a failure.
const GOOD_PROGRESS: u64 = 1 << 20;
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// A file that is to be downloaded.
pub struct Wanted<'a> {
    pub url: &'a str,
    /// Where it grows.
    pub part: &'a Path,
    pub size: u64,
    pub etag: &'a str,
}

pub struct Client {
    agent: Agent,
    token: Option<String>,
    retries: u32,
    backoff: Duration,
}

/// Why an attempt did not end with the whole file.
enum Failure {
    /// Another attempt would end the same.
    Final(Error),
    /// The connection; what came is kept.
    Cut(String),
    /// The hash is wrong; the file is removed.
    Content(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Client {
    pub fn new(settings: &Settings) -> Self {
        let timeout = Some(settings.timeout);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The token goes to the hub only, not to the store of large files that it redirects to.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            // Lengths and ranges are those of the file, so it must come as it is.
            .accept_encoding("identity")
            .user_agent(concat!("trimtab/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .build();
        Self {
            agent: config.into(),
            token: settings.token.clone(),
            retries: settings.retries,
            backoff: settings.backoff,
        }
    }

    fn get(&self, url: &str, start: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call()
    }

    fn refusal(&self, url: &str, response: &Response<Body>) -> Error {
        let message = header(response, "x-error-message").unwrap_or_default();
        let message = message.chars().take(MAX_MESSAGE).collect();
        Error::status(url, response.status().as_u16(), message, self.token.is_some())
    }

    /// A short answer.
    pub fn answer(&self, url: &str) -> Result<Vec<u8>> {
        let mut failures = 0;
        loop {
            let mut retries = self.retries;
            let unreachable = |message: String| Error::Unreachable { url: url.into(), message };
            let error = match self.get(url, 0) {
                Ok(mut response) if response.status().is_success() => {
                    match response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec() {
                        Ok(bytes) => return Ok(bytes),
                        Err(error) => unreachable(error.to_string()),
                    }
                }
                Ok(response) if is_passing(response.status().as_u16()) => self.refusal(url, &response),
                Ok(response) => return Err(self.refusal(url, &response)),
                Err(error) => {
                    if is_unconnected(&error) {
                        // Without a network, or with a mistyped address, patience only delays the message.
                        retries = retries.min(1);
                    }
                    unreachable(error.to_string())
                }
            };
            failures += 1;
            if failures > retries {
                return Err(error);
            }
            self.wait(failures);
        }
    }

    /// Downloads a file, going on where an earlier attempt or run stopped; `on` hears of the length so far.
    pub fn download(&self, wanted: &Wanted, on: &mut dyn FnMut(u64)) -> Result<()> {
        let mut failures = 0;
        loop {
            let before = length(wanted.part);
            match self.attempt(wanted, on) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                // What an earlier run left may have been the wrong part: once more from the start.
                Err(Failure::Content(_)) if before > 0 => {}
                Err(Failure::Content(found)) => {
                    let (url, expected) = (wanted.url.into(), wanted.etag.into());
                    return Err(Error::WrongContent { url, expected, found });
                }
                Err(Failure::Cut(message)) => {
                    let done = length(wanted.part);
                    failures = if done >= before + GOOD_PROGRESS { 0 } else { failures + 1 };
                    if failures > self.retries {
                        return Err(Error::Cut { url: wanted.url.into(), done, total: wanted.size, message });
                    }
                    self.wait(failures);
                }
            }
        }
    }

    fn attempt(&self, wanted: &Wanted, on: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        let Wanted { url, part, size, etag } = *wanted;
        let io = |action| move |e| Failure::Final(Error::io(action, part, e));
        let mut file = File::append(part).map_err(io("open"))?;
        let mut start = length(part);
        if start > size {
            file.set_len(0).map_err(io("shorten"))?;
            start = 0;
        }
        let mut check = Check::new(etag, size);
        if start > 0 {
            check.absorb(part)?;
        }
        if start < size {
            let response = self.get(url, start).map_err(|e| Failure::Cut(e.to_string()))?;
            let status = response.status().as_u16();
            match status {
                200 if start > 0 => {
                    // The server does not do ranges and sends the whole file.
                    file.set_len(0).map_err(io("shorten"))?;
                    (start, check) = (0, Check::new(etag, size));
                }
                200 => {}
                206 => match content_range(&response) {
                    Some((first, total)) if first == start && total.is_none_or(|total| total == size) => {}
                    Some((first, Some(found))) if first == start => {
                        return Err(wrong_length(wanted, found).into());
                    }
                    _ => {
                        let message =
                            format!("the answer is not the range from byte {start} that was asked for");
                        return Err(Error::answer(url, message).into());
                    }
                },
                416 => {
                    file.set_len(0).map_err(io("shorten"))?;
                    return Err(Failure::Cut(format!("no range from byte {start}")));
                }
                status if is_passing(status) => return Err(Failure::Cut(format!("status {status}"))),
                _ => return Err(self.refusal(url, &response).into()),
            }
            let announced = header(&response, "content-length").and_then(|text| text.parse::<u64>().ok());
            if let Some(found) =
                announced.map(|length| length.saturating_add(start)).filter(|&found| found != size)
            {
                return Err(wrong_length(wanted, found).into());
            }
            let mut body = response.into_body().into_reader();
            let mut buffer = vec![0; CHUNK];
            let mut done = start;
            on(done);
            while done < size {
                let n = match body.read(&mut buffer) {
                    Ok(0) => return Err(Failure::Cut("it ended early".into())),
                    Ok(n) => n,
                    Err(error) => return Err(Failure::Cut(error.to_string())),
                };
                done += n as u64;
                if done > size {
                    file.set_len(0).map_err(io("shorten"))?;
                    return Err(wrong_length(wanted, done).into());
                }
                file.write_all(&buffer[..n]).map_err(io("write"))?;
                check.update(&buffer[..n]);
                on(done);
            }
        }
        if let Some(found) = check.mismatch(etag) {
            fs::remove_file(part).map_err(io("remove"))?;
            return Err(Failure::Content(found));
        }
        file.sync().map_err(io("sync"))?;
        Ok(())
    }

    fn wait(&self, failures: u32) {
        sleep(self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_BACKOFF));
    }
}

fn wrong_length(wanted: &Wanted, found: u64) -> Error {
    Error::WrongLength { url: wanted.url.into(), expected: wanted.size, found }
}

/// Whether a refusal may be over in a moment.
fn is_passing(status: u16) -> bool {
    status == 429 || status >= 500
}

/// Whether there was no connection at all: no such host, or nobody who listens there.
///
/// A failed look-up of a name has no kind of its own, so the kinds that a connection ends with are left out instead.
fn is_unconnected(error: &ureq::Error) -> bool {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, UnexpectedEof, WouldBlock,
    };
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(error) => !matches!(
            error.kind(),
            BrokenPipe
                | ConnectionAborted
                | ConnectionReset
                | Interrupted
                | TimedOut
                | UnexpectedEof
                | WouldBlock
        ),
        _ => false,
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// First byte and, if said, length of the whole: `bytes 10-99/100`.
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let (range, total) = header(response, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// Length of a file, 0 if there is none.
pub fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}
