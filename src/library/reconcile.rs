//! Compares a walk with the index: a streaming diff of two sorted sequences.

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::iter::Peekable;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::Walked;
use crate::engine::Replaced;
use crate::model::{FilePage, FileStat, Index, LibraryPath, MountId};

/// Rows per query of the index: few enough to keep in memory, many enough to spread the cost of a query.
const PAGE: usize = 2048;

/// Pages that are read before they are needed.
const PAGES_AHEAD: usize = 1;

/// How the disk and the index compare at one path.
#[derive(Debug)]
pub enum Difference {
    /// The file is unchanged: its stat in the index and its stat now.
    Same(FileStat, FileStat),
    /// The file is new or changed, and has to be looked at.
    Look(LibraryPath),
    /// By its inode number, this is another file than the one in the index.
    Replaced(Replaced),
    /// The index has a row of a file on this mount, and the walk found no file. A look has to confirm that it is gone.
    Gone(LibraryPath, MountId),
    /// The path could not be read. Nothing is known of it and of the paths under it.
    Unreadable(LibraryPath, io::Error),
}

impl PartialEq for Difference {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Same(..), Self::Same(..)) => true,
            (Self::Look(one), Self::Look(other))
            | (Self::Replaced(Replaced { path: one, .. }), Self::Replaced(Replaced { path: other, .. }))
            | (Self::Unreadable(one, _), Self::Unreadable(other, _)) => one == other,
            (Self::Gone(one, mount), Self::Gone(other, other_mount)) => (one, mount) == (other, other_mount),
            _ => false,
        }
    }
}

/// The merge join of a walk and the index's rows in the same subtree. The iterator blocks.
///
/// Its law: it yields each path of either side once, except the rows under a directory that could not be read. It keeps
/// a few pages of rows in memory.
#[must_use]
pub struct Reconcile<'a, W: Iterator<Item = Walked>, E> {
    walked: Peekable<W>,
    pages: Box<dyn Iterator<Item = Result<FilePage, E>> + 'a>,
    ignore_ctime: bool,
    page: FilePage,
    /// The position of the next row in the page.
    next: usize,
}

impl<'a, W: Iterator<Item = Walked>, E> Reconcile<'a, W, E> {
    /// Compares `walked`, a walk of everything at or under `under`, with the rows there.
    pub fn new(walked: W, index: &'a impl Index<Error = E>, under: LibraryPath, ignore_ctime: bool) -> Self {
        let pages = Pages::new(under, |under, after| index.rows_after(under, after, PAGE));
        Self { walked: walked.peekable(), pages: Box::new(pages), ignore_ctime, page: FilePage::default(), next: 0 }
    }

    /// Like [`Reconcile::new`]. If there is more than one page of rows, a thread reads them during the walk.
    pub fn reading_ahead<I>(walked: W, index: I, under: LibraryPath, ignore_ctime: bool) -> Self
    where
        I: Index<Error = E> + Clone + Send + 'static,
        E: Send + 'static,
    {
        let read = move |under: &LibraryPath, after: Option<&LibraryPath>| index.rows_after(under, after, PAGE);
        let pages = Pages::new(under, read);
        Self {
            walked: walked.peekable(),
            pages: Box::new(pages.read_ahead()),
            ignore_ctime,
            page: FilePage::default(),
            next: 0,
        }
    }

    /// Reads the next page if the current one is used up.
    fn fill_page(&mut self) -> Result<(), E> {
        if self.next == self.page.len()
            && let Some(page) = self.pages.next()
        {
            (self.page, self.next) = (page?, 0);
        }
        Ok(())
    }

    /// Goes to the next row; returns this one if there is one.
    fn take_row(&mut self) -> Option<(&[u8], FileStat)> {
        let (path, stat) = self.page.get(self.next)?;
        self.next += 1;
        Some((path, *stat))
    }

    fn take_gone(&mut self) -> Option<Difference> {
        self.take_row().map(|(path, stat)| Difference::Gone(LibraryPath::from_bytes(path), stat.mount))
    }

