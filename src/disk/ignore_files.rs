//! Which paths the rules exclude, with the files `.ignore-music` on the way to them.
//!
//! The rules for a directory are cached until they are forgotten because they may have changed, or until a listing
//! finds that they have changed. For a directory that is not cached, the ignore files are read.

use std::collections::HashMap;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Disk, Entry, Root};
use crate::model::{IGNORE_FILE, IgnoreFile, LibraryPath, Patterns};

/// The most directories in the cache. With more, all are forgotten and read again one by one.
const MOST_DIRECTORIES: usize = 16_384;

/// The most bytes that an ignore file may have.
const LARGEST_FILE: u64 = 1 << 20;

/// The rules for a directory.
#[derive(Clone, Debug)]
pub(super) enum DirectoryRules {
    /// The directory is excluded, with everything in it.
    Excluded,
    /// The directory is not excluded. This is the nearest ignore file, in it or above it.
    Included(Option<Arc<IgnoreFile>>),
}

impl DirectoryRules {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Excluded, Self::Excluded) => true,
            (Self::Included(one), Self::Included(other)) => is_same_file(one.as_ref(), other.as_ref()),
            _ => false,
        }
    }
}

fn is_same_file(one: Option<&Arc<IgnoreFile>>, other: Option<&Arc<IgnoreFile>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// The cache of the rules for directories. A directory is cached only together with all directories above it.
#[derive(Debug, Default)]
pub(super) struct IgnoreFiles(RwLock<Cache>);

#[derive(Debug, Default)]
struct Cache {
    directories: HashMap<LibraryPath, DirectoryRules>,
    /// Rises whenever something is forgotten: rules that were read before that may be outdated.
    version: u64,
}

impl Cache {
    /// Forgets the rules for a directory and everything in it.
    fn forget(&mut self, directory: &LibraryPath) {
        self.version += 1;
        if directory.is_root() {
            self.directories.clear();
        } else if self.directories.contains_key(directory) {
            self.directories.retain(|path, _| !path.is_at_or_under(directory));
        }
    }

    /// Caches rules that were read at `version`, unless they may be outdated.
    fn remember(&mut self, directory: &LibraryPath, rules: &DirectoryRules, version: u64) {
        if self.directories.len() >= MOST_DIRECTORIES {
            self.forget(&LibraryPath::root());
        }
        if self.version == version {
            self.directories.entry(directory.clone()).or_insert_with(|| rules.clone());
        }
    }

    /// Caches rules that were read by a listing. They are newer than the cached ones, and if they differ, the rules for
    /// everything in the directory are forgotten.
    fn replace(&mut self, directory: &LibraryPath, rules: &DirectoryRules, mut version: u64) {
        let is_other = self.directories.get(directory).is_some_and(|known| !known.is_same(rules));
        if is_other {
            let is_current = self.version == version;
            self.forget(directory);
            version = if is_current { self.version } else { version };
        }
        self.remember(directory, rules, version);
    }
}

impl IgnoreFiles {
    pub(super) fn get(&self, directory: &LibraryPath) -> Option<DirectoryRules> {
        self.read().directories.get(directory).cloned()
    }

    fn read(&self) -> RwLockReadGuard<'_, Cache> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cache> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// Forgets the `.ignore-music` files in a directory and everything in it. They are read again when they are
    /// needed. A walk reads them in any case.
    pub fn forget_ignore_files(&self, directory: &LibraryPath) {
        self.ignore_files.write().forget(directory);
    }

    /// Whether `path`, as the path of a file, is excluded: by its extension, a pattern, or a symbolic link that is not
    /// followed.
    pub fn is_excluded(&self, path: &LibraryPath) -> bool {
        matches!(self.entry(path), Ok(Entry::Excluded { .. }))
    }

    /// Whether the cache alone shows that `path` is excluded, be it a file, a directory or nothing.
    pub fn is_known_to_be_excluded(&self, path: &LibraryPath) -> bool {
        let cache = self.ignore_files.read();
        let mut child = path.clone();
        while let Some(parent) = child.parent() {
            match cache.directories.get(&parent) {
                Some(DirectoryRules::Excluded) => return true,
                Some(DirectoryRules::Included(file)) => {
                    let is_excluded =
                        |is_directory| self.rules.excludes(file.as_deref(), &parent, child.name(), is_directory);
                    let is_audio = || self.rules.extensions().matches(path);
                    return is_excluded(true) && (child != *path || !is_audio() || is_excluded(false));
                }
                None => child = parent,
            }
        }
        false
    }

    /// The entry that was found at `path`, or [`Entry::Excluded`] if the rules exclude the path.
    pub(super) fn apply_rules(&self, path: &LibraryPath, found: io::Result<Entry>) -> io::Result<Entry> {
        let Some(parent) = path.parent() else { return found };
        let is_directory = matches!(found, Ok(Entry::Directory));
        let is_excluded = match self.rules_of(&parent) {
            Ok(DirectoryRules::Excluded) => true,
            Ok(DirectoryRules::Included(file)) => {
                (!is_directory && !self.rules.extensions().matches(path))
                    || self.rules.excludes(file.as_deref(), &parent, path.name(), is_directory)
            }
            // A failed access has an error of its own.
            Err(error) => return found.and(Err(error)),
        };
        if !is_excluded {
            return found;
        }
        let nearest_mount = found.ok().and_then(Entry::nearest_mount);
        Ok(Entry::Excluded { nearest_mount })
    }

    /// The rules for a directory and everything in it. Its ignore file is read from `opened`, the open directory, which
    /// is `None` if a listing found no such file.
    pub(super) fn rules_now(
        &self,
        directory: &LibraryPath,
        opened: Option<BorrowedFd<'_>>,
    ) -> io::Result<DirectoryRules> {
        let (before, version) = {
            let cache = self.ignore_files.read();
            (cache.directories.get(directory).cloned(), cache.version)
        };
        let rules = match self.rules_from_above(directory)? {
            DirectoryRules::Excluded => DirectoryRules::Excluded,
            DirectoryRules::Included(above) => {
                let known = match &before {
                    Some(DirectoryRules::Included(known)) => known.as_ref(),
                    _ => None,
                };
                let text = opened.map(ignore_file_in).transpose()?.flatten();
                DirectoryRules::Included(self.with_file(directory, text, above, known))
            }
        };
        if !before.is_some_and(|before| before.is_same(&rules)) {
            self.ignore_files.write().replace(directory, &rules, version);
        }
        Ok(rules)
    }

    /// The rules for a directory and everything in it, from the cache if they are there.
    fn rules_of(&self, directory: &LibraryPath) -> io::Result<DirectoryRules> {
        if let Some(rules) = self.ignore_files.get(directory) {
            return Ok(rules);
        }
        let version = self.ignore_files.read().version;
        let rules = match self.rules_from_above(directory)? {
            DirectoryRules::Excluded => DirectoryRules::Excluded,
            DirectoryRules::Included(above) => {
                let opened = self.open_directory_by_links(directory)?;
                let text = opened.map(|opened| ignore_file_in(opened.as_fd())).transpose()?.flatten();
                DirectoryRules::Included(self.with_file(directory, text, above, None))
            }
        };
        self.ignore_files.write().remember(directory, &rules, version);
        Ok(rules)
    }

    /// The rules for a directory without its own ignore file.
    fn rules_from_above(&self, directory: &LibraryPath) -> io::Result<DirectoryRules> {
        let Some(parent) = directory.parent() else { return Ok(DirectoryRules::Included(None)) };
        Ok(match self.rules_of(&parent)? {
            DirectoryRules::Included(file)
                if !self.rules.excludes(file.as_deref(), &parent, directory.name(), true) =>
            {
                DirectoryRules::Included(file)
            }
            _ => DirectoryRules::Excluded,
        })
    }

    /// The nearest ignore file of a directory whose own ignore file has this text. If it is the same as `known`, that
    /// one is returned.
    pub(super) fn with_file(
        &self,
        directory: &LibraryPath,
        text: Option<Vec<u8>>,
        above: Option<Arc<IgnoreFile>>,
        known: Option<&Arc<IgnoreFile>>,
    ) -> Option<Arc<IgnoreFile>> {
        let Some(text) = text else { return above };
        if let Some(known) = known
            && known.directory == *directory
            && *known.text == *text
            && is_same_file(known.above.as_ref(), above.as_ref())
        {
            return Some(Arc::clone(known));
        }
        let (patterns, errors) = Patterns::of_text(&text);
        for error in errors {
            let path = directory.join(IGNORE_FILE).to_absolute(&self.path);
            tracing::warn!(path = %path.display(), %error, "invalid pattern in an ignore file; the other lines apply");
        }
        Some(Arc::new(IgnoreFile { directory: directory.clone(), text: text.into_boxed_slice(), patterns, above }))
    }
}

/// The text of the ignore file in a directory; `None` if there is none. Links and other files that are not regular do
/// not count.
pub(super) fn ignore_file_in(directory: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(directory, IGNORE_FILE, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(of_ignore_file(&error.into())),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut text = Vec::new();
    std::fs::File::from(opened)
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut text)
        .map_err(|error| of_ignore_file(&error))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(of_ignore_file(&io::Error::other("it has more than 1 MiB")));
    }
    Ok(Some(text))
}

