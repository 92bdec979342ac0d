//! Following symbolic links that lead out of the library.
//!
//! Before each full scan, all links are found: first those in the library, then those in the targets of the followed
//! ones, and so on. Each place outside of the library is reached by one link. Of the links that are found together, a
//! link to a directory comes before links to something in it, and of several links to the same place the first one in
//! the order of paths is followed. Links are passed over if their target is followed already, if it is a directory
//! that contains the link, or if it is the library or a directory above it. So every file outside has one path in the
//! library, every loop is cut, and which links are followed depends only on what is on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rustix::io::Errno;

use super::descent::{At, open_directory_at};
use super::find_links::Search;
use super::{Entry, Identity, MountEntry, Root, mountinfo, mounts_under};
use crate::model::LibraryPath;

/// How many links one call of [`Root::have_links_changed`] checks. The next call checks the next ones.
const CHECKED_AT_ONCE: usize = 256;

/// The error inside the [`io::Error`] of an access behind a link that was created after the links were found.
#[derive(Debug, thiserror::Error)]
#[error("a symbolic link on the path is new; the next full scan decides whether it is followed")]
pub struct LinkUnknown;

/// A directory outside of the library that is to be watched because a link leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTarget {
    /// Whether to watch everything under it, and not only its own entries, as for links to single files.
    pub is_recursive: bool,
    identity: Option<Identity>,
}

/// The library path of something outside of the library that a followed link leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedPath {
    /// The path in the library.
    pub path: LibraryPath,
    /// Whether it is the target of the link itself, and not something under it.
    pub is_target: bool,
}

/// Where a path leads if there is a known link on the way.
#[derive(Debug)]
pub(super) enum Lead {
    /// Out of the library.
    To(Outside),
    /// Nowhere: the link is not followed.
    PassedOver,
}

/// A place outside of the library.
#[derive(Debug)]
pub(super) struct Outside {
    base: Arc<Path>,
    rest: LibraryPath,
    /// Whether nothing was there when the links were found.
    is_broken: bool,
}

impl Outside {
    pub(super) fn at(&self) -> At<'_> {
        At { outside: Some(&self.base), path: &self.rest }
    }

    /// The absolute path, with a leading slash.
    pub(super) fn absolute(&self) -> LibraryPath {
        LibraryPath::from_bytes(self.rest.to_absolute(&self.base).as_os_str().as_bytes())
    }

    /// Whether there is a link on the way down from the base.
    fn has_link(&self) -> bool {
        let mut way = self.base.to_path_buf();
        self.rest.names().any(|name| {
            way.push(std::ffi::OsStr::from_bytes(name));
            way.symlink_metadata().is_ok_and(|found| found.is_symlink())
        })
    }
}

/// The links as they were found last.
#[derive(Debug, Default)]
pub(super) struct LinksOut {
    table: RwLock<Table>,
    /// Rises whenever the table changes.
    version: AtomicU64,
    /// Whether a link was created or removed since the table was made.
    is_outdated: AtomicBool,
    /// How many checks of links there were so far.
    checked: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// All links in directories that are not excluded, without those that lead to inside the library.
    pub(super) links: BTreeMap<LibraryPath, LinkState>,
    /// The followed link to each target.
    by_target: HashMap<PathBuf, LibraryPath>,
    /// The directories that links lead to, including targets that do not exist now.
    places: BTreeSet<PathBuf>,
    passed_over: u64,
}

/// What a link leads to, and whether it is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// It is followed to a directory.
    Directory(Arc<Path>, Identity),
    /// It is followed to a file.
    File(Arc<Path>),
    /// Its target does not exist. It may be on a disk that is not mounted.
    Broken(Arc<Path>),
    /// It is not followed, because another path leads to its target, or because of a loop.
    PassedOver,
    /// It is excluded, or its target is neither a file nor a directory.
    Excluded,
    /// Its target cannot be read.
    Unreadable(Errno),
}

impl LinksOut {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn lead(&self, path: &LibraryPath) -> io::Result<Option<Lead>> {
        let mut way = Some(path.clone()).filter(|_| !self.links.is_empty());
        while let Some(link) = way {
            if let Some(state) = self.links.get(&link) {
                let rest = path.as_bytes().get(link.as_bytes().len() + 1..).unwrap_or_default();
                return state.lead(LibraryPath::from_bytes(rest)).map(Some);
            }
            way = link.parent();
        }
        Ok(None)
    }

    /// The links under a directory.
    pub(super) fn links_under(&self, directory: &LibraryPath) -> impl Iterator<Item = (&LibraryPath, &LinkState)> {
        let links = self.links.range((Bound::Included(directory.join(b"")), Bound::Unbounded));
        links.take_while(|(link, _)| link.is_at_or_under(directory))
    }

