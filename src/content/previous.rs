//! Where a file was before: the rows of the index that it may have been moved from.

use std::io;

use super::examine::{Contents, Examiner};
use crate::disk::{Disk, Entry, is_root_replaced};
use crate::model::{FileStat, FsEvent, Index, LibraryPath, Row, Track};

/// How many rows with the same content or inode number are considered. With more, the match is ambiguous.
const CANDIDATES: usize = 32;

/// The rows of the file that was found.
#[derive(Debug)]
pub(super) struct PreviousRows {
    /// Whether the row of the path itself is a row of this file.
    pub(super) was_here: bool,
    /// Whether there is a row of this file at another path.
    pub(super) is_known_elsewhere: bool,
    /// The rows at other paths that the file has left, most likely source first.
    pub(super) rows: Vec<Row>,
}

/// Why a file need not be read to know that it was only moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnreadMove {
    /// Its stat is that of the row.
    Unchanged,
    /// Only its ctime differs, and inotify paired the two names of the rename.
    Renamed,
}

impl<D: Disk, C: Contents<D::File>, I: Index> Examiner<D, C, I> {
    /// Finds the rows of the file at the path, by its inode number.
    pub(super) fn previous_rows(&self, look: &FsEvent, stat: &FileStat, row: Option<&Row>) -> io::Result<PreviousRows> {
        if row.is_some_and(|row| row.stat.same_file(stat)) {
            return Ok(PreviousRows { was_here: true, is_known_elsewhere: false, rows: Vec::new() });
        }
        let rows = self.rows_of_file(&look.path, stat)?;
        let is_known_elsewhere = !rows.is_empty();
        // A row whose file is still at its path is another hard link, or one that comes and goes during this look.
        let mut rows = try_filter(rows, |row| self.has_left_for_another(row))?;
        // A file may have lost several names. The source is most likely the name that is most like the new one.
        rows.sort_by_key(|row| {
            let is_paired = look.evidence.renamed_from.as_ref() == Some(&row.path);
            (!is_paired, row.path.parent() != look.path.parent(), row.path.name() != look.path.name())
        });
        Ok(PreviousRows { was_here: false, is_known_elsewhere, rows })
    }

    /// The rows of the file with this stat at other paths than `path`.
    pub(super) fn rows_of_file(&self, path: &LibraryPath, stat: &FileStat) -> io::Result<Vec<Row>> {
        if !stat.has_stable_inode() {
            return Ok(Vec::new());
        }
        let mut rows = self.index.rows_by_inode(stat.mount, stat.inode, CANDIDATES).map_err(io::Error::other)?;
        rows.retain(|row| row.path != *path && row.stat.shows_file(stat));
        Ok(rows)
    }

    /// The one row with this content whose file has left its path; `None` if there are several. If no row has this
    /// content, the one row with this sound whose path has no file.
    ///
    /// A file that replaced another one, with the same sound and other tags, is a new version of that. So only a missing
    /// file may have been retagged and moved.
    pub(super) fn row_with_content(&self, path: &LibraryPath, track: &Track) -> io::Result<Option<Row>> {
        let rows = self.index.rows_by_content(track, CANDIDATES).map_err(io::Error::other)?;
        if rows.len() == CANDIDATES {
            return Ok(None);
        }
        let mut rows = try_filter(rows, |row| {
            let is_retagged = row.track.fingerprint.sha256 != track.fingerprint.sha256;
            let is_another =
                |now: &FileStat| !is_retagged && !row.stat.same_file(now) && !row.stat.same_size_and_mtime(now);
            Ok(row.path != *path && self.has_left(row, is_another)?)
        })?;
        Ok(rows.pop().filter(|_| rows.is_empty()))
    }

    /// Whether the file was only moved from the path of `source`, so that it need not be read.
    pub(super) fn unread_move(&self, look: &FsEvent, stat: &FileStat, source: &Row) -> io::Result<Option<UnreadMove>> {
        if !source.stat.same_size_and_mtime(stat)
            || look.evidence.written
            || self.engine.trust(|trust| trust.is_in_doubt(&source.path))
        {
            return Ok(None);
        }
        if source.stat.is_unchanged(stat, self.ignores_ctime_for(look)) {
            return Ok(Some(UnreadMove::Unchanged));
        }
        Ok(self.is_only_renamed(look, source)?.then_some(UnreadMove::Renamed))
    }

    /// Whether inotify reported that the file was renamed from the path of `source`, and nothing else that would
    /// change more than the ctime. A rename changes the ctime too.
    fn is_only_renamed(&self, look: &FsEvent, source: &Row) -> io::Result<bool> {
        if look.evidence.renamed_from.as_ref() != Some(&source.path)
            || self.engine.trust(|trust| {
                trust.is_under_doubt(&source.path) || trust.is_in_doubt(&look.path) || trust.is_unwatched(&source.path)
            })
        {
            return Ok(false);
        }
        self.has_no_other_name(&look.path, source)
    }

