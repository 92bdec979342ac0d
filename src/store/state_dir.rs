//! The folder of the store: locked by one process, and with an identity that outlives it.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A folder of state that is this process's until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why a folder cannot be this process's.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It could not be made or written to.
    #[error("STATE_DIR: {path:?} cannot be used: {source}; give a folder that this user can write to")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("STATE_DIR: {0:?} is in use by another file-watcher; stop that one, or give this one a folder of its own")]
    InUse(PathBuf),
    /// A library was moved, and its new place has a state of its own already.
    #[error(
        "STATE_DIR: {old:?} holds the store of the library's old place, and {new:?} one of the new place, which was \
         scanned already; remove {new:?} to relocate the old one"
    )]
    BothThere {
        /// The old place's state.
        old: PathBuf,
        /// The new place's state.
        new: PathBuf,
    },
    /// The file with the identity has something else in it.
    #[error("STATE_DIR: {0:?} does not hold an instance id; set INSTANCE_ID, or remove the file to get a new one")]
    BadInstanceId(PathBuf),
}

impl StateDir {
    /// Makes the folder where there is none, readable by its owner only, and locks it.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let unusable = |source| StateDirError::Unusable { path: path.to_path_buf(), source };
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

    /// Makes the state at `old` the one at `new`, for a library that was moved: nothing happens where there is no store
    /// at `old`. Refused while a process has either of them, and where both hold a store.
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
            // A start that was refused leaves these behind.
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The identity of this state: eight hex digits, made once and the same ever after.
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
                // Whole or not at all: half an id would be an error at every later start.
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

/// Whether a directory, which need not exist, holds a store.
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
    fn the_identity_stays_and_a_second_process_is_refused() {
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
        // As a refused start leaves it.
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