    /// Adds a link.
    pub(super) fn insert(&mut self, link: LibraryPath, state: LinkState) {
        self.passed_over += u64::from(matches!(state, LinkState::Broken(_) | LinkState::PassedOver));
        match &state {
            LinkState::Directory(target, _) => {
                self.places.insert(target.to_path_buf());
                self.by_target.insert(target.to_path_buf(), link.clone());
            }
            LinkState::File(target) => {
                self.places.extend(target.parent().map(Path::to_path_buf));
                self.by_target.insert(target.to_path_buf(), link.clone());
            }
            LinkState::Broken(target) => drop(self.places.insert(target.to_path_buf())),
            LinkState::PassedOver | LinkState::Excluded | LinkState::Unreadable(_) => {}
        }
        self.links.insert(link, state);
    }

    /// Whether the target of a link is on this mount, or contains it.
    fn depends_on(&self, entry: &MountEntry, mounted: &[MountEntry]) -> bool {
        let point = entry.point.as_path();
        let on_it = || {
            let places = self.places.range::<Path, _>((Bound::Included(point), Bound::Unbounded));
            places.take_while(|place| place.starts_with(point))
        };
        // A mount whose server does not respond causes repeated scans, so it must be the very mount of a target.
        point.ancestors().any(|above| self.places.contains(above))
            || on_it().any(|place| !entry.has_server() || mountinfo::mount_of(mounted, place) == Some(entry))
    }
}

impl LinkState {
    /// Where the path `rest` under the link leads.
    fn lead(&self, rest: LibraryPath) -> io::Result<Lead> {
        match self {
            Self::Directory(target, _) => Ok(Lead::To(Outside { base: Arc::clone(target), rest, is_broken: false })),
            Self::Broken(target) => Ok(Lead::To(Outside { base: Arc::clone(target), rest, is_broken: true })),
            Self::File(target) => {
                let base = Arc::from(target.parent().unwrap_or(target));
                let name = LibraryPath::from_bytes(target.file_name().unwrap_or_default().as_bytes());
                let rest = if rest.is_root() { name } else { name.join(rest.as_bytes()) };
                Ok(Lead::To(Outside { base, rest, is_broken: false }))
            }
            Self::PassedOver | Self::Excluded => Ok(Lead::PassedOver),
            Self::Unreadable(error) => Err((*error).into()),
        }
    }
}

impl Root {
    /// Whether symbolic links that lead out of the library are followed.
    pub fn follows_links_out(&self) -> bool {
        self.links_out.is_some()
    }

