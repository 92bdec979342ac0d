//! Figures about the files of the index: how many of which size and year there are, and which have equal content.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::index::{IndexReader, range_under};
use crate::model::LibraryPath;

/// The files of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The kind, such as `1999`.
    pub name: String,
    /// Their number.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// Files with equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateGroup {
    /// The SHA-256 of each.
    pub sha256: [u8; 32],
    /// The size of each.
    pub size: u64,
    /// The size of all, without one of them and without further hard links, which take no space.
    pub wasted_bytes: u64,
    /// The files, the one with the oldest modification time first.
    pub files: Vec<DuplicatePath>,
}

/// One of several files with equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicatePath {
    /// The path.
    pub path: LibraryPath,
    /// The modification time, in seconds since the epoch.
    pub modified: i64,
    /// Whether it is a hard link to the file of an earlier path of the group.
    pub is_hard_link: bool,
}

/// All groups of files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// The groups that waste most, up to a limit.
    pub groups: Vec<DuplicateGroup>,
    /// The number of all groups.
    pub total_groups: u64,
    /// The sum of all groups' `wasted_bytes`.
    pub wasted_bytes: u64,
}

impl IndexReader {
    /// The files by size.
    ///
    /// # Errors
    ///
    /// If the index cannot be read.
    pub fn by_size(&self) -> Result<Vec<Figures>, rusqlite::Error> {
        let named = |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT CASE WHEN size < 1000000 THEN 0 WHEN size < 5000000 THEN 1 WHEN size < 10000000 THEN 2
                             WHEN size < 50000000 THEN 3 WHEN size < 100000000 THEN 4 ELSE 5 END AS class,
                        count(*), sum(size)
                 FROM files GROUP BY class ORDER BY class",
            )?;
            let names = ["under 1 MB", "1 to 5 MB", "5 to 10 MB", "10 to 50 MB", "50 to 100 MB", "over 100 MB"];
            let rows = statement.query_map([], |row| {
                let name = names[usize::from(row.get::<_, u8>(0)?)].to_owned();
                Ok(Figures { name, files: count(row, 1)?, bytes: count(row, 2)? })
            })?;
            rows.collect()
        };
        self.with(named)
    }

    /// The files by the year of their date tag, in order. The last one is `unknown`, if some have none.
    ///
    /// # Errors
    ///
    /// If the index cannot be read.
    pub fn by_year(&self) -> Result<Vec<Figures>, rusqlite::Error> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT CASE WHEN date GLOB '[0-9][0-9][0-9][0-9]*' THEN substr(date, 1, 4) ELSE 'unknown' END AS year,
                        count(*), sum(size)
                 FROM (SELECT json_extract(metadata, '$.tags.date') AS date, size FROM files)
                 GROUP BY year ORDER BY year",
            )?;
            let rows = statement
                .query_map([], |row| Ok(Figures { name: row.get(0)?, files: count(row, 1)?, bytes: count(row, 2)? }))?;
            rows.collect()
        })
    }

    /// The number of files, and the sum of their sizes.
    ///
    /// # Errors
    ///
    /// If the index cannot be read.
    pub fn totals(&self) -> Result<(u64, u64), rusqlite::Error> {
        self.with(|connection| {
            let totals = |row: &rusqlite::Row<'_>| Ok((count(row, 0)?, count(row, 1)?));
            connection.query_row("SELECT count(*), coalesce(sum(size), 0) FROM files", [], totals)
        })
    }

    /// The groups of files with equal content of which at least one is at or under `under`, at most `limit`: those
    /// first that waste most.
    ///
    /// # Errors
    ///
    /// If the index cannot be read.
    pub fn duplicates(&self, under: &LibraryPath, limit: usize) -> Result<Duplicates, rusqlite::Error> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(DUPLICATES)?;
            let (start, end) = range_under(under);
            let found = statement
                .query_map(params![under.as_bytes(), start, end], |row| {
                    Ok((row.get::<_, [u8; 32]>(0)?, count(row, 1)?, count(row, 2)?))
                })?
                .collect::<Result<Vec<_>, _>>()?;
            let group = |&(sha256, size, wasted_bytes): &([u8; 32], u64, u64)| {
                Ok(DuplicateGroup { sha256, size, wasted_bytes, files: files_with(connection, &sha256)? })
            };
            Ok(Duplicates {
                groups: found.iter().take(limit).map(group).collect::<Result<_, rusqlite::Error>>()?,
                total_groups: found.len() as u64,
                wasted_bytes: found.iter().map(|(_, _, wasted)| wasted).sum(),
            })
        })
    }
}

