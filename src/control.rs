//! The control socket: commands use it to reach the running service.
//!
//! A Unix socket in STATE_DIR that only its owner can open. A client sends the name of a request, a line feed and
//! its arguments, and closes its side. The service answers `ok`, `no` (invalid usage) or `error`, a space and a text of one or
//! more lines, and closes its side.

use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use futures::StreamExt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::sync::DropGuard;

use crate::model::{LibraryPath, ParkedRequest};

/// The socket's name in STATE_DIR.
const NAME: &str = "control.sock";

/// The longest request, in bytes.
const LONGEST_REQUEST: u64 = 64 * 1024;

/// How long a service may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(3);

/// How long a client may take to send its request and to receive the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the service may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for an approval, which waits for a full scan.
const APPROVAL_TIMEOUT: Duration = Duration::from_mins(2);

/// The number of requests that are answered concurrently.
const CONCURRENT_REQUESTS: usize = 16;

/// The request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// List the held deletes at or under this path, as JSON.
    Held(LibraryPath),
    /// Publish the held deletes at or under this path.
    Approve(LibraryPath),
    /// Publish everything at or under this path again.
    Replay(LibraryPath),
    /// List, retry or drop parked messages.
    Parked(ParkedRequest),
    /// Report the state of the service, as JSON.
    Status,
    /// Read the settings again.
    Reload,
}

/// Why the control socket failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket could not be created.
    #[error("the control socket {path} cannot be created")]
    Unusable {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The service did not answer.
    #[error("the running service cannot be reached through {path}")]
    Unreachable {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The request is invalid.
    #[error("the running service refused: {0}")]
    Refused(String),
    /// The service failed to carry out the request.
    #[error("the running service failed: {0}")]
    Failed(String),
}

/// What the service answers to a request that it carried out.
#[derive(Debug)]
pub struct Reply {
    text: String,
    /// Dropped when the client has the answer.
    then: Option<DropGuard>,
}

impl Reply {
    /// This text, and then the end of what the guard guards.
    #[must_use]
    pub fn and_then(text: impl Into<String>, then: DropGuard) -> Self {
        Self { text: text.into(), then: Some(then) }
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self { text, then: None }
    }
}

/// Why the service did not carry out a request.
#[derive(Debug)]
pub enum Refusal {
    /// The request is invalid.
    Invalid(String),
    /// The service failed to carry it out.
    Failed(String),
}

impl Request {
    fn answered_within(&self) -> Duration {
        match self {
            Self::Approve(_) => APPROVAL_TIMEOUT,
            Self::Held(_) | Self::Replay(_) | Self::Parked(_) | Self::Status | Self::Reload => ANSWER_TIMEOUT,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Status => b"status\n".to_vec(),
            Self::Reload => b"reload\n".to_vec(),
            Self::Held(under) => [b"held\n", under.as_bytes()].concat(),
            Self::Approve(under) => [b"approve\n", under.as_bytes()].concat(),
            Self::Replay(under) => [b"replay\n", under.as_bytes()].concat(),
            Self::Parked(ParkedRequest::List { json: false }) => b"parked\n".to_vec(),
            Self::Parked(ParkedRequest::List { json: true }) => b"parked-json\n".to_vec(),
            Self::Parked(ParkedRequest::Retry(sequences)) => [b"parked-retry\n", &to_lines(sequences)[..]].concat(),
            Self::Parked(ParkedRequest::Drop(sequences)) => [b"parked-drop\n", &to_lines(sequences)[..]].concat(),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        match (&bytes[..end], &bytes[end + 1..]) {
            (b"status", b"") => Some(Self::Status),
            (b"reload", b"") => Some(Self::Reload),
            (b"held", under) => Some(Self::Held(LibraryPath::from_bytes(under))),
            (b"approve", under) => Some(Self::Approve(LibraryPath::from_bytes(under))),
            (b"replay", under) => Some(Self::Replay(LibraryPath::from_bytes(under))),
            (b"parked", b"") => Some(Self::Parked(ParkedRequest::List { json: false })),
            (b"parked-json", b"") => Some(Self::Parked(ParkedRequest::List { json: true })),
            (b"parked-retry", lines) => Some(Self::Parked(ParkedRequest::Retry(numbers_of(lines)?))),
            (b"parked-drop", lines) => Some(Self::Parked(ParkedRequest::Drop(numbers_of(lines)?))),
            _ => None,
        }
    }
}

/// Numbers, one per line, and an empty line at the end, so that a truncated request is invalid.
fn to_lines(numbers: &[u64]) -> Vec<u8> {
    let mut lines: Vec<String> = numbers.iter().map(u64::to_string).collect();
    lines.extend([String::new(), String::new()]);
    lines.join("\n").into_bytes()
}

fn numbers_of(lines: &[u8]) -> Option<Vec<u64>> {
    let lines = str::from_utf8(lines).ok()?.strip_suffix('\n')?;
    if lines.is_empty() {
        return Some(Vec::new());
    }
    lines.strip_suffix('\n')?.split('\n').map(|line| line.parse().ok()).collect()
}

/// Sends a request to the service that runs on `state_dir`; returns the answer. Blocks.
///
/// # Errors
///
/// If the service cannot be reached, refuses the request, or fails.
pub fn ask(state_dir: &Path, request: &Request) -> Result<String, ControlError> {
    let path = state_dir.join(NAME);
    let unreachable = |source| ControlError::Unreachable { path: path.clone(), source };
    let answer = in_directory(state_dir, |short| {
        let mut stream = connect(&short.join(NAME))?;
        stream.set_read_timeout(Some(request.answered_within()))?;
        stream.write_all(&request.to_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .map_err(unreachable)?;
    match answer.strip_suffix('\n').unwrap_or(&answer).split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some(("no", text)) => Err(ControlError::Refused(text.to_owned())),
        Some(("error", text)) => Err(ControlError::Failed(text.to_owned())),
        _ => Err(unreachable(io::Error::other("it sent no answer"))),
    }
}

/// Connects to the service. While it starts or reads its settings again, it does not listen for a moment.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Err(error) if is_not_listening(&error) && begun.elapsed() < LISTENS_WITHIN => {
                thread::sleep(Duration::from_millis(20));
            }
            connected => return connected,
        }
    }
}