    /// Finds the links that lead out of the library, and decides which are followed. Blocks for about as long as it
    /// takes to list every directory. Does nothing if links that lead out are not followed.
    pub fn find_links(&self) {
        let Some(links_out) = &self.links_out else { return };
        self.ask_servers();
        links_out.is_outdated.store(false, SeqCst);
        let Ok(library) = self.path.canonicalize() else { return };
        let table = Search::new(self, library).run();
        let (passed_over, followed) = (table.passed_over, table.by_target.len());
        let before = {
            let mut current = links_out.table.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, table)
        };
        if before.links != links_out.read().links {
            links_out.version.fetch_add(1, SeqCst);
            self.forget_ignore_files(&LibraryPath::root());
        }
        if before.passed_over != passed_over {
            tracing::info!(
                passed_over,
                followed,
                "symbolic links are passed over: they are dangling, form a loop, or have a target with another path"
            );
        }
    }

    /// How many links were passed over when the links were last found.
    pub fn links_passed_over(&self) -> u64 {
        self.links_out.as_ref().map_or(0, |links| links.read().passed_over)
    }

    /// A number that rises whenever the links that are followed change.
    pub fn links_version(&self) -> u64 {
        self.links_out.as_ref().map_or(0, |links| links.version.load(SeqCst))
    }

    /// Records that a link was created or removed, so that a full scan is needed.
    pub fn links_changed(&self) {
        if let Some(links) = &self.links_out {
            links.is_outdated.store(true, SeqCst);
        }
    }

    /// Whether a link was created or removed since the links were found, or has another target now. If there are many
    /// links, each call checks some of them.
    pub fn have_links_changed(&self) -> bool {
        let Some(links_out) = &self.links_out else { return false };
        if links_out.is_outdated.load(SeqCst) {
            return true;
        }
        let compared: Vec<(LibraryPath, LinkState)> = {
            let table = links_out.read();
            let is_compared = |(_, state): &(&LibraryPath, &LinkState)| {
                matches!(state, LinkState::Directory(..) | LinkState::Broken(_))
            };
            let count = table.links.iter().filter(is_compared).count();
            let first = links_out.checked.fetch_add(CHECKED_AT_ONCE, SeqCst) % count.max(1);
            let links = table.links.iter().filter(is_compared).cycle().skip(first);
            links.take(count.min(CHECKED_AT_ONCE)).map(|(link, state)| (link.clone(), state.clone())).collect()
        };
        let mounted = if compared.is_empty() { Vec::new() } else { mountinfo::mount_table().unwrap_or_default() };
        // An access may block on a server or trigger an automount. Scans may do that, but not a check every second.
        let may_be_checked = |target: &Path| {
            mountinfo::mount_of(&mounted, target).is_some_and(|entry| !entry.has_server() && entry.kind != "autofs")
        };
        compared.into_iter().any(|(link, state)| match state {
            LinkState::Directory(target, identity) => {
                may_be_checked(&target) && identity_of(&target).ok() != Some(identity)
            }
            LinkState::Broken(target) => may_be_checked(&target) && link.to_absolute(&self.path).metadata().is_ok(),
            _ => false,
        })
    }

    /// Whether there is a known link at `path` or under it.
    pub fn has_link_at_or_under(&self, path: &LibraryPath) -> bool {
        let Some(links_out) = &self.links_out else { return false };
        let table = links_out.read();
        table.links.contains_key(path) || table.links_under(path).next().is_some()
    }

    /// The library path of what is at an absolute path outside of the library; `None` if no followed link leads there.
    pub fn by_links(&self, path: &Path) -> Option<LinkedPath> {
        let table = self.links_out.as_ref()?.read();
        let (target, link) = path.ancestors().find_map(|above| table.by_target.get_key_value(above))?;
        let rest = LibraryPath::strip_root(target, path)?;
        let is_target = rest.is_root();
        let path = if is_target { link.clone() } else { link.join(rest.as_bytes()) };
        Some(LinkedPath { path, is_target })
    }

    /// The directories outside of the library to watch.
    pub fn link_targets(&self) -> HashMap<PathBuf, LinkTarget> {
        let mut targets = HashMap::new();
        let Some(links_out) = &self.links_out else { return targets };
        for state in links_out.read().links.values() {
            match state {
                LinkState::Directory(target, identity) => {
                    let watched = LinkTarget { is_recursive: true, identity: Some(*identity) };
                    targets.insert(target.to_path_buf(), watched);
                }
                LinkState::File(target) => {
                    let parent = target.parent().unwrap_or(target).to_path_buf();
                    targets.entry(parent).or_insert(LinkTarget { is_recursive: false, identity: None });
                }
                _ => {}
            }
        }
        targets
    }

    /// The mounts that published files may be on, without the root's own: those under the root, and those that links
    /// lead to.
    pub fn mount_entries(&self) -> Vec<MountEntry> {
        let mut entries = mounts_under(&self.path).unwrap_or_default();
        if let Some(links_out) = &self.links_out
            && let Ok(mounted) = mountinfo::mount_table()
        {
            let table = links_out.read();
            let is_new = |entry: &&MountEntry| table.depends_on(entry, &mounted) && !entries.contains(entry);
            let outside: Vec<MountEntry> = mounted.iter().filter(is_new).cloned().collect();
            entries.extend(outside);
        }
        entries
    }

    /// The mounts outside of the library that rows may name and that are mounted now.
    pub(super) fn known_outside(&self) -> Vec<MountEntry> {
        let (mut known, _) = self.mounts.known();
        known.retain(|mount| mount.place.as_bytes().starts_with(b"/"));
        if known.is_empty() {
            return Vec::new();
        }
        let mut mounted = mountinfo::mount_table().unwrap_or_default();
        mounted.retain(|entry| known.iter().any(|known| known.place.as_bytes() == entry.point.as_os_str().as_bytes()));
        mounted
    }

    /// Where `path` leads, if there is a known link on the way.
    pub(super) fn lead(&self, path: &LibraryPath) -> io::Result<Option<Lead>> {
        self.links_out.as_ref().map_or(Ok(None), |links| links.read().lead(path))
    }

    /// What is at a place outside of the library.
    pub(super) fn entry_outside(&self, outside: &Outside) -> io::Result<Entry> {
        let entry = self.real_entry(outside.at())?;
        let is_unknown = match entry {
            // It was mounted since. It is not watched yet, and another link may lead there too.
            Entry::File(_) | Entry::Directory => outside.is_broken,
            Entry::Other | Entry::Missing { .. } => outside.has_link(),
            Entry::Excluded { .. } => false,
        };
        if is_unknown { Err(io::Error::other(LinkUnknown)) } else { Ok(entry) }
    }
}

/// The identity of the directory at an absolute path.
pub(super) fn identity_of(directory: &Path) -> io::Result<Identity> {
    Identity::of(&open_directory_at(directory)?)
}

/// Whether an error says that there is an unknown link on the path.
pub(super) fn is_unknown_link(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<LinkUnknown>)
}
