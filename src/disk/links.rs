//! Following symbolic links.
//!
//! On the way to a path, one link is followed, and only if it leads to inside the library. `outside.rs` follows the
//! links that lead out. Other links are not followed: those behind another link, those that lead out, and those to a
//! directory that contains the link itself. So every file has a finite number of paths, however the links are
//! arranged, and what is at a path does not depend on earlier accesses.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::outside::{Lead, LinkUnknown, LinksOut};
use super::{Entry, Place, Root};
use crate::model::{FileStat, FollowSymlinks, LibraryPath};

/// The most links on one path that the kernel follows. With more, it reports a loop.
const MOST_LINKS: usize = 40;

/// The links that were followed so far, each as its target and its own path.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<BTreeSet<(LibraryPath, LibraryPath)>>);

impl Links {
    /// The real path of `path`, if the first link on the way may be followed.
    pub(super) fn resolve(&self, root: &Path, path: &LibraryPath) -> io::Result<Option<LibraryPath>> {
        let mut way = LibraryPath::root();
        let mut names = path.names();
        while let Some(name) = names.next() {
            way = way.join(name);
            match way.to_absolute(root).symlink_metadata() {
                Ok(found) if found.is_symlink() => {
                    let target = self.target(root, &way)?;
                    return Ok(target.map(|target| names.fold(target, |real, name| real.join(name))));
                }
                Ok(_) => {}
                Err(error) if is_absence(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The target of a link, if the link may be followed.
    fn target(&self, root: &Path, link: &LibraryPath) -> io::Result<Option<LibraryPath>> {
        let target = match link.to_absolute(root).canonicalize() {
            Ok(target) => LibraryPath::strip_root(&root.canonicalize()?, &target),
            Err(error) if is_absence(&error) => None,
            Err(error) => return Err(error),
        };
        let target = target.filter(|target| !link.is_at_or_under(target));
        if let Some(target) = &target {
            self.known().insert((target.clone(), link.clone()));
        }
        Ok(target)
    }

    /// The other paths of what is at `path`, by known links.
    pub(super) fn other_paths(&self, path: &LibraryPath) -> Vec<LibraryPath> {
        let known = self.known();
        let mut paths = Vec::new();
        let mut target = Some(path.clone());
        while let Some(at) = target {
            let depth = at.names().count();
            let behind = |link: &LibraryPath| path.names().skip(depth).fold(link.clone(), |path, name| path.join(name));
            let links = known.range((Bound::Included((at.clone(), LibraryPath::root())), Bound::Unbounded));
            paths.extend(links.take_while(|(target, _)| *target == at).map(|(_, link)| behind(link)));
            target = at.parent();
        }
        paths
    }

    /// The known links that lead to something under `directory`.
    pub(super) fn to_targets_under(&self, directory: &LibraryPath) -> Vec<LibraryPath> {
        let first = (directory.join(b""), LibraryPath::root());
        let known = self.known();
        let links = known.range((Bound::Included(first), Bound::Unbounded));
        links.take_while(|(target, _)| target.is_at_or_under(directory)).map(|(_, link)| link.clone()).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<(LibraryPath, LibraryPath)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// Follows these symbolic links. Links to inside the library are followed once on the way to a path, and never to
    /// a directory that contains the link. Links that lead out are followed as [`Root::find_links`] finds them.
    #[must_use]
    pub fn following_links(self, which: FollowSymlinks) -> Self {
        let links = (which != FollowSymlinks::Never).then(Links::default);
        Self { links, links_out: (which == FollowSymlinks::All).then(LinksOut::default), ..self }
    }

    /// Whether symbolic links are followed.
    pub fn follows_links(&self) -> bool {
        self.links.is_some()
    }

    /// The other paths of what is at `path`, by the symlinks that are known so far.
    pub fn other_paths(&self, path: &LibraryPath) -> Vec<LibraryPath> {
        self.links.as_ref().map_or_else(Vec::new, |links| links.other_paths(path))
    }

    /// The symlinks that are known so far and lead to something under `directory`.
    pub fn links_to_targets_under(&self, directory: &LibraryPath) -> Vec<LibraryPath> {
        self.links.as_ref().map_or_else(Vec::new, |links| links.to_targets_under(directory))
    }

    /// The real path of what is at `path`, if a link on the way leads to inside the library and is followed.
    pub(super) fn behind_link(&self, path: &LibraryPath) -> io::Result<Option<LibraryPath>> {
        self.links.as_ref().map_or(Ok(None), |links| links.resolve(&self.path, path))
    }

    /// What is at `path`, which may be behind a link that is followed. The rules are not applied.
    pub(super) fn entry_by_links(&self, path: &LibraryPath) -> io::Result<Entry> {
        self.find_by_links(path).map(|(entry, _)| entry)
    }

    /// The same, with its place if there is no link on the way.
    pub(super) fn find_by_links(&self, path: &LibraryPath) -> io::Result<(Entry, Place)> {
        let entry = match self.lead(path)? {
            Some(Lead::To(real)) => self.entry_outside(&real)?,
            Some(Lead::PassedOver) => Entry::Excluded { nearest_mount: None },
            None => match self.find_real(path.into())? {
                (entry @ (Entry::Other | Entry::Missing { .. }), _) => self.entry_behind_link(path, entry)?,
                found => return Ok(found),
            },
        };
        Ok((entry, Place::default()))
    }

    /// What is at `path`, at which there is this entry unless it is behind a link that is followed.
    fn entry_behind_link(&self, path: &LibraryPath, entry: Entry) -> io::Result<Entry> {
        if !self.follows_links() {
            return Ok(if lead_to(&self.path, path) { Entry::Excluded { nearest_mount: None } } else { entry });
        }
        if let Some(real) = self.behind_link(path)? {
            let found = self.real_entry((&real).into())?;
            return Ok(if matches!(found, Entry::File(_) | Entry::Directory) { found } else { entry });
        }
        match &self.links_out {
            None if lead_out(&self.path, path) => Ok(Entry::Excluded { nearest_mount: None }),
            Some(_) if lead_to(&self.path, path) => Err(io::Error::other(LinkUnknown)),
            _ => Ok(entry),
        }
    }

    /// Opens the regular file at `path`, which may be behind a link that is followed.
    pub(super) fn open_by_links(&self, path: &LibraryPath) -> io::Result<Option<(File, FileStat)>> {
        match self.lead(path)? {
            Some(Lead::To(real)) => return self.open_real(real.at()),
            Some(Lead::PassedOver) => return Ok(None),
            None => {}
        }
        match self.open_real(path.into())? {
            None => match self.behind_link(path)? {
                Some(real) => self.open_real((&real).into()),
                None => Ok(None),
            },
            opened => Ok(opened),
        }
    }

    /// The directory at `path`, which may be behind a link that is followed.
    pub(super) fn open_directory_by_links(&self, path: &LibraryPath) -> io::Result<Option<OwnedFd>> {
        match self.lead(path)? {
            Some(Lead::To(real)) => return self.open_directory(real.at()),
            Some(Lead::PassedOver) => return Ok(None),
            None => {}
        }
        match self.open_directory(path.into())? {
            None => self.behind_link(path)?.map_or(Ok(None), |real| self.open_directory((&real).into())),
            opened => Ok(opened),
        }
    }
}

/// Whether there is a link at `path` or on the way to it.
pub(super) fn lead_to(root: &Path, path: &LibraryPath) -> bool {
    let mut way = LibraryPath::root();
    path.names().any(|name| {
        way = way.join(name);
        way.to_absolute(root).symlink_metadata().is_ok_and(|found| found.is_symlink())
    })
}

/// Whether the first link at `path` or on the way to it leads out of the library, as far as this can be found out.
pub(super) fn lead_out(root: &Path, path: &LibraryPath) -> bool {
    let mut way = LibraryPath::root();
    let link = path.names().find_map(|name| {
        way = way.join(name);
        let link = way.to_absolute(root);
        link.symlink_metadata().is_ok_and(|found| found.is_symlink()).then_some(link)
    });
    let (Some(link), Ok(root)) = (link, root.canonicalize()) else { return false };
    match link.canonicalize() {
        Ok(target) => !target.starts_with(&root),
        Err(error) => is_absence(&error) && nearest_target(&link).is_some_and(|target| !target.starts_with(&root)),
    }
}

/// The target of a dangling link. The part of it that exists is canonical.
pub(super) fn nearest_target(link: &Path) -> Option<PathBuf> {
    let mut target = link.to_path_buf();
    for _ in 0..MOST_LINKS {
        let Ok(next) = target.read_link() else {
            let (above, canonical) = target.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)))?;
            return Some(canonical.join(target.strip_prefix(above).ok()?));
        };
        target = target.parent()?.join(next);
    }
    None
}

/// Whether an error proves that a path leads nowhere. A loop of links does.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(paths: &[&str]) -> Vec<LibraryPath> {
        paths.iter().map(|path| LibraryPath::from(*path)).collect()
    }