fn is_not_listening(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The service's side of the control socket. The socket is removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Creates the socket in `state_dir`, which this process has locked.
    ///
    /// # Errors
    ///
    /// [`ControlError::Unusable`] if the socket cannot be created.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn open(state_dir: &Path) -> Result<Self, ControlError> {
        let path = state_dir.join(NAME);
        let listener = in_directory(state_dir, bind).and_then(|socket| {
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        });
        match listener {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(ControlError::Unusable { path, source }),
        }
    }

    /// Answers requests, several concurrently. Never returns.
    pub async fn serve<Answer>(&self, answer: impl Fn(Request) -> Answer) -> Infallible
    where
        Answer: Future<Output = Result<Reply, Refusal>>,
    {
        let accepted = futures::stream::unfold(&self.listener, |listener| async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => return Some((stream, listener)),
                    Err(_) => tokio::time::sleep(CLIENT_TIMEOUT).await,
                }
            }
        });
        accepted.for_each_concurrent(CONCURRENT_REQUESTS, |stream| serve_one(stream, &answer)).await;
        // `accepted` never ends.
        std::future::pending().await
    }
}

async fn serve_one<Answer>(mut stream: tokio::net::UnixStream, answer: impl Fn(Request) -> Answer)
where
    Answer: Future<Output = Result<Reply, Refusal>>,
{
    let mut bytes = Vec::new();
    let mut limited = (&mut stream).take(LONGEST_REQUEST);
    let read = limited.read_to_end(&mut bytes);
    if !matches!(tokio::time::timeout(CLIENT_TIMEOUT, read).await, Ok(Ok(_))) {
        return;
    }
    let answered = if let Some(request) = Request::parse(&bytes) {
        answer(request).await
    } else {
        let unknown = "unknown request; the running service may be an older version";
        Err(Refusal::Invalid(unknown.to_owned()))
    };
    let (line, then) = match answered {
        Ok(Reply { text, then }) => (format!("ok {text}\n"), then),
        Err(Refusal::Invalid(text)) => (format!("no {text}\n"), None),
        Err(Refusal::Failed(text)) => (format!("error {text}\n"), None),
    };
    // The client may have closed the connection.
    let _ = tokio::time::timeout(CLIENT_TIMEOUT, stream.write_all(line.as_bytes())).await;
    drop(then);
}