    fn step(&mut self) -> Result<Option<Difference>, E> {
        loop {
            self.fill_page()?;
            let ignore_ctime = self.ignore_ctime;
            let Some(found) = self.walked.peek() else { return Ok(self.take_gone()) };
            let row = self.page.get(self.next).map(|(path, _)| path);
            if let (Walked::Unreadable(unreadable, _), Some(row)) = (found, row)
                && unreadable.is_above(row)
            {
                self.next += 1;
                continue;
            }
            let order = row.map_or(Ordering::Greater, |row| compare_with_walked(row, found));
            if order.is_lt() {
                return Ok(self.take_gone());
            }
            let was = if order.is_eq() { self.take_row().map(|(_, was)| was) } else { None };
            return Ok(self.walked.next().map(|found| match (found, was) {
                (Walked::File(_, now), Some(was)) if was.is_unchanged(&now, ignore_ctime) => Difference::Same(was, now),
                (Walked::File(path, now), Some(was)) if !was.same_file(&now) => {
                    Difference::Replaced(Replaced { path: path.to_path(), was, now })
                }
                (Walked::File(path, _), _) => Difference::Look(path.to_path()),
                (Walked::Unreadable(path, error), _) => Difference::Unreadable(path, error),
            }));
        }
    }
}

/// The order of a row and a walked path. An unreadable path may be a directory, and is ordered as `name/`: rows such as
/// `name.mp3` come before the paths under it.
fn compare_with_walked(row: &[u8], found: &Walked) -> Ordering {
    match found {
        Walked::File(path, _) => path.order_of(row),
        Walked::Unreadable(path, _) => row.cmp(path.join(b"").as_bytes()),
    }
}

impl<W: Iterator<Item = Walked>, E> fmt::Debug for Reconcile<'_, W, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reconcile").field("rows", &(self.page.len() - self.next)).finish_non_exhaustive()
    }
}

impl<W: Iterator<Item = Walked>, E> Iterator for Reconcile<'_, W, E> {
    type Item = Result<Difference, E>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// The pages of an index. `read` takes a subtree and the last path that was read, and returns the page after that.
#[derive(Clone)]
struct Pages<R> {
    read: R,
    under: LibraryPath,
    last_read: Option<LibraryPath>,
    is_exhausted: bool,
}

impl<R, E> Pages<R>
where
    R: Fn(&LibraryPath, Option<&LibraryPath>) -> Result<FilePage, E>,
{
    fn new(under: LibraryPath, read: R) -> Self {
        Self { read, under, last_read: None, is_exhausted: false }
    }
}

impl<R, E> Iterator for Pages<R>
where
    R: Fn(&LibraryPath, Option<&LibraryPath>) -> Result<FilePage, E>,
{
    type Item = Result<FilePage, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_exhausted {
            return None;
        }
        let page = (self.read)(&self.under, self.last_read.as_ref());
        self.is_exhausted = page.as_ref().map_or(true, |page| page.len() < PAGE);
        if let Ok(page) = &page
            && let Some(last) = page.last_path()
        {
            self.last_read = Some(last);
        }
        Some(page)
    }
}