/// The contents that several files have: SHA-256, size and wasted bytes. The inner query reads only an index. Paths of
/// which only the name is known have no hash, and empty files have no content.
const DUPLICATES: &str = "
    SELECT sha256, size, size * (count(DISTINCT coalesce(mount || ':' || inode, path)) - 1) AS wasted
    FROM files
    WHERE sha256 IN (SELECT sha256 FROM files WHERE sha256 <> zeroblob(32) GROUP BY sha256 HAVING count(*) > 1)
        AND size > 0
    GROUP BY sha256
    HAVING max(path = ?1 OR (path > ?2 AND path < ?3))
    ORDER BY wasted DESC, sha256";

fn files_with(connection: &Connection, sha256: &[u8; 32]) -> Result<Vec<DuplicatePath>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT path, CAST(mtime_ns AS INTEGER), mount, inode FROM files WHERE sha256 = ?1 ORDER BY 2, path",
    )?;
    let mut inodes = HashSet::new();
    let files = statement.query_map(params![sha256], |row| {
        let path = LibraryPath::from_bytes(row.get_ref(0)?.as_blob()?);
        let (mount, inode): (u32, Option<i64>) = (row.get(2)?, row.get(3)?);
        let is_hard_link = inode.is_some_and(|inode| !inodes.insert((mount, inode)));
        Ok(DuplicatePath { path, modified: row.get::<_, i64>(1)? / 1_000_000_000, is_hard_link })
    })?;
    files.collect()
}

fn count(row: &rusqlite::Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Content, Field, Seen};
    use crate::store::tests::{file, open};

    fn song(path: &str, content: u8, size: u64, mtime_s: i64, date: Option<&str>) -> crate::model::Observation {
        let mut observation = file(&path.into(), content);
        if let Seen::File { stat, content: Content::Read(track), .. } = &mut observation.seen {
            let name = if path == "link.mp3" { "d.mp3" } else { path };
            stat.inode = u64::from(name.as_bytes()[0]);
            (stat.size, stat.mtime_ns) = (size, i128::from(mtime_s) * 1_000_000_000);
            std::sync::Arc::make_mut(track).metadata.tags = date.map(|date| (Field::Date, date)).into_iter().collect();
        }
        observation
    }

    #[tokio::test]
    async fn the_files_of_an_index_are_counted_and_those_with_equal_content_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let songs = [
            song("a.mp3", 1, 3_000_000, 30, Some("1999-12-31")),
            song("b.mp3", 1, 3_000_000, 20, Some("1999")),
            song("c.mp3", 2, 500, 10, None),
            song("d.mp3", 2, 500, 11, Some("soon")),
            song("e.mp3", 3, 200_000_000, 10, Some("2001")),
            // A hard link to d.mp3.
            song("link.mp3", 2, 500, 11, Some("soon")),
        ];
        // One after the other, so that none counts as moved.
        for song in songs {
            store.commit([song].into()).await.unwrap();
        }
        let index = store.index();
        let lines = |figures: Vec<Figures>| -> Vec<(String, u64, u64)> {
            figures.into_iter().map(|it| (it.name, it.files, it.bytes)).collect()
        };
        assert_eq!(
            lines(index.by_size().unwrap()),
            [
                ("under 1 MB".to_owned(), 3, 1500),
                ("1 to 5 MB".to_owned(), 2, 6_000_000),
                ("over 100 MB".to_owned(), 1, 200_000_000)
            ]
        );
        assert_eq!(
            lines(index.by_year().unwrap()),
            [("1999".to_owned(), 2, 6_000_000), ("2001".to_owned(), 1, 200_000_000), ("unknown".to_owned(), 3, 1500)]
        );
        assert_eq!(index.totals().unwrap(), (6, 206_001_500));
        let found = index.duplicates(&LibraryPath::root(), 1).unwrap();
        assert_eq!((found.total_groups, found.wasted_bytes), (2, 3_000_500));
        let copies = |group: &DuplicateGroup| -> Vec<(String, i64, bool)> {
            group.files.iter().map(|it| (it.path.to_string(), it.modified, it.is_hard_link)).collect()
        };
        assert_eq!(copies(&found.groups[0]), [("b.mp3".into(), 20, false), ("a.mp3".into(), 30, false)]);
        assert_eq!((found.groups[0].size, found.groups[0].wasted_bytes), (3_000_000, 3_000_000));
        let found = index.duplicates(&"d.mp3".into(), 9).unwrap();
        let expected = [("c.mp3".into(), 10, false), ("d.mp3".into(), 11, false), ("link.mp3".into(), 11, true)];
        assert_eq!((found.total_groups, copies(&found.groups[0])), (1, expected.to_vec()));
        assert!(index.oldest_message().unwrap().is_some());
    }
}
