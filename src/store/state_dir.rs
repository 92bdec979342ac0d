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
}