impl<R, E> Pages<R>
where
    R: Fn(&LibraryPath, Option<&LibraryPath>) -> Result<FilePage, E> + Clone + Send + 'static,
    E: Send + 'static,
{
    /// The same pages. Another thread reads all but the first one before they are needed.
    fn read_ahead(self) -> impl Iterator<Item = Result<FilePage, E>> {
        let mut here = Some(self);
        let mut ahead: Option<Receiver<Result<FilePage, E>>> = None;
        std::iter::from_fn(move || {
            if let Some(pages) = &ahead {
                return pages.recv().ok();
            }
            let mut pages = here.take()?;
            let page = pages.next();
            let (sender, receiver) = sync_channel(PAGES_AHEAD);
            let rest = pages.clone();
            let read = move || rest.map(|page| sender.send(page)).take_while(Result::is_ok).for_each(drop);
            if !pages.is_exhausted && thread::Builder::new().name("index reader".into()).spawn(read).is_ok() {
                ahead = Some(receiver);
            } else {
                here = Some(pages);
            }
            page
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::model::MemoryIndex;

    fn stat(version: u64) -> FileStat {
        FileStat { inode: version, size: 1, mtime_ns: 1, ctime_ns: 1, ..FileStat::default() }
    }

    fn any_files() -> impl Strategy<Value = BTreeMap<LibraryPath, FileStat>> {
        let path = "[ab](/[ab][.-]?){0,2}(\\.mp3|0)?".prop_map(|path| LibraryPath::from(path.as_str()));
        prop::collection::btree_map(path, (0..2_u64).prop_map(stat), 0..20)
    }

    fn naive(
        disk: &BTreeMap<LibraryPath, FileStat>,
        rows: &BTreeMap<LibraryPath, FileStat>,
        unreadable: Option<&LibraryPath>,
    ) -> Vec<String> {
        let hidden = |path: &LibraryPath| {
            unreadable.is_some_and(|directory| path != directory && path.is_at_or_under(directory))
        };
        let mut found: Vec<String> = disk
            .iter()
            .filter(|(path, _)| !hidden(path))
            .map(|(path, stat)| match rows.get(path) {
                Some(row) if row == stat => "same".to_owned(),
                _ => format!("look {path}"),
            })
            .collect();
        found.extend(
            rows.keys().filter(|path| !disk.contains_key(*path) && !hidden(path)).map(|path| format!("gone {path}")),
        );
        found.sort();
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        #[test]
        fn the_merge_join_finds_what_a_naive_diff_finds(
            disk in any_files(),
            rows in any_files(),
            unreadable in prop::option::of("[ab](/[ab])?".prop_map(|path| LibraryPath::from(path.as_str()))),
        ) {
            let mut disk = disk;
            disk.retain(|path, _| unreadable.as_ref().is_none_or(|directory| !path.is_at_or_under(directory)));
            let mut walked: Vec<Walked> = disk
                .iter()
                .map(|(path, stat)| Walked::File(path.clone().into(), *stat))
                .collect();
            if let Some(directory) = &unreadable {
                walked.push(Walked::Unreadable(directory.clone(), io::Error::other("no")));
            }
            walked.sort_by_key(|found| match found {
                Walked::File(path, _) => path.to_path(),
                Walked::Unreadable(path, _) => path.join(b""),
            });
            let index = MemoryIndex::of_files(rows.clone());
            let mut found: Vec<String> = Reconcile::new(walked.into_iter(), &index, LibraryPath::root(), false)
                .filter_map(|difference| match difference.unwrap() {
                    Difference::Same(..) => Some("same".to_owned()),
                    Difference::Look(path) | Difference::Replaced(Replaced { path, .. }) => Some(format!("look {path}")),
                    Difference::Gone(path, _) => Some(format!("gone {path}")),
                    Difference::Unreadable(..) => None,
                })
                .collect();
            found.sort();
            prop_assert_eq!(found, naive(&disk, &rows, unreadable.as_ref()));
        }
    }

    #[test]
    fn a_library_of_several_pages_is_compared_completely() {
        let files: BTreeMap<_, _> =
            (0..PAGE * 2 + 7).map(|index| (LibraryPath::from(format!("{index:06}.mp3").as_str()), stat(0))).collect();
        let walked: Vec<(LibraryPath, FileStat)> = files.iter().map(|(path, stat)| (path.clone(), *stat)).collect();
        let walk = |files: &[(LibraryPath, FileStat)]| {
            let files: Vec<Walked> =
                files.iter().map(|(path, stat)| Walked::File(path.clone().into(), *stat)).collect();
            files.into_iter()
        };
        let index = MemoryIndex::of_files(files);
        let all_are_same = |compared: Reconcile<_, Infallible>| {
            assert_eq!(compared.map(|it| assert!(matches!(it.unwrap(), Difference::Same(..)))).count(), PAGE * 2 + 7);
        };
        all_are_same(Reconcile::new(walk(&walked), &index, LibraryPath::root(), false));
        all_are_same(Reconcile::reading_ahead(walk(&walked), index, LibraryPath::root(), false));
    }
}
