//! The mounts of the library, written in the first transaction that needs them.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::{Store, StoreError};
use crate::disk::{KnownMount, Mounts};
use crate::model::{LibraryPath, MountId};

impl Store {
    /// Loads the stored mounts into `mounts`, and stores its changes from now on.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn keep_mounts(&self, mounts: &Arc<Mounts>) -> Result<(), StoreError> {
        mounts.remember(self.index().mounts()?);
        let kept = KeptMounts { version: mounts.version(), mounts: Arc::clone(mounts) };
        self.jobs.send(Box::new(move |writer| writer.mounts = Some(kept))).map_err(|_| StoreError::Stopped)
    }
}

/// The register of mounts, and the version that is stored.
pub(super) struct KeptMounts {
    mounts: Arc<Mounts>,
    version: u64,
}

impl KeptMounts {
    /// Writes the mounts if they have changed; returns the written version.
    pub(super) fn write(&self, connection: &Connection) -> Result<Option<u64>, StoreError> {
        if self.mounts.version() == self.version {
            return Ok(None);
        }
        let (known, version) = self.mounts.known();
        for mount in &known {
            put(connection, mount)?;
        }
        Ok(Some(version))
    }

    /// Records that this version was committed.
    pub(super) fn committed(&mut self, version: u64) {
        self.version = version;
    }
}

pub(super) fn read(connection: &Connection) -> Result<Vec<KnownMount>, rusqlite::Error> {
    let mut statement = connection.prepare(
        "SELECT id, place, kind, source, filesystem, root_inode, root_born_ns, has_unstable_inodes
         FROM mounts ORDER BY id",
    )?;
    let mounts = statement.query_map([], |row| {
        Ok(KnownMount {
            id: MountId(row.get(0)?),
            place: LibraryPath::from_bytes(row.get_ref(1)?.as_blob()?),
            kind: row.get(2)?,
            source: row.get(3)?,
            filesystem: row.get(4)?,
            root_inode: row.get::<_, i64>(5)?.cast_unsigned(),
            root_born_ns: row.get(6)?,
            has_unstable_inodes: row.get(7)?,
        })
    })?;
    mounts.collect()
}

pub(super) fn put(connection: &Connection, mount: &KnownMount) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO mounts
                 (id, place, kind, source, filesystem, root_inode, root_born_ns, has_unstable_inodes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            mount.id.0,
            mount.place.as_bytes(),
            mount.kind,
            mount.source,
            mount.filesystem,
            mount.root_inode.cast_signed(),
            mount.root_born_ns,
            mount.has_unstable_inodes,
        ])?;
    Ok(())
}
