//! Figures about the files of the index: how many of which size and year there are, and which have equal content.

use rusqlite::{Connection, params};

use super::index::IndexReader;
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
    /// The size of each.
    pub size: u64,
    /// The files, the one with the oldest modification time first, and the times in seconds since the epoch.
    pub files: Vec<(LibraryPath, i64)>,
}

/// All groups of files with equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// The groups that waste most, up to a limit.
    pub groups: Vec<DuplicateGroup>,
    /// The number of all groups.
    pub total_groups: u64,
    /// The size of all files that have an equal one, without one of each group.
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

    /// The groups of files with equal content, at most `limit`, those first that waste most.
    ///
    /// # Errors
    ///
    /// If the index cannot be read.
    pub fn duplicates(&self, limit: usize) -> Result<Duplicates, rusqlite::Error> {
        self.with(|connection| {
            let (total_groups, wasted_bytes) = connection
                .prepare_cached(
                    "SELECT count(*), coalesce(sum(wasted), 0)
                     FROM (SELECT size * (count(*) - 1) AS wasted FROM files GROUP BY sha256 HAVING count(*) > 1)",
                )?
                .query_row([], |row| Ok((count(row, 0)?, count(row, 1)?)))?;
            let mut statement = connection.prepare_cached(
                "SELECT sha256, size FROM files GROUP BY sha256 HAVING count(*) > 1
                 ORDER BY size * (count(*) - 1) DESC LIMIT ?1",
            )?;
            let groups = statement
                .query_map(params![i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?, count(row, 1)?))
                })?
                .map(|group| {
                    let (sha256, size) = group?;
                    Ok(DuplicateGroup { size, files: files_with(connection, &sha256)? })
                })
                .collect::<Result<_, rusqlite::Error>>()?;
            Ok(Duplicates { groups, total_groups, wasted_bytes })
        })
    }
}

fn files_with(connection: &Connection, sha256: &[u8]) -> Result<Vec<(LibraryPath, i64)>, rusqlite::Error> {
    let mut statement = connection
        .prepare_cached("SELECT path, CAST(mtime_ns AS INTEGER) FROM files WHERE sha256 = ?1 ORDER BY 2, path")?;
    let files = statement.query_map(params![sha256], |row| {
        let path = LibraryPath::from_bytes(row.get_ref(0)?.as_blob()?);
        Ok((path, row.get::<_, i64>(1)? / 1_000_000_000))
    })?;
    files.collect()
}

fn count(row: &rusqlite::Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Content, Seen};
    use crate::store::tests::{file, open};

    fn song(path: &str, content: u8, size: u64, mtime_s: i64, date: Option<&str>) -> crate::model::Observation {
        let mut observation = file(&path.into(), content);
        if let Seen::File { stat, content: Content::Read(track), .. } = &mut observation.seen {
            (stat.inode, stat.size, stat.mtime_ns) =
                (u64::from(content) + size, size, i128::from(mtime_s) * 1_000_000_000);
            track.metadata.tags.date = date.map(ToOwned::to_owned);
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
                ("under 1 MB".to_owned(), 2, 1000),
                ("1 to 5 MB".to_owned(), 2, 6_000_000),
                ("over 100 MB".to_owned(), 1, 200_000_000)
            ]
        );
        assert_eq!(
            lines(index.by_year().unwrap()),
            [("1999".to_owned(), 2, 6_000_000), ("2001".to_owned(), 1, 200_000_000), ("unknown".to_owned(), 2, 1000)]
        );
        let found = index.duplicates(1).unwrap();
        assert_eq!((found.total_groups, found.wasted_bytes), (2, 3_000_500));
        let files = vec![("b.mp3".into(), 20), ("a.mp3".into(), 30)];
        assert_eq!(found.groups, [DuplicateGroup { size: 3_000_000, files }]);
        assert!(index.oldest_message().unwrap().is_some());
    }
}
