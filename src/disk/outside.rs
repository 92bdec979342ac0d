//! Symbolic links that lead out of the library, where they are followed too.
//!
//! Before each walk of everything, all links are found: those of the library, then those of what the followed ones
//! lead to, and so on. Each place outside is followed by one link: of those found together, a link to a directory
//! comes before links that lead into it, and of several to the same place the first in the order of paths. A link
//! to what is followed already, to a directory that holds it, or to the library or above it is passed over. So
//! every file outside has one path in the library, every circle is cut, and which links are followed depends on
//! nothing but what is on the disk.

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
use super::{Entry, Identity, MountEntry, Root, mountinfo, mounts_beneath};
use crate::model::LibraryPath;

/// Links whose targets one call of [`Root::have_links_changed`] compares; the next call compares the next ones.
const CHECKED_AT_ONCE: usize = 256;

/// The error inside the [`io::Error`] of a look behind a link that came after the links were found.
#[derive(Debug, thiserror::Error)]
#[error("a symbolic link on the way is new; the next walk of everything decides whether it is followed")]
pub struct LinkUnknown;

/// A directory outside of the library that is to be watched because a link leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTarget {
    /// With everything in it; else only what it holds itself, for links to single files.
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

/// Where a path leads that has a link of the table on its way.
#[derive(Debug)]
pub(super) enum Lead {
    /// Out of the library.
    To(Outside),
    /// Nowhere: the last link on the way is not followed.
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

    /// The whole path, with a slash in front.
    pub(super) fn absolute(&self) -> LibraryPath {
        LibraryPath::from_bytes(self.rest.under(&self.base).as_os_str().as_bytes())
    }

    /// Whether there is a link on the way from the base.
    fn has_link(&self) -> bool {
        let mut way = self.base.to_path_buf();
        self.rest.names().any(|name| {
            way.push(std::ffi::OsStr::from_bytes(name));
            way.symlink_metadata().is_ok_and(|found| found.is_symlink())
        })
    }
}

/// The links of the library, as they were found last.
#[derive(Debug, Default)]
pub(super) struct LinksOut {
    table: RwLock<Table>,
    /// Rises whenever the table changes.
    version: AtomicU64,
    /// Whether a link was noticed that came or went since the table was made.
    is_outdated: AtomicBool,
    /// How many links were compared, of all that ever were.
    checked: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// All links in directories that no rule leaves out, without those that lead into the library.
    pub(super) links: BTreeMap<LibraryPath, Fate>,
    /// The link by which each place is followed.
    by_target: HashMap<PathBuf, LibraryPath>,
    /// Where links lead, those included that lead to nothing now: directories.
    places: BTreeSet<PathBuf>,
    passed_over: u64,
}

/// What becomes of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Directory(Arc<Path>, Identity),
    File(Arc<Path>),
    /// Nothing is there, which may be a disk that is not mounted.
    Broken(Arc<Path>),
    PassedOver,
    /// It would not be published if it were a file or a directory.
    LeftOut,
    /// Where it leads cannot be found out.
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
            if let Some(fate) = self.links.get(&link) {
                let rest = path.as_bytes().get(link.as_bytes().len() + 1..).unwrap_or_default();
                return fate.lead(LibraryPath::from_bytes(rest)).map(Some);
            }
            way = link.parent();
        }
        Ok(None)
    }

    /// The links beneath a directory.
    pub(super) fn beneath(&self, directory: &LibraryPath) -> impl Iterator<Item = (&LibraryPath, &Fate)> {
        let links = self.links.range((Bound::Included(directory.join(b"")), Bound::Unbounded));
        links.take_while(|(link, _)| link.is_at_or_under(directory))
    }

    /// Notes what becomes of a link.
    pub(super) fn insert(&mut self, link: LibraryPath, fate: Fate) {
        self.passed_over += u64::from(matches!(fate, Fate::Broken(_) | Fate::PassedOver));
        match &fate {
            Fate::Directory(target, _) => {
                self.places.insert(target.to_path_buf());
                self.by_target.insert(target.to_path_buf(), link.clone());
            }
            Fate::File(target) => {
                self.places.extend(target.parent().map(Path::to_path_buf));
                self.by_target.insert(target.to_path_buf(), link.clone());
            }
            Fate::Broken(target) => drop(self.places.insert(target.to_path_buf())),
            Fate::PassedOver | Fate::LeftOut | Fate::Unreadable(_) => {}
        }
        self.links.insert(link, fate);
    }

    /// Whether what links lead to is on one of the mounts, or has it beneath.
    fn depends_on(&self, entry: &MountEntry, mounted: &[MountEntry]) -> bool {
        let point = entry.point.as_path();
        let on_it = || {
            let places = self.places.range::<Path, _>((Bound::Included(point), Bound::Unbounded));
            places.take_while(|place| place.starts_with(point))
        };
        // What is silent has everything walked again and again, so it has to be the very mount of a place.
        point.ancestors().any(|above| self.places.contains(above))
            || on_it().any(|place| !entry.has_server() || mountinfo::mount_of(mounted, place) == Some(entry))
    }
}

