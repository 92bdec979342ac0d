//! Forgets the files that belong to another instance now.

use std::sync::mpsc;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::commit::Writer;
use super::index::range_under;
use super::{Store, StoreError, schema};
use crate::model::{LibraryPath, Partition};

/// In `meta`: the part of the library that the rows are of. A store without it has the whole library.
const PARTITION: &str = "partition";

impl Store {
    /// Forgets the rows of files that belong to another instance, unless the rows are those of this part already. Returns
    /// their number. Nothing is published for them, because the other instance publishes them. Blocks.
    ///
    /// # Errors
    ///
    /// If the store cannot be written. Nothing was changed then.
    pub fn keep_only(&self, partition: Partition) -> Result<u64, StoreError> {
        let (reply, answer) = mpsc::channel();
        let job = move |writer: &mut Writer| drop(reply.send(writer.keep_only(partition)));
        self.jobs.send(Box::new(job)).map_err(|_| StoreError::Stopped)?;
        answer.recv().map_err(|_| StoreError::Stopped)?
    }
}

impl Writer {
    fn keep_only(&mut self, partition: Partition) -> Result<u64, StoreError> {
        let text = partition.to_string();
        let known = schema::meta(&self.connection, PARTITION)?;
        if known.unwrap_or_else(|| Partition::default().to_string().into_bytes()) == text.as_bytes() {
            return Ok(0);
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let forgotten = forget_others(&transaction, partition)?;
        transaction.execute(
            "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            params![PARTITION, text.as_bytes()],
        )?;
        transaction.commit()?;
        Ok(forgotten)
    }
}

/// Deletes the rows that do not belong to this part, and returns their number. One query finds each entry of the root.
fn forget_others(connection: &Connection, partition: Partition) -> Result<u64, StoreError> {
    let mut forgotten = 0;
    let mut from = Vec::new();
    let mut next = connection.prepare("SELECT path FROM files WHERE path >= ?1 ORDER BY path LIMIT 1")?;
    while let Some(path) =
        next.query_row(params![from], |row| Ok(LibraryPath::from_bytes(row.get_ref(0)?.as_blob()?))).optional()?
    {
        let first = LibraryPath::from_bytes(path.names().next().unwrap_or_default());
        let is_here = partition.has_file(&path);
        if first == path {
            if !is_here {
                forgotten += connection.execute("DELETE FROM files WHERE path = ?1", params![path.as_bytes()])?;
            }
            // The least path after this one.
            from = [path.as_bytes(), b"\0"].concat();
        } else {
            let (start, end) = range_under(&first);
            if !is_here {
                forgotten +=
                    connection.execute("DELETE FROM files WHERE path > ?1 AND path < ?2", params![start, end])?;
            }
            from = end;
        }
    }
    Ok(forgotten as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileStat, Fingerprint, Index, Metadata, MountId, Row, Track};
    use crate::store::{commit, tests};

    fn part(text: &str) -> Partition {
        text.parse().unwrap()
    }

    fn paths(store: &Store) -> Vec<String> {
        let rows = store.index().rows_after(&LibraryPath::root(), None, 1000).unwrap();
        rows.iter().map(|(path, _)| path.to_string()).collect()
    }

    #[tokio::test]
    async fn only_the_files_of_the_part_stay_and_nothing_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let all = ["a.mp3", "a/x.mp3", "a/y/z.mp3", "b.mp3", "b/x.mp3", "c/x.mp3", "d/x.mp3", "e f/x.mp3"];
        let store = tests::open(folder.path());
        store
            .on_writer(move |writer| {
                for path in all {
                    let track = Track {
                        fingerprint: Fingerprint { sha256: [1; 32], xxh128: 1 },
                        sound: None,
                        metadata: Metadata::default(),
                    };
                    let stat = FileStat { mount: MountId(0), ..FileStat::default() };
                    commit::put(
                        &writer.connection,
                        &Row { path: path.into(), stat, track: track.into(), first_published: 0 },
                    )?;
                }
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(store.keep_only(Partition::default()).unwrap(), 0);
        assert_eq!(paths(&store).len(), all.len());
        let expected: Vec<String> = all
            .into_iter()
            .filter(|path| part("2/2").has_file(&LibraryPath::from(*path)))
            .map(ToOwned::to_owned)
            .collect();
        assert!(!expected.is_empty() && expected.len() < all.len());
        let forgotten = store.keep_only(part("2/2")).unwrap();
        assert_eq!(usize::try_from(forgotten).unwrap(), all.len() - expected.len());
        assert_eq!(paths(&store), expected);
        assert_eq!((store.keep_only(part("2/2")).unwrap(), store.last_sequence()), (0, 0));
        store.keep_only(part("1/2")).unwrap();
        assert_eq!(paths(&store), [""; 0]);
    }
}
