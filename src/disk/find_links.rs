//! The search for all links that lead out of the library, and the decision which of them are followed.

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
use super::ignore_files::{DirectoryRules, ignore_file_in};
use super::links::{is_absence, nearest_target};
use super::outside::{LinkState, Table, identity_of};
use super::stat::RawStat;
use super::{LISTING_BUFFER, Root};
use crate::model::{IGNORE_FILE, IgnoreFile, LibraryPath};

/// One search for all links.
pub(super) struct Search<'a> {
    root: &'a Root,
    /// The root, canonical.
    library: PathBuf,
    table: Table,
    /// The targets of the followed links.
    targets: BTreeSet<PathBuf>,
}

/// A subtree to search for links.
struct Tree {
    directory: LibraryPath,
    /// Its absolute path, if it is outside of the library.
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
    /// A search in the library whose root has the canonical path `library`.
    pub(super) fn new(root: &'a Root, library: PathBuf) -> Self {
        Self { root, library, table: Table::default(), targets: BTreeSet::new() }
    }

    /// The table of all links.
    pub(super) fn run(mut self) -> Table {
        let mut trees = vec![Tree { directory: LibraryPath::root(), outside: None, ignore_file: None }];
        while !trees.is_empty() {
            let mut candidates = Vec::new();
            for tree in trees.drain(..) {
                self.search(tree, &mut candidates);
            }
            candidates.sort_unstable_by(|one, other| (&one.target, &one.link).cmp(&(&other.target, &other.link)));
            trees = candidates.into_iter().filter_map(|candidate| self.decide(candidate)).collect();
        }
        self.table
    }