impl Drop for Control {
    fn drop(&mut self) {
        // The next start replaces a socket that could not be removed.
        let _ = fs::remove_file(&self.path);
    }
}

/// A listening socket. It is not open to other users at any moment: the mode is set before it listens.
fn bind(directory: &Path) -> io::Result<OwnedFd> {
    let path = directory.join(NAME);
    // The socket of a killed process. STATE_DIR is locked, so no other service runs.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Calls `act` with a short path of `directory`: the path of a socket may have 107 bytes at most.
fn in_directory<T>(directory: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let opened = fs::File::open(directory)?;
    act(&PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_parsed_from_its_bytes() {
        for request in [
            Request::Held("a".into()),
            Request::Approve(LibraryPath::root()),
            Request::Replay(LibraryPath::root()),
            Request::Replay(LibraryPath::from_bytes(b"a\n\xff")),
            Request::Parked(ParkedRequest::List { json: false }),
            Request::Parked(ParkedRequest::List { json: true }),
            Request::Parked(ParkedRequest::Retry(vec![])),
            Request::Parked(ParkedRequest::Retry(vec![1, u64::MAX])),
            Request::Parked(ParkedRequest::Drop(vec![7])),
            Request::Status,
        ] {
            assert_eq!(Request::parse(&request.to_bytes()), Some(request));
        }
        for strange in [&b""[..], b"approve", b"what\n", b"parked\nx", b"parked-drop\n1", b"parked-drop\n1\n"] {
            assert_eq!(Request::parse(strange), None);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_answers_through_a_socket_that_only_its_owner_can_open() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than a socket's path may be.
        let state_dir = folder.path().join("d".repeat(200));
        fs::create_dir(&state_dir).unwrap();
        let control = Control::open(&state_dir).unwrap();
        let mode = fs::metadata(state_dir.join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let asked = tokio::task::spawn_blocking({
            let state_dir = state_dir.clone();
            move || {
                let replay = |under: &str| ask(&state_dir, &Request::Replay(under.into()));
                let list = |json| ask(&state_dir, &Request::Parked(ParkedRequest::List { json })).unwrap();
                assert_eq!((list(false).as_str(), list(true).as_str()), ("two \nlines", ""));
                (ask(&state_dir, &Request::Approve(LibraryPath::root())), replay("a"), replay("b"))
            }
        });
        let serving = control.serve(|request| async move {
            match request {
                Request::Approve(_) | Request::Held(_) => Ok("done".to_owned().into()),
                Request::Replay(under) if under == "a".into() => Err(Refusal::Invalid(format!("not {under}"))),
                Request::Replay(_) => Err(Refusal::Failed("too bad".to_owned())),
                Request::Parked(ParkedRequest::List { json: false }) => Ok("two \nlines".to_owned().into()),
                Request::Parked(_) | Request::Status | Request::Reload => Ok(String::new().into()),
            }
        });
        tokio::select! {
            never = serving => match never {},
            asked = asked => {
                let (approved, refused, failed) = asked.unwrap();
                assert_eq!(approved.unwrap(), "done");
                assert!(matches!(refused, Err(ControlError::Refused(text)) if text == "not a"));
                assert!(matches!(failed, Err(ControlError::Failed(text)) if text == "too bad"));
            }
        }
        drop(control);
        assert!(matches!(
            ask(&state_dir, &Request::Approve(LibraryPath::root())),
            Err(ControlError::Unreachable { .. })
        ));
    }
}
