//! The watcher: of directories through inotify, or of filesystems through fanotify.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::events::Handler;
use super::fanotify::Filesystems;
use super::inotify::Directories;

/// A running watcher. It stops when it is dropped.
#[derive(Debug)]
pub struct Watcher(Watched);

#[derive(Debug)]
enum Watched {
    Directories(Directories),
    Filesystems(Filesystems),
}

/// The watcher could not be started.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// This user or this process has too many inotify instances.
    #[error("the library cannot be watched: fs.inotify.max_user_instances or the limit of open files is reached")]
    TooManyInstances,
    /// fanotify is not allowed here, or this kernel or filesystem is not able to do it.
    #[error("fanotify cannot watch the filesystem of {}{}", filesystem.display(), what_helps(cause))]
    NoFanotify {
        /// A directory of the filesystem.
        filesystem: PathBuf,
        /// The error of the kernel.
        #[source]
        cause: io::Error,
    },
    /// inotify could not be used, for another cause.
    #[error("the library cannot be watched")]
    Notify(#[from] notify::Error),
    /// Another cause.
    #[error("the library cannot be watched")]
    Io(#[from] io::Error),
}

fn what_helps(cause: &io::Error) -> &'static str {
    match cause.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => ", which needs the capabilities CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH",
        Some(Errno::INVAL | Errno::NOSYS) => ", which needs Linux 5.17 or newer",
        Some(Errno::XDEV) => ", which is a subvolume of Btrfs; set WATCH_MODE=auto",
        Some(Errno::OPNOTSUPP | Errno::NODEV | Errno::STALE | Errno::OVERFLOW) => {
            ", which has no lasting file handles; set WATCH_MODE=auto"
        }
        _ => "",
    }
}

impl Watcher {
    /// Watches each directory under the handler's root with inotify, new directories included. Blocks while the watches
    /// are added, which takes microseconds per directory. If the kernel's limit of watches is reached, the handler's
    /// `trouble` is called and the rest stays unwatched; that is no error.
    ///
    /// # Errors
    /// If inotify cannot be set up or the root cannot be watched.
    pub fn of_directories(handler: Handler) -> Result<Self, WatchError> {
        Directories::watch(handler).map(|directories| Self(Watched::Directories(directories)))
    }

    /// Watches the filesystems of the handler's root and of everything mounted under it with fanotify. A filesystem under
    /// the root that cannot be watched is reported to the handler's `trouble`; that is no error.
    ///
    /// # Errors
    /// If the host does not allow it, or the kernel or the filesystem of the root is not able to do it.
    pub fn of_filesystems(handler: Handler) -> Result<Self, WatchError> {
        Filesystems::watch(handler).map(|filesystems| Self(Watched::Filesystems(filesystems)))
    }

    /// Removes the watches of these directories and of all directories under them. Blocks, for each directory for a time
    /// that grows with the number of watches. Does nothing if whole filesystems are watched.
    pub fn unwatch(&self, directories: impl IntoIterator<Item = PathBuf>) {
        if let Watched::Directories(watched) = &self.0 {
            watched.unwatch(directories);
        }
    }

    /// Returns once every event that the kernel reported before this call was handled and every directory that was created
    /// before it is watched. Returns false if the watcher does not work any more. Blocks.
    pub fn barrier(&self) -> bool {
        match &self.0 {
            Watched::Directories(directories) => directories.barrier(),
            Watched::Filesystems(filesystems) => filesystems.barrier(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::with_causes;

    #[test]
    fn an_error_of_fanotify_says_what_helps() {
        let text =
            |errno: Errno| with_causes(&WatchError::NoFanotify { filesystem: "/music".into(), cause: errno.into() });
        assert_eq!(
            text(Errno::PERM),
            "fanotify cannot watch the filesystem of /music, which needs the capabilities CAP_SYS_ADMIN and \
             CAP_DAC_READ_SEARCH: Operation not permitted (os error 1)"
        );
        assert!(text(Errno::INVAL).contains("Linux 5.17"));
        assert!(text(Errno::XDEV).contains("subvolume of Btrfs; set WATCH_MODE=auto"));
        assert!(text(Errno::NODEV).contains("set WATCH_MODE=auto"));
        assert_eq!(
            text(Errno::MFILE),
            "fanotify cannot watch the filesystem of /music: Too many open files (os error 24)"
        );
    }
}
