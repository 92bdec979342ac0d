//! Which mounts of the library have a server that does not respond.
//!
//! An access to a file on such a mount blocks for as long as the server is away. Nothing can end that wait, not even
//! the end of the process. So each mount with a server is probed first, by a process of its own. While a probe gets
//! no response, every access to the mount fails at once. When the probe ends, the mount responds again.

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

use super::{LISTING_BUFFER, Listing, Root, mountinfo};
use crate::model::LibraryPath;

/// How long a server may take to respond.
const LIMIT: Duration = Duration::from_secs(5);

/// The mounts with a server, and those of them that do not respond. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    mounts: Mutex<MountStates>,
    /// Rises whenever a server stops responding or responds again.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct MountStates {
    /// The mounts with a server, by their place.
    places: HashMap<LibraryPath, Key>,
    /// The mounts that are being probed.
    probed: HashSet<Key>,
    /// The mounts that did not respond in time.
    silent: HashSet<Key>,
}

/// A mount, by the kernel's number and its place.
type Key = (u64, PathBuf);

impl Servers {
    /// Probes all mounts with a server under `root`, and waits for the responses, up to a limit.
    pub(super) fn probe(&self, root: &Path) {
        let Ok(table) = mountinfo::mounts_under(root) else { return };
        let mounts: HashMap<LibraryPath, Key> = table
            .iter()
            .filter(|entry| entry.has_server())
            .filter_map(|entry| {
                let place = LibraryPath::strip_root(&std::fs::canonicalize(root).ok()?, &entry.point)?;
                Some((place, (entry.number, entry.point.clone())))
            })
            .collect();
        let (answer, answers) = mpsc::channel();
        let mut waiting = 0;
        let mut servers = self.lock();
        servers.places.clone_from(&mounts);
        servers.silent.retain(|key| mounts.values().any(|mount| mount == key));
        for key in mounts.into_values() {
            if servers.probed.insert(key.clone()) {
                let (servers, answer) = (self.clone(), answer.clone());
                let spawned = thread::Builder::new().name("ask".into()).spawn(move || {
                    probe_by_process(&key.1);
                    servers.mark_responding(&key);
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
            self.mark_silent();
        }
    }

    /// Fails if `path` is on a mount that does not respond.
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

    /// The places of the mounts that do not respond.
    pub(super) fn silent(&self) -> Vec<LibraryPath> {
        let servers = self.lock();
        let silent = servers.places.iter().filter(|(_, key)| servers.silent.contains(*key));
        silent.map(|(place, _)| place.clone()).collect()
    }

    /// A number that rises whenever a server stops responding or responds again.
    pub(super) fn version(&self) -> u64 {
        self.0.version.load(Ordering::SeqCst)
    }

    /// Does `work` on a thread of its own, and waits for it up to a limit; `None` if it takes longer.
    pub(super) fn within_limit<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, outcome) = mpsc::channel();
        let spawned = thread::Builder::new().name("look".into()).spawn(move || {
            let _ = done.send(work());
        });
        spawned.ok().and_then(|_| outcome.recv_timeout(LIMIT).ok())
    }

    fn mark_silent(&self) {
        let mut servers = self.lock();
        let new: Vec<Key> = servers.probed.difference(&servers.silent).cloned().collect();
        for key in new {
            let place = key.1.display();
            tracing::error!(%place, "this filesystem does not respond; only its files are left as they were");
            servers.silent.insert(key);
            self.0.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn mark_responding(&self, key: &Key) {
        let mut servers = self.lock();
        servers.probed.remove(key);
        if servers.silent.remove(key) {
            tracing::info!(place = %key.1.display(), "this filesystem responds again");
            self.0.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn lock(&self) -> MutexGuard<'_, MountStates> {
        self.0.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// Checks whether the servers of the mounts under the root respond. Blocks for some seconds if one does not. From
    /// then on, every access to its files fails at once, until it responds again.
    pub fn ask_servers(&self) {
        self.servers.probe(&self.path);
    }

    /// The places of the mounts whose servers do not respond.
    pub fn silent_places(&self) -> Vec<LibraryPath> {
        self.servers.silent()
    }

    /// A number that rises whenever a server stops responding or responds again.
    pub fn answers_version(&self) -> u64 {
        self.servers.version()
    }

    /// Checks that `path` does not depend on a server that does not respond.
    ///
    /// # Errors
    ///
    /// If it does.
    pub fn check_answered(&self, path: &LibraryPath) -> io::Result<()> {
        self.servers.check(path)
    }

    /// Whether an access to `path` depends on a server.
    pub fn has_server(&self, path: &LibraryPath) -> bool {
        self.servers.has_server(path)
    }

    /// Lists a directory as [`Root::list`] does, but gives up if a server does not respond.
    ///
    /// # Errors
    ///
    /// As [`Root::list`], or if a server does not respond in time.
    pub fn list_in_time(self: &Arc<Self>, directory: &LibraryPath) -> io::Result<Option<Listing>> {
        if !self.has_server(directory) {
            return self.list(directory);
        }
        let (root, directory) = (Arc::clone(self), directory.clone());
        Servers::within_limit(move || root.list(&directory)).unwrap_or_else(|| {
            self.ask_servers();
            Err(Errno::TIMEDOUT.into())
        })
    }
}

/// Waits until a process of its own gets a response from the mount at `point`.
fn probe_by_process(point: &Path) {
    let mut probe = Command::new("/proc/self/exe");
    probe.arg(ASK_MOUNT).arg(point).env_clear().current_dir("/");
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = probe.status() {
        tracing::warn!(%error, "cannot check whether a filesystem responds; it is assumed to respond");
    }
}

/// The argument with which this program only runs [`ask_mount`].
pub const ASK_MOUNT: &str = "--ask-mount";

/// Waits until the mount at `point` responds, even if with an error.
pub fn ask_mount(point: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(directory) = rustix::fs::openat(CWD, point, flags, Mode::empty()) {
        let mut buffer = [const { MaybeUninit::uninit() }; LISTING_BUFFER];
        let _ = RawDir::new(&directory, &mut buffer).next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mount(silent: bool) -> Servers {
        let servers = Servers::default();
        let key = (7, PathBuf::from("/music/cloud"));
        servers.lock().places.insert("cloud".into(), key.clone());
        servers.lock().probed.insert(key.clone());
        servers.mark_silent();
        if !silent {
            servers.mark_responding(&key);
        }
        servers
    }

    #[test]
    fn only_paths_on_a_mount_that_does_not_respond_are_refused() {
        let servers = with_mount(true);
        servers.check(&"cloud/a.mp3".into()).unwrap_err();
        servers.check(&"cloud".into()).unwrap_err();
        servers.check(&"clouds/a.mp3".into()).unwrap();
        assert_eq!((servers.silent(), servers.version()), (vec!["cloud".into()], 1));
        assert!(servers.has_server(&"cloud/a".into()) && !servers.has_server(&"a".into()));
        let servers = with_mount(false);
        servers.check(&"cloud/a.mp3".into()).unwrap();
        assert_eq!((servers.silent(), servers.version()), (Vec::new(), 2));
    }
}
