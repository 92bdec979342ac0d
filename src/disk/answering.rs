//! Which mounts of the library have a server that does not answer.
//!
//! A look at a file of such a mount waits for as long as the server is away, and nothing can end that wait, not
//! even the end of the process. So each mount with a server is asked first, by a process of its own. While one does
//! not answer, every look at what is on it fails at once; when that process ends, the mount answers again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{LISTING_BUFFER, Listed, Root, mountinfo};
use crate::model::LibraryPath;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// The mounts with a server, and those of them that do not answer. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Answering(Arc<State>);

#[derive(Debug, Default)]
struct State {
    mounts: Mutex<Servers>,
    /// Rises whenever a server stops answering or answers again.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Servers {
    /// The mounts with a server, by their place.
    places: HashMap<LibraryPath, Key>,
    /// Those that are being asked.
    asked: HashSet<Key>,
    /// Those that did not answer in time.
    silent: HashSet<Key>,
}

/// A mount, by the kernel's number and its place.
type Key = (u64, PathBuf);

impl Answering {
    /// Asks all mounts with a server beneath `root`, and waits for their answers, but not for long.
    pub(super) fn ask(&self, root: &Path) {
        let Ok(table) = mountinfo::mounts_beneath(root) else { return };
        let mounts: HashMap<LibraryPath, Key> = table
            .iter()
            .filter(|entry| entry.has_server())
            .filter_map(|entry| {
                let place = LibraryPath::beneath(&std::fs::canonicalize(root).ok()?, &entry.point)?;
                Some((place, (entry.number, entry.point.clone())))
            })
            .collect();
        let (answer, answers) = mpsc::channel();
        let mut waiting = 0;
        let mut servers = self.lock();
        servers.places.clone_from(&mounts);
        servers.silent.retain(|key| mounts.values().any(|mount| mount == key));
        for key in mounts.into_values() {
            if servers.asked.insert(key.clone()) {
                let (answering, answer) = (self.clone(), answer.clone());
                let spawned = thread::Builder::new().name("ask".into()).spawn(move || {
                    ask_by_process(&key.1);
                    answering.has_answered(&key);
                    let _ = answer.send(());
                });
                waiting += usize::from(spawned.is_ok());
            }
        }
        drop((servers, answer));
        let begun = Instant::now();
        while waiting > 0 && answers.recv_timeout(LIMIT.saturating_sub(begun.elapsed())).is_ok() {
            waiting -= 1;
        }
        if waiting > 0 {
            self.note_silent();
        }
    }

    /// Fails if `path` is on a mount that does not answer.
    pub(super) fn check(&self, path: &LibraryPath) -> io::Result<()> {
        let servers = self.lock();
        let is_silent = |(place, key): (&LibraryPath, &Key)| servers.silent.contains(key) && path.is_at_or_under(place);
        if !servers.silent.is_empty() && servers.places.iter().any(is_silent) {
            return Err(Errno::TIMEDOUT.into());
        }
        Ok(())
    }

    /// Whether `path` is on a mount with a server.
    pub(super) fn has_server(&self, path: &LibraryPath) -> bool {
        self.lock().places.keys().any(|place| path.is_at_or_under(place))
    }

    /// The places of the mounts that do not answer.
    pub(super) fn silent(&self) -> Vec<LibraryPath> {
        let servers = self.lock();
        let silent = servers.places.iter().filter(|(_, key)| servers.silent.contains(*key));
        silent.map(|(place, _)| place.clone()).collect()
    }

    /// A number that rises whenever a server stops answering or answers again.
    pub(super) fn version(&self) -> u64 {
        self.0.version.load(Ordering::SeqCst)
    }