    /// Whether the file has only one name, both on disk and in the index. A write by another name of the file gives
    /// no event for this one.
    fn has_no_other_name(&self, path: &LibraryPath, source: &Row) -> io::Result<bool> {
        let FileStat { mount, inode, .. } = source.stat;
        let others = self.index.rows_by_inode(mount, inode, 2).map_err(io::Error::other)?;
        Ok(others.len() == 1 && self.disk.has_one_name(path)?)
    }

    /// Whether the file of a row has left its path, judged by the inode.
    pub(super) fn has_left_for_another(&self, row: &Row) -> io::Result<bool> {
        self.has_left(row, |now| !row.stat.same_file(now))
    }

    /// Whether the file of a row has certainly left its path: nothing is there now, or a file that `is_another`.
    ///
    /// A path that cannot be read now is no source of a move, and no reason to fail a look at another path.
    ///
    /// # Errors
    ///
    /// If the root was replaced. Then nothing is known of either path.
    fn has_left(&self, row: &Row, is_another: impl Fn(&FileStat) -> bool) -> io::Result<bool> {
        match self.disk.entry(&row.path) {
            Ok(Entry::File(now)) => Ok(is_another(&now)),
            // A filesystem that is mounted elsewhere now has taken its files along.
            Ok(entry) => Ok(!is_hidden(row, entry) || self.disk.is_elsewhere(row.stat.mount, &row.path)),
            Err(error) if is_root_replaced(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }
}

/// Whether the file of a row may be missing only because its filesystem is not mounted.
pub(super) fn is_hidden(row: &Row, entry: Entry) -> bool {
    entry.nearest_mount().is_some_and(|nearest_mount| row.stat.mount != nearest_mount)
}

/// The rows that `keep` accepts, or its first error.
fn try_filter(rows: Vec<Row>, keep: impl Fn(&Row) -> io::Result<bool>) -> io::Result<Vec<Row>> {
    rows.into_iter().filter_map(|row| keep(&row).map(|keep| keep.then_some(row)).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Outcome;
    use crate::content::testing::{HERE, OneFile, is_read, renamed, unpaired};
    use crate::model::{Cause, Observation, Origin, Seen};

    #[test]
    fn a_rename_is_accepted_unread_only_if_nothing_casts_doubt_on_the_content() {
        let (examiner, hint) = renamed();
        assert!(matches!(examiner.examine(hint.clone()).outcome, Outcome::Trusted(..)));
        for in_doubt in ["b/old.mp3", "b", "", HERE] {
            let _doubt = examiner.engine.trust(|trust| trust.doubt(&in_doubt.into()));
            assert!(is_read(&examiner.examine(hint.clone()).outcome), "{in_doubt:?}");
        }
        assert!(is_read(&examiner.examine(unpaired(hint.clone())).outcome));
        // A write by its other name gives no event for this one.
        let two_names = OneFile { has_one_name: false, ..examiner.disk };
        assert!(is_read(&Examiner { disk: two_names, ..examiner }.examine(hint).outcome));
    }

    #[test]
    fn a_rename_of_a_written_file_is_not_accepted_because_its_ctime_is_ignored() {
        let (mut examiner, hint) = renamed();
        examiner.settle_policy.ignore_ctime = true;
        let is_read_as = |hint: &FsEvent| is_read(&examiner.examine(hint.clone()).outcome);
        let hint = unpaired(hint);
        assert!(!is_read_as(&hint), "as the setting says");
        let mut doubtful = hint;
        doubtful.evidence.doubtful = true;
        assert!(is_read_as(&doubtful));
    }

    #[test]
    fn a_file_that_may_have_left_a_replaced_root_is_not_new() {
        let (mut examiner, hint) = renamed();
        examiner.disk.is_root_replaced = true;
        assert!(matches!(examiner.examine(hint).outcome, Outcome::Failed(_)));
        let elsewhere = Observation { path: "b/old.mp3".into(), origin: Origin::Watch, seen: Seen::Missing };
        let look = FsEvent::new(elsewhere.path.clone(), Cause::Found, Origin::Watch);
        let (confirmed, again) = examiner.confirm([(Outcome::Observed(elsewhere, look), None)], false, || true);
        assert_eq!((confirmed.len(), again.len()), (0, 1));
    }

    #[test]
    fn an_old_path_is_not_deleted_while_a_look_at_the_new_path_is_in_progress() {
        let (examiner, hint) = renamed();
        let gone = || FsEvent::new("b/old.mp3".into(), Cause::Gone, Origin::Watch);
        let in_progress = examiner.examine(unpaired(hint));
        assert!(is_read(&in_progress.outcome));
        assert!(matches!(examiner.examine(gone()).outcome, Outcome::Again(_)));
        drop(in_progress);
        let outcome = examiner.examine(gone()).outcome;
        assert!(matches!(outcome, Outcome::Observed(observation, _) if observation.seen == Seen::Missing));
    }
}
