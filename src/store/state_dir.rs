//! The state directory: locked by one process, with an instance id that outlives it.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A state directory that is locked by this process until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// The directory could not be created or written.
    #[error("STATE_DIR: {path:?} cannot be used; give a directory that this user can write to")]
    Unusable {
        /// The directory or a file in it.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The directory belongs to another user.
    #[error(
        "STATE_DIR: {path:?} belongs to user {owner} and cannot be written by user {user}; run `chown -R {user}:{group} \
         {path:?}` (in a container: on the folder of the host), or start the program as user {owner} (in a container: \
         `--user {owner}:{owner_group}`)"
    )]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// The group id of the directory.
        owner_group: u32,
        /// The user id of this process.
        user: u32,
        /// The group id of this process.
        group: u32,
    },
    /// Another process has locked the directory.
    #[error(
        "STATE_DIR: {0:?} is in use by another file-watcher; stop that one, or give this one a directory of its own"
    )]
    InUse(PathBuf),
    /// The library was moved, and both the old and the new root have a store.
    #[error(
        "STATE_DIR: {old:?} contains the store of the old library path, and {new:?} that of the new path, which was \
         already scanned; remove {new:?} to relocate the old one"
    )]
    BothThere {
        /// The state directory for the old path.
        old: PathBuf,
        /// The state directory for the new path.
        new: PathBuf,
    },
    /// The file for the instance id has another content.
    #[error("STATE_DIR: {0:?} does not contain an instance id; set INSTANCE_ID, or remove the file to get a new one")]
    BadInstanceId(PathBuf),
}

impl StateDirError {
    /// The error that a directory cannot be used, with its owner if that is another user.
    fn of(path: &Path, source: io::Error) -> Self {
        let unusable = |source| Self::Unusable { path: path.to_path_buf(), source };
        // The nearest directory that exists is the one that cannot be written.
        let Some((existing, metadata)) = path.ancestors().find_map(|path| Some((path, path.metadata().ok()?))) else {
            return unusable(source);
        };
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if source.kind() != io::ErrorKind::PermissionDenied || metadata.uid() == user {
            return unusable(source);
        }
        Self::OtherOwner {
            path: existing.to_path_buf(),
            owner: metadata.uid(),
            owner_group: metadata.gid(),
            user,
            group,
        }
    }
}

impl StateDir {
    /// Locks the directory, and creates it if it does not exist, accessible to its owner only.
    ///
    /// # Errors
    ///
    /// [`StateDirError::InUse`] if another process has locked it; [`StateDirError::Unusable`] otherwise.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let unusable = |source| StateDirError::of(path, source);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::InUse(path.to_path_buf())),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// Moves the state directory `old` to `new`, for a library that was moved. Does nothing if `old` has no store.
    ///
    /// # Errors
    ///
    /// If a process has locked one of the directories, or if both have a store.
    pub fn take_over(old: &Path, new: &Path) -> Result<(), StateDirError> {
        let unusable = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StateDirError::Unusable { path, source }
        };
        if old == new || !has_store(old).map_err(unusable(old))? {
            return Ok(());
        }
        if has_store(new).map_err(unusable(new))? {
            return Err(StateDirError::BothThere { old: old.to_path_buf(), new: new.to_path_buf() });
        }
        let _locked = Self::open(old)?;
        if new.exists() {
            // A start that failed leaves these files behind.
            let _locked = Self::open(new)?;
            for name in ["lock", "instance_id"] {
                let removed = std::fs::remove_file(new.join(name));
                removed.or_else(ignore_missing).map_err(unusable(new))?;
            }
            std::fs::remove_dir(new).map_err(unusable(new))?;
        }
        let parent = new.parent().unwrap_or(new);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(unusable(parent))?;
        std::fs::rename(old, new).and_then(|()| File::open(parent)?.sync_all()).map_err(unusable(new))
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The instance id: eight hex digits, generated at the first call and constant from then on.
    ///
    /// # Errors
    ///
    /// If the file for it cannot be read or written, or has another content.
    pub fn instance_id(&self) -> Result<String, StateDirError> {
        let file = self.file("instance_id");
        let unusable = |source| StateDirError::Unusable { path: file.clone(), source };
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let id = text.trim();
                if id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    Ok(id.to_owned())
                } else {
                    Err(StateDirError::BadInstanceId(file))
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = Uuid::new_v4().simple().to_string()[..8].to_owned();
                // Written atomically: half an id would be an error at every later start.
                let unfinished = self.file("instance_id.new");
                let mut written = File::create(&unfinished).map_err(unusable)?;
                writeln!(written, "{id}").and_then(|()| written.sync_all()).map_err(unusable)?;
                std::fs::rename(&unfinished, &file).map_err(unusable)?;
                Ok(id)
            }
            Err(error) => Err(unusable(error)),
        }
    }
}

/// Whether a directory exists and has a store.
fn has_store(directory: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        if Path::new(&entry?.file_name()).extension().is_some_and(|extension| extension == "sqlite") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_id_stays_and_a_second_process_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let state = StateDir::open(&path).unwrap();
        let id = state.instance_id().unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateDirError::InUse(_))));
        drop(state);
        assert_eq!(StateDir::open(&path).unwrap().instance_id().unwrap(), id);
        std::fs::write(path.join("instance_id"), "?").unwrap();
        assert!(matches!(StateDir::open(&path).unwrap().instance_id(), Err(StateDirError::BadInstanceId(_))));
    }

    #[test]
    fn the_state_of_a_library_that_was_moved_is_taken_over_unless_somebody_has_it_or_both_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("deeper/new"));
        StateDir::take_over(&old, &new).unwrap();
        assert!(!new.exists());
        let state = StateDir::open(&old).unwrap();
        let id = state.instance_id().unwrap();
        std::fs::write(old.join("amqp.sqlite"), "a store").unwrap();
        assert!(matches!(StateDir::take_over(&old, &new), Err(StateDirError::InUse(_))));
        drop(state);
        // As a failed start leaves it.
        StateDir::open(&new).unwrap().instance_id().unwrap();
        StateDir::take_over(&old, &new).unwrap();
        assert_eq!(StateDir::open(&new).unwrap().instance_id().unwrap(), id);
        assert!(!old.exists() && new.join("amqp.sqlite").exists());
        StateDir::take_over(&old, &new).unwrap();
        std::fs::create_dir(&old).unwrap();
        std::fs::write(old.join("stdout.sqlite"), "a store").unwrap();
        assert!(matches!(StateDir::take_over(&old, &new), Err(StateDirError::BothThere { .. })));
    }
}
