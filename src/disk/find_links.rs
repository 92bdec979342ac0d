//! Finding all links that lead out of the library, and deciding which of them are followed.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Bound;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::descent::At;
use super::ignore_files::{Judged, ignore_file_in};
use super::links::{is_absence, nearest_target};
use super::outside::{Fate, Table, identity_of};
use super::stat::RawStat;
use super::{LISTING_BUFFER, Root};
use crate::model::{IGNORE_FILE, IgnoreFile, LibraryPath};

/// One finding of all links.
pub(super) struct Search<'a> {
    root: &'a Root,
    /// The root, canonical.
    library: PathBuf,
    table: Table,
    /// What is followed.
    targets: BTreeSet<PathBuf>,
}

/// What is looked through for links.
struct Tree {
    directory: LibraryPath,
    /// Where it is, outside of the library.
    outside: Option<Arc<Path>>,
    /// The nearest ignore file above it.
    ignore_file: Option<Arc<IgnoreFile>>,
}

/// A link that may be followed.
struct Candidate {
    target: PathBuf,
    link: LibraryPath,
    is_directory: bool,
    ignore_file: Option<Arc<IgnoreFile>>,
}

impl<'a> Search<'a> {
    /// A finding in the library whose root is canonically at `library`.
    pub(super) fn new(root: &'a Root, library: PathBuf) -> Self {
        Self { root, library, table: Table::default(), targets: BTreeSet::new() }
    }

    /// The table of all links.
    pub(super) fn run(mut self) -> Table {
        let mut trees = vec![Tree { directory: LibraryPath::root(), outside: None, ignore_file: None }];
        while !trees.is_empty() {
            let mut candidates = Vec::new();
            for tree in trees.drain(..) {
                self.look_through(tree, &mut candidates);
            }
            candidates.sort_unstable_by(|one, other| (&one.target, &one.link).cmp(&(&other.target, &other.link)));
            trees = candidates.into_iter().filter_map(|candidate| self.decide(candidate)).collect();
        }
        self.table
    }

