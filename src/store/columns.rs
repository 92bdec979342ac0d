//! How model types are stored in columns.
//!
//! The encodings are part of the file format and never change.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};

use crate::model::{EventType, FileStat, InodeKind};

/// The inode column of a path whose file is unknown. No file has this inode number.
const UNKNOWN_INODE: i64 = 0;

/// The time columns of a path whose file is unknown. No file has this time.
const UNKNOWN_TIME: Time = Time(i64::MIN as i128);

/// The inode column: NULL if inode numbers are unstable.
pub(super) fn inode(stat: &FileStat) -> Option<i64> {
    match stat.inode_kind {
        InodeKind::Stable => Some(stat.inode.cast_signed()),
        InodeKind::Unstable => None,
        InodeKind::Unknown => Some(UNKNOWN_INODE),
    }
}

/// The columns for mtime and ctime.
pub(super) fn times(stat: &FileStat) -> [Time; 2] {
    match stat.inode_kind {
        InodeKind::Stable | InodeKind::Unstable => [Time(stat.mtime_ns), Time(stat.ctime_ns)],
        InodeKind::Unknown => [UNKNOWN_TIME; 2],
    }
}

/// Whether these columns are those of [`InodeKind::Unknown`].
pub(super) fn is_unknown(inode: Option<i64>, mtime_ns: Time, ctime_ns: Time) -> bool {
    (inode, mtime_ns, ctime_ns) == (Some(UNKNOWN_INODE), UNKNOWN_TIME, UNKNOWN_TIME)
}

/// A time column: nanoseconds since the epoch, as an integer, or as decimal text if they do not fit one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) i128);

impl ToSql for Time {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>, rusqlite::Error> {
        Ok(match i64::try_from(self.0) {
            Ok(nanoseconds) => nanoseconds.into(),
            Err(_) => self.0.to_string().into(),
        })
    }
}

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Text(digits) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .map(Self)
                .ok_or(FromSqlError::InvalidType),
            value => Ok(Self(value.as_i64()?.into())),
        }
    }
}

impl ToSql for EventType {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>, rusqlite::Error> {
        Ok(self.as_str().into())
    }
}

/// An unknown word is an error: the file is corrupt.
impl FromSql for EventType {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MountId;

    #[test]
    fn an_unknown_stat_is_recognized_by_its_columns_and_no_other_is() {
        let is_recognized = |stat: FileStat| {
            let [mtime_ns, ctime_ns] = times(&stat);
            is_unknown(inode(&stat), mtime_ns, ctime_ns)
        };
        assert!(is_recognized(FileStat::unknown(MountId(3))));
        assert!(!is_recognized(FileStat::default()));
        assert!(!is_recognized(FileStat { inode: 7, mtime_ns: i64::MIN.into(), ..FileStat::default() }));
        let unstable = FileStat { inode_kind: InodeKind::Unstable, ..FileStat::default() };
        assert_eq!((inode(&unstable), is_recognized(unstable)), (None, false));
    }

    #[test]
    fn an_unknown_event_type_in_the_store_is_an_error_that_names_it() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let read = |word: &str| connection.query_row("SELECT ?1", [word], |row| row.get::<_, EventType>(0));
        assert_eq!(read("moved").unwrap(), EventType::Moved);
        let error = read("replaced").unwrap_err();
        assert!(error.to_string().contains("unknown event type \"replaced\""), "{error}");
        assert!(super::super::corruption::problem_of(&error).is_some());
    }
}