fn of_ignore_file(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("its .ignore-music cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::{Extensions, Rules};

    fn library() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/x.mp3"), b"").unwrap();
        let root = Root::open(folder.path()).unwrap();
        (folder, root)
    }

    fn ignore(root: &Root, directory: &str, text: &str) {
        fs::write(root.path().join(directory).join(".ignore-music"), text).unwrap();
    }

    #[test]
    fn a_changed_ignore_file_applies_after_it_was_forgotten_or_its_directory_listed() {
        let (_folder, root) = library();
        let is_excluded = || root.is_excluded(&"a/b/x.mp3".into());
        assert!(!is_excluded());
        ignore(&root, "a", "*.mp3");
        assert!(!is_excluded(), "it was not read again");
        root.forget_ignore_files(&"a".into());
        assert!(is_excluded());
        ignore(&root, "a", "# nothing");
        root.list(&"a".into()).unwrap();
        assert!(!is_excluded());
        ignore(&root, "a/b", "x.*");
        root.list(&"a/b".into()).unwrap();
        assert!(is_excluded());
        fs::remove_file(root.path().join("a/b/.ignore-music")).unwrap();
        root.list(&"a/b".into()).unwrap();
        assert!(!is_excluded());
    }

    #[test]
    fn an_excluded_path_is_excluded_whatever_is_there_or_can_be_read() {
        let (folder, root) = library();
        let rules = Rules::new("flac".parse::<Extensions>().unwrap());
        let (exclude, _) = Patterns::of_text(b"/gone\n");
        let root = root.with_rules(rules.excluding(exclude, Patterns::default(), true));
        for path in ["a/b/x.mp3", "a/b/missing.mp3", "gone/x.flac", "a/@eaDir/x.flac", "a/._x.flac"] {
            assert!(matches!(root.entry(&path.into()).unwrap(), Entry::Excluded { .. }), "{path}");
        }
        assert!(matches!(root.entry(&"a/b/x.flac".into()).unwrap(), Entry::Missing { .. }));
        assert_eq!(root.entry(&"a/b".into()).unwrap(), Entry::Directory);
        // Even if it cannot be found out what is there.
        fs::rename(folder.path(), folder.path().with_extension("away")).unwrap();
        assert!(matches!(root.entry(&"a/b/x.mp3".into()).unwrap(), Entry::Excluded { .. }));
        root.entry(&"a/b/x.flac".into()).expect_err("the root is gone");
        fs::rename(folder.path().with_extension("away"), folder.path()).unwrap();
    }

    #[test]
    fn nothing_is_published_from_a_directory_whose_ignore_file_cannot_be_read() {
        let (_folder, root) = library();
        fs::write(root.path().join("a/.ignore-music"), vec![b'#'; 2 << 20]).unwrap();
        root.entry(&"a/b/x.mp3".into()).expect_err("it is too large");
        root.list(&"a".into()).expect_err("it is too large");
        // Only a regular file counts, and opening a pipe does not block.
        fs::remove_file(root.path().join("a/.ignore-music")).unwrap();
        let pipe = root.path().join("a/.ignore-music");
        rustix::fs::mknodat(rustix::fs::CWD, pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(root.entry(&"a/b/x.mp3".into()).unwrap(), Entry::File(_)));
    }

    #[test]
    fn the_cache_of_directories_is_bounded() {
        let (_folder, root) = library();
        for number in 0..MOST_DIRECTORIES + 10 {
            assert!(!root.is_excluded(&format!("a/{number}/x.mp3").as_str().into()));
        }
        let cache = root.ignore_files.read().directories.len();
        assert!((1..=MOST_DIRECTORIES).contains(&cache), "{cache}");
    }
}