    /// Adds the links of a subtree to the table or to the candidates.
    fn search(&mut self, tree: Tree, candidates: &mut Vec<Candidate>) {
        let Tree { directory, outside, ignore_file } = tree;
        let mut waiting = vec![(directory, LibraryPath::root(), ignore_file)];
        while let Some((directory, real, above)) = waiting.pop() {
            let at = At { outside: outside.as_deref(), path: &real };
            let found = match self.root.directory_links(at, &directory, above.as_ref()) {
                Ok(found) => found.unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(path = %directory, %error, "cannot list this directory; its links are kept");
                    self.keep(&directory, candidates);
                    continue;
                }
            };
            for name in found.directories {
                waiting.push((directory.join(&name), real.join(&name), found.ignore_file.clone()));
            }
            for name in found.links {
                let (link, real) = (directory.join(&name), real.join(&name));
                let absolute = real.to_absolute(outside.as_deref().unwrap_or(self.root.path()));
                match self.examine(&link, &absolute, outside.is_some(), found.ignore_file.as_ref()) {
                    FoundLink::Candidate(candidate) => candidates.push(candidate),
                    FoundLink::Decided(state) => self.table.insert(link, state),
                    FoundLink::LeadsInside => {}
                }
            }
        }
    }

    /// Examines a link whose absolute path is `absolute`.
    fn examine(
        &self,
        link: &LibraryPath,
        absolute: &Path,
        is_outside: bool,
        ignore_file: Option<&Arc<IgnoreFile>>,
    ) -> FoundLink {
        let directory = link.parent().unwrap_or_else(LibraryPath::root);
        let is_excluded = |is_directory: bool| {
            (!is_directory && !self.root.rules.extensions().matches(link))
                || self.root.rules.excludes(ignore_file.map(AsRef::as_ref), &directory, link.name(), is_directory)
        };
        let found = absolute.canonicalize().and_then(|target| Ok((target.metadata()?, target)));
        let (metadata, target) = match found {
            Ok(found) => found,
            Err(error) if is_absence(&error) => {
                let target = nearest_target(absolute).filter(|_| !(is_excluded(true) && is_excluded(false)));
                let state = target.map_or(LinkState::PassedOver, |target| LinkState::Broken(Arc::from(target)));
                return FoundLink::Decided(state);
            }
            Err(error) => return FoundLink::Decided(unreadable(&error)),
        };
        let is_directory = metadata.is_dir();
        if !(is_directory || metadata.is_file()) {
            return FoundLink::Decided(LinkState::Excluded);
        }
        let inside = LibraryPath::strip_root(&self.library, &target);
        if !is_outside && inside.as_ref().is_some_and(|inside| !link.is_at_or_under(inside)) {
            return FoundLink::LeadsInside;
        }
        if is_excluded(is_directory) {
            return FoundLink::Decided(LinkState::Excluded);
        }
        if inside.is_some() || self.library.starts_with(&target) {
            return FoundLink::Decided(LinkState::PassedOver);
        }
        FoundLink::Candidate(Candidate { target, link: link.clone(), is_directory, ignore_file: ignore_file.cloned() })
    }

    /// Decides whether a link is followed: if nothing that it leads to is followed yet. Returns the subtree to search
    /// next.
    fn decide(&mut self, candidate: Candidate) -> Option<Tree> {
        let Candidate { target, link, is_directory, ignore_file } = candidate;
        let is_followed = target.ancestors().any(|above| self.targets.contains(above));
        let first_under = self.targets.range::<Path, _>((Bound::Included(target.as_path()), Bound::Unbounded)).next();
        if is_followed || first_under.is_some_and(|followed| followed.starts_with(&target)) {
            self.table.insert(link, LinkState::PassedOver);
            return None;
        }
        let at: Arc<Path> = Arc::from(target.as_path());
        let state = match is_directory.then(|| identity_of(&target)) {
            None => LinkState::File(at),
            Some(Ok(identity)) => LinkState::Directory(at, identity),
            Some(Err(error)) => unreadable(&error),
        };
        let tree = match &state {
            LinkState::Directory(at, _) => {
                Some(Tree { directory: link.clone(), outside: Some(Arc::clone(at)), ignore_file })
            }
            _ => None,
        };
        if matches!(state, LinkState::File(_) | LinkState::Directory(..)) {
            self.targets.insert(target);
        }
        self.table.insert(link, state);
        tree
    }

    /// Takes the links under a directory that cannot be listed from the previous table.
    fn keep(&mut self, directory: &LibraryPath, candidates: &mut Vec<Candidate>) {
        let Some(links_out) = &self.root.links_out else { return };
        let before = links_out.read();
        for (link, state) in before.links_under(directory) {
            // A link behind a followed link is found again when that is searched.
            let is_behind =
                |above: &LibraryPath| above != link && above != directory && before.links.contains_key(above);
            if std::iter::successors(link.parent(), LibraryPath::parent)
                .take_while(|above| above.is_at_or_under(directory))
                .any(|above| is_behind(&above))
            {
                continue;
            }
            let (target, is_directory) = match state {
                LinkState::Directory(target, _) => (target, true),
                LinkState::File(target) => (target, false),
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

/// What the search finds at a link.
enum FoundLink {
    /// It may be followed.
    Candidate(Candidate),
    /// It is not followed.
    Decided(LinkState),
    /// It leads to inside the library, and is followed there.
    LeadsInside,
}

fn unreadable(error: &io::Error) -> LinkState {
    LinkState::Unreadable(Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// The entries of a directory that matter to the search.
#[derive(Default)]
struct DirectoryLinks {
    directories: Vec<Box<[u8]>>,
    links: Vec<Box<[u8]>>,
    ignore_file: Option<Arc<IgnoreFile>>,
}

impl Root {
    /// The entries of a directory that matter to the search; `None` if there is no directory.
    fn directory_links(
        &self,
        at: At<'_>,
        directory: &LibraryPath,
        above: Option<&Arc<IgnoreFile>>,
    ) -> io::Result<Option<DirectoryLinks>> {
        let Some(opened) = self.open_to_list(at)? else { return Ok(None) };
        let mut found = DirectoryLinks::default();
        let mut has_ignore_file = false;
        let mut buffer = [const { MaybeUninit::uninit() }; LISTING_BUFFER];
        let mut entries = RawDir::new(&opened, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            has_ignore_file |= name == IGNORE_FILE;
            let kind = match entry.file_type() {
                FileType::Unknown => RawStat::at(&opened, name).map_or(FileType::Unknown, |stat| stat.kind),
                kind => kind,
            };
            match kind {
                FileType::Directory if name != b"." && name != b".." => found.directories.push(Box::from(name)),
                FileType::Symlink => found.links.push(Box::from(name)),
                _ => {}
            }
        }
        let text = if has_ignore_file { ignore_file_in(opened.as_fd())? } else { None };
        let known = match self.ignore_files.get(directory) {
            Some(DirectoryRules::Included(known)) => known,
            _ => None,
        };
        found.ignore_file = self.with_file(directory, text, above.cloned(), known.as_ref());
        found.directories.retain(|name| !self.rules.excludes(found.ignore_file.as_deref(), directory, name, true));
        Ok(Some(found))
    }
}