    fn look_through(&mut self, tree: Tree, candidates: &mut Vec<Candidate>) {
        let Tree { directory, outside, ignore_file } = tree;
        let mut waiting = vec![(directory, LibraryPath::root(), ignore_file)];
        while let Some((directory, real, above)) = waiting.pop() {
            let at = At { outside: outside.as_deref(), path: &real };
            let ways = match self.root.ways_in(at, &directory, above.as_ref()) {
                Ok(ways) => ways.unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(path = %directory, %error, "its links are taken to be as they were");
                    self.keep(&directory, candidates);
                    continue;
                }
            };
            for name in ways.directories {
                waiting.push((directory.join(&name), real.join(&name), ways.ignore_file.clone()));
            }
            for name in ways.links {
                let (link, real) = (directory.join(&name), real.join(&name));
                let absolute = real.under(outside.as_deref().unwrap_or(self.root.path()));
                match self.where_to(&link, &absolute, outside.is_some(), ways.ignore_file.as_ref()) {
                    Ok(candidate) => candidates.extend(candidate),
                    Err(fate) => self.table.insert(link, fate),
                }
            }
        }
    }

    /// Where a link leads, unless its fate is sealed; `None` if it leads into the library and is followed there.
    fn where_to(
        &self,
        link: &LibraryPath,
        absolute: &Path,
        is_outside: bool,
        ignore_file: Option<&Arc<IgnoreFile>>,
    ) -> Result<Option<Candidate>, Fate> {
        let directory = link.parent().unwrap_or_else(LibraryPath::root);
        let is_left_out = |is_directory: bool| {
            (!is_directory && !self.root.rules.extensions().matches(link))
                || self.root.rules.leave_out(ignore_file.map(AsRef::as_ref), &directory, link.name(), is_directory)
        };
        let found = absolute.canonicalize().and_then(|target| Ok((target.metadata()?, target)));
        let (metadata, target) = match found {
            Ok(found) => found,
            Err(error) if is_absence(&error) => {
                let target = nearest_target(absolute).filter(|_| !(is_left_out(true) && is_left_out(false)));
                return Err(target.map_or(Fate::PassedOver, |target| Fate::Broken(Arc::from(target))));
            }
            Err(error) => return Err(Fate::Unreadable(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        };
        let is_directory = metadata.is_dir();
        if !(is_directory || metadata.is_file()) {
            return Err(Fate::LeftOut);
        }
        let inside = LibraryPath::beneath(&self.library, &target);
        if !is_outside && inside.as_ref().is_some_and(|inside| !link.is_at_or_under(inside)) {
            return Ok(None);
        }
        if is_left_out(is_directory) {
            return Err(Fate::LeftOut);
        }
        if inside.is_some() || self.library.starts_with(&target) {
            return Err(Fate::PassedOver);
        }
        Ok(Some(Candidate { target, link: link.clone(), is_directory, ignore_file: ignore_file.cloned() }))
    }

    /// Follows a link if nothing of what it leads to is followed yet. Gives what is to be looked through then.
    fn decide(&mut self, candidate: Candidate) -> Option<Tree> {
        let Candidate { target, link, is_directory, ignore_file } = candidate;
        let is_followed = target.ancestors().any(|above| self.targets.contains(above));
        let first_beneath = self.targets.range::<Path, _>((Bound::Included(target.as_path()), Bound::Unbounded)).next();
        if is_followed || first_beneath.is_some_and(|followed| followed.starts_with(&target)) {
            self.table.insert(link, Fate::PassedOver);
            return None;
        }
        let at: Arc<Path> = Arc::from(target.as_path());
        let fate = match is_directory.then(|| identity_of(&target)) {
            None => Fate::File(at),
            Some(Ok(identity)) => Fate::Directory(at, identity),
            Some(Err(error)) => Fate::Unreadable(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        };
        let tree = match &fate {
            Fate::Directory(at, _) => {
                Some(Tree { directory: link.clone(), outside: Some(Arc::clone(at)), ignore_file })
            }
            _ => None,
        };
        if matches!(fate, Fate::File(_) | Fate::Directory(..)) {
            self.targets.insert(target);
        }
        self.table.insert(link, fate);
        tree
    }

    /// Takes the links beneath a directory that cannot be listed from the table before this one.
    fn keep(&mut self, directory: &LibraryPath, candidates: &mut Vec<Candidate>) {
        let Some(links_out) = &self.root.links_out else { return };
        let before = links_out.read();
        for (link, fate) in before.beneath(directory) {
            // Behind a link that is followed it is found once more.
            let is_behind =
                |above: &LibraryPath| above != link && above != directory && before.links.contains_key(above);
            if std::iter::successors(link.parent(), LibraryPath::parent)
                .take_while(|above| above.is_at_or_under(directory))
                .any(|above| is_behind(&above))
            {
                continue;
            }
            let (target, is_directory) = match fate {
                Fate::Directory(target, _) => (target, true),
                Fate::File(target) => (target, false),
                other => {
                    self.table.insert(link.clone(), other.clone());
                    continue;
                }
            };
            let (target, link) = (target.to_path_buf(), link.clone());
            candidates.push(Candidate { target, link, is_directory, ignore_file: None });
        }
    }
}

/// What a directory holds, as far as links may be found by it.
#[derive(Default)]
struct WaysIn {
    directories: Vec<Box<[u8]>>,
    links: Vec<Box<[u8]>>,
    ignore_file: Option<Arc<IgnoreFile>>,
}

impl Root {
    /// What a directory holds, as far as links may be found by it.
    fn ways_in(
        &self,
        at: At<'_>,
        directory: &LibraryPath,
        above: Option<&Arc<IgnoreFile>>,
    ) -> io::Result<Option<WaysIn>> {
        let Some(opened) = self.open_to_list(at)? else { return Ok(None) };
        let mut ways = WaysIn::default();
        let mut has_ignore_file = false;
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BUFFER];
        let mut entries = RawDir::new(&opened, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            has_ignore_file |= name == IGNORE_FILE;
            let kind = match entry.file_type() {
                FileType::Unknown => RawStat::at(&opened, name).map_or(FileType::Unknown, |found| found.kind),
                kind => kind,
            };
            match kind {
                FileType::Directory if name != b"." && name != b".." => ways.directories.push(Box::from(name)),
                FileType::Symlink => ways.links.push(Box::from(name)),
                _ => {}
            }
        }
        let text = if has_ignore_file { ignore_file_in(opened.as_fd())? } else { None };
        let known = match self.ignore_files.get(directory) {
            Some(Judged::Included(known)) => known,
            _ => None,
        };
        ways.ignore_file = self.with_file(directory, text, above.cloned(), known.as_ref());
        ways.directories.retain(|name| !self.rules.leave_out(ways.ignore_file.as_deref(), directory, name, true));
        Ok(Some(ways))
    }
}