    #[test]
    fn a_link_is_followed_once_and_never_out_or_to_a_directory_that_contains_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("music");
        for directory in ["music/real/deep", "music/b", "outside"] {
            fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        fs::write(root.join("real/x.mp3"), "").unwrap();
        symlink("../real", root.join("b/relative")).unwrap();
        symlink(root.join("real"), root.join("absolute")).unwrap();
        symlink("absolute", root.join("to a link")).unwrap();
        symlink("../x.mp3", root.join("real/deep/x.mp3")).unwrap();
        symlink("..", root.join("real/deep/up")).unwrap();
        symlink("..", root.join("b/all")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink("around", root.join("around")).unwrap();
        symlink("nothing", root.join("dangling")).unwrap();

        let links = Links::default();
        let real = |path: &str| links.resolve(&root, &path.into()).unwrap();
        assert_eq!(real("b/relative/x.mp3"), Some("real/x.mp3".into()));
        assert_eq!(real("absolute/new/x.mp3"), Some("real/new/x.mp3".into()));
        assert_eq!(real("to a link"), Some("real".into()));
        assert_eq!(real("real/deep/x.mp3"), Some("real/x.mp3".into()));
        // The rest of the path is not resolved: a second link on it is not followed later.
        assert_eq!(real("absolute/deep/x.mp3"), Some("real/deep/x.mp3".into()));
        let names = ["real/x.mp3", "real/deep/up/x.mp3", "b/all/x.mp3", "out/x.mp3", "around", "dangling", "nothing/x"];
        for path in names {
            assert_eq!(real(path), None, "{path}");
        }
    }

    #[test]
    fn a_change_concerns_every_path_that_leads_to_the_file() {
        let links = Links::default();
        let known = [("real", "one"), ("real", "two"), ("real/deep", "three"), ("real.mp3", "four"), ("b", "five")];
        links.known().extend(known.iter().map(|(target, link)| (LibraryPath::from(*target), LibraryPath::from(*link))));
        assert_eq!(links.other_paths(&"real/deep/x".into()), paths(&["three/x", "one/deep/x", "two/deep/x"]));
        assert_eq!(links.other_paths(&"real.mp3".into()), paths(&["four"]));
        assert!(links.other_paths(&"a/x".into()).is_empty());
        assert_eq!(links.to_targets_under(&"real".into()), paths(&["three"]));
        assert_eq!(links.to_targets_under(&LibraryPath::root()).len(), 5);
    }
}