impl Fate {
    /// Where `rest` beneath the link leads.
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
            Self::PassedOver | Self::LeftOut => Ok(Lead::PassedOver),
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
    /// takes to list every directory. Without links that are followed out of the library it does nothing.
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
                "symbolic links are passed over: they lead nowhere, in a circle, or to what another path has"
            );
        }
    }

    /// How many links were passed over when the links were found last.
    pub fn links_passed_over(&self) -> u64 {
        self.links_out.as_ref().map_or(0, |links| links.read().passed_over)
    }

    /// A number that rises whenever other links are followed.
    pub fn links_version(&self) -> u64 {
        self.links_out.as_ref().map_or(0, |links| links.version.load(SeqCst))
    }

    /// Notes that a link came or went: everything is to be walked again.
    pub fn links_changed(&self) {
        if let Some(links) = &self.links_out {
            links.is_outdated.store(true, SeqCst);
        }
    }

    /// Whether a link came or went since the links were found, or leads to something else now. Of many links it
    /// compares some at each call.
    pub fn have_links_changed(&self) -> bool {
        let Some(links_out) = &self.links_out else { return false };
        if links_out.is_outdated.load(SeqCst) {
            return true;
        }
        let compared: Vec<(LibraryPath, Fate)> = {
            let table = links_out.read();
            let is_compared = |(_, fate): &(&LibraryPath, &Fate)| matches!(fate, Fate::Directory(..) | Fate::Broken(_));
            let count = table.links.iter().filter(is_compared).count();
            let first = links_out.checked.fetch_add(CHECKED_AT_ONCE, SeqCst) % count.max(1);
            let links = table.links.iter().filter(is_compared).cycle().skip(first);
            links.take(count.min(CHECKED_AT_ONCE)).map(|(link, fate)| (link.clone(), fate.clone())).collect()
        };
        let mounted = if compared.is_empty() { Vec::new() } else { mountinfo::mount_table().unwrap_or_default() };
        // A look may wait for a server, or have a disk mounted for it; walks are to do that, and not every second.
        let may_be_asked = |target: &Path| {
            mountinfo::mount_of(&mounted, target).is_some_and(|entry| !entry.has_server() && entry.kind != "autofs")
        };
        compared.into_iter().any(|(link, fate)| match fate {
            Fate::Directory(target, identity) => may_be_asked(&target) && identity_of(&target).ok() != Some(identity),
            Fate::Broken(target) => may_be_asked(&target) && link.under(&self.path).metadata().is_ok(),
            _ => false,
        })
    }

    /// Whether there is a link of the table at `path` or beneath it.
    pub fn has_link_at_or_beneath(&self, path: &LibraryPath) -> bool {
        let Some(links_out) = &self.links_out else { return false };
        let table = links_out.read();
        table.links.contains_key(path) || table.beneath(path).next().is_some()
    }

    /// The library path of what is at an absolute path outside of the library; `None` if no followed link leads there.
    pub fn by_links(&self, path: &Path) -> Option<LinkedPath> {
        let table = self.links_out.as_ref()?.read();
        let (target, link) = path.ancestors().find_map(|above| table.by_target.get_key_value(above))?;
        let rest = LibraryPath::beneath(target, path)?;
        let is_target = rest.is_root();
        let path = if is_target { link.clone() } else { link.join(rest.as_bytes()) };
        Some(LinkedPath { path, is_target })
    }

    /// The directories to watch for what happens where links lead.
    pub fn link_targets(&self) -> HashMap<PathBuf, LinkTarget> {
        let mut targets = HashMap::new();
        let Some(links_out) = &self.links_out else { return targets };
        for fate in links_out.read().links.values() {
            match fate {
                Fate::Directory(target, identity) => {
                    let watched = LinkTarget { is_recursive: true, identity: Some(*identity) };
                    targets.insert(target.to_path_buf(), watched);
                }
                Fate::File(target) => {
                    let parent = target.parent().unwrap_or(target).to_path_buf();
                    targets.entry(parent).or_insert(LinkTarget { is_recursive: false, identity: None });
                }
                _ => {}
            }
        }
        targets
    }

    /// The mounts that what is published depends on, without the one that the root is on: those beneath the root,
    /// and those that links lead to.
    pub fn mount_entries(&self) -> Vec<MountEntry> {
        let mut entries = mounts_beneath(&self.path).unwrap_or_default();
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

    /// The mounts outside of the library that rows may name, as far as they are there.
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

    pub(super) fn lead(&self, path: &LibraryPath) -> io::Result<Option<Lead>> {
        self.links_out.as_ref().map_or(Ok(None), |links| links.read().lead(path))
    }

    /// What is at a place outside of the library.
    pub(super) fn entry_outside(&self, outside: &Outside) -> io::Result<Entry> {
        let entry = self.real_entry(outside.at())?;
        let is_unknown = match entry {
            // What was mounted since is not watched, and nobody knows yet whether another link leads there too.
            Entry::File(_) | Entry::Directory => outside.is_broken,
            Entry::Other | Entry::Missing { .. } => outside.has_link(),
            Entry::Excluded => false,
        };
        if is_unknown { Err(io::Error::other(LinkUnknown)) } else { Ok(entry) }
    }
}

pub(super) fn identity_of(directory: &Path) -> io::Result<Identity> {
    Identity::of(&open_directory_at(directory)?)
}

/// Whether a look failed because of a link that is not in the table.
pub(super) fn is_unknown_link(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<LinkUnknown>)
}