    /// Does something on a thread of its own, and waits for its end, but not for long; `None` if it takes longer.
    pub(super) fn within_limit<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, outcome) = mpsc::channel();
        let spawned = thread::Builder::new().name("look".into()).spawn(move || {
            let _ = done.send(work());
        });
        spawned.ok().and_then(|_| outcome.recv_timeout(LIMIT).ok())
    }

    fn note_silent(&self) {
        let mut servers = self.lock();
        let news: Vec<Key> = servers.asked.difference(&servers.silent).cloned().collect();
        for key in news {
            let place = key.1.display();
            tracing::error!(%place, "this filesystem does not answer; its files stay as they were, and the rest goes on");
            servers.silent.insert(key);
            self.0.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn has_answered(&self, key: &Key) {
        let mut servers = self.lock();
        servers.asked.remove(key);
        if servers.silent.remove(key) {
            tracing::info!(place = %key.1.display(), "this filesystem answers again");
            self.0.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Servers> {
        self.0.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// Asks the mounts beneath the root that have a server whether it answers. Blocks for some seconds if one does
    /// not; from then on every look at its files fails at once, until it answers.
    pub fn ask_servers(&self) {
        self.answering.ask(&self.path);
    }

    /// The places of the mounts that did not answer.
    pub fn silent_places(&self) -> Vec<LibraryPath> {
        self.answering.silent()
    }

    /// A number that rises whenever a server stops answering or answers again.
    pub fn answers_version(&self) -> u64 {
        self.answering.version()
    }

    /// Fails if a look at `path` depends on a server that did not answer.
    pub fn check_answered(&self, path: &LibraryPath) -> io::Result<()> {
        self.answering.check(path)
    }

    /// Whether a look at `path` depends on a server.
    pub fn has_server(&self, path: &LibraryPath) -> bool {
        self.answering.has_server(path)
    }

    /// Lists a directory as [`Root::list`] does, and gives up if a server that this depends on does not answer.
    pub fn list_in_time(self: &Arc<Self>, directory: &LibraryPath) -> io::Result<Option<Vec<Listed>>> {
        if !self.has_server(directory) {
            return self.list(directory);
        }
        let (root, directory) = (Arc::clone(self), directory.clone());
        Answering::within_limit(move || root.list(&directory)).unwrap_or_else(|| {
            self.ask_servers();
            Err(Errno::TIMEDOUT.into())
        })
    }
}

/// Waits until a process of its own has an answer from what is mounted there.
fn ask_by_process(point: &Path) {
    let mut ask = Command::new("/proc/self/exe");
    ask.arg(ASK_MOUNT).arg(point).env_clear().current_dir("/");
    ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = ask.status() {
        tracing::warn!(%error, "cannot ask whether a filesystem answers; it is taken to do so");
    }
}

/// The argument that makes this program do nothing but [`ask_mount`].
pub const ASK_MOUNT: &str = "--ask-mount";

/// Waits until what is mounted at `point` has answered anything, be it with an error.
pub fn ask_mount(point: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(directory) = rustix::fs::openat(CWD, point, flags, Mode::empty()) {
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BUFFER];
        let _ = RawDir::new(&directory, &mut buffer).next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(silent: bool) -> Answering {
        let answering = Answering::default();
        let key = (7, PathBuf::from("/music/cloud"));
        answering.lock().places.insert("cloud".into(), key.clone());
        answering.lock().asked.insert(key.clone());
        answering.note_silent();
        if !silent {
            answering.has_answered(&key);
        }
        answering
    }

    #[test]
    fn only_what_is_on_a_mount_that_does_not_answer_is_refused() {
        let answering = servers(true);
        answering.check(&"cloud/a.mp3".into()).unwrap_err();
        answering.check(&"cloud".into()).unwrap_err();
        answering.check(&"clouds/a.mp3".into()).unwrap();
        assert_eq!((answering.silent(), answering.version()), (vec!["cloud".into()], 1));
        assert!(answering.has_server(&"cloud/a".into()) && !answering.has_server(&"a".into()));
        let answering = servers(false);
        answering.check(&"cloud/a.mp3".into()).unwrap();
        assert_eq!((answering.silent(), answering.version()), (Vec::new(), 2));
    }
}
