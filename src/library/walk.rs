//! Walks a subtree of the library in byte order of whole paths.

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

use super::ExcludedDirectories;
use super::ahead::Ahead;
use crate::disk::{Disk, Entry, ListedKind, Listing, Root};
use crate::model::{FileStat, LibraryPath};

/// What a walk finds.
#[derive(Debug)]
pub enum Walked {
    /// An audio file.
    File(WalkedPath, FileStat),
    /// A path that could not be read. Nothing is known of it and of the paths under it.
    Unreadable(LibraryPath, io::Error),
}

impl Walked {
    /// The path that was found.
    #[must_use]
    pub fn path(&self) -> LibraryPath {
        match self {
            Self::File(path, _) => path.to_path(),
            Self::Unreadable(path, _) => path.clone(),
        }
    }
}

/// The path of a file that a walk found. It is put together only if it is needed, as most files are unchanged.
#[derive(Clone, Debug)]
pub struct WalkedPath(Parts);

#[derive(Clone, Debug)]
enum Parts {
    Whole(LibraryPath),
    /// The directory, and the position of the entry in its listing.
    Entry(LibraryPath, Arc<Listing>, usize),
}

impl WalkedPath {
    /// The whole path.
    #[must_use]
    pub fn to_path(&self) -> LibraryPath {
        match self.parts() {
            (directory, Some(name)) => directory.join(name),
            (path, None) => path.clone(),
        }
    }

    /// The order of a path, as bytes, and this one.
    pub(super) fn order_of(&self, path: &[u8]) -> Ordering {
        let (directory, name) = self.parts();
        let directory = directory.as_bytes();
        let Some(name) = name else { return path.cmp(directory) };
        if directory.is_empty() {
            return path.cmp(name);
        }
        let (begin, rest) = path.split_at(path.len().min(directory.len()));
        // A path that is as long as the directory, or shorter, comes before what is in it unless it differs.
        begin.cmp(directory).then_with(|| match rest.split_first() {
            Some((first, rest)) => first.cmp(&b'/').then_with(|| rest.cmp(name)),
            None => Ordering::Less,
        })
    }

    fn parts(&self) -> (&LibraryPath, Option<&[u8]>) {
        match &self.0 {
            Parts::Whole(path) => (path, None),
            Parts::Entry(directory, listing, at) => (directory, listing.get(*at).map(|entry| entry.name)),
        }
    }
}

impl From<LibraryPath> for WalkedPath {
    fn from(path: LibraryPath) -> Self {
        Self(Parts::Whole(path))
    }
}

/// The audio files at or under one path that no rule excludes, in byte order of their paths. The iterator blocks.
///
/// It keeps one sorted listing per level in memory, and those that were listed ahead by threads of its own. A directory that
/// vanishes during the walk counts as empty, so a missing file must be looked at before it is published as deleted.
#[must_use]
#[derive(Debug)]
pub struct Walk<'a> {
    root: &'a Arc<Root>,
    start: Option<LibraryPath>,
    levels: Vec<Level>,
    ahead: Ahead,
    excluded: Option<&'a ExcludedDirectories>,
}

/// A directory that is being walked.
#[derive(Debug)]
struct Level {
    directory: LibraryPath,
    entries: Arc<Listing>,
    /// The position of the next entry.
    next: usize,
}

impl<'a> Walk<'a> {
    /// A walk of everything at or under `start`. That may be a file, a directory, or a path that does not exist.
    pub fn new(root: &'a Arc<Root>, start: LibraryPath) -> Self {
        Self { root, start: Some(start), levels: Vec::new(), ahead: Ahead::new(Arc::clone(root)), excluded: None }
    }

    /// Records the directories that the rules exclude in this register.
    pub fn recording(self, excluded: &'a ExcludedDirectories) -> Self {
        Self { excluded: Some(excluded), ..self }
    }

    /// Lists all directories on the thread of the caller, when they are needed.
    pub fn alone(mut self) -> Self {
        self.ahead.list_alone();
        self
    }

    fn begin(&mut self, start: LibraryPath) -> Option<Walked> {
        match self.root.entry(&start) {
            Ok(Entry::Directory) => self.enter(start),
            Ok(Entry::File(found)) => Some(Walked::File(start.into(), found)),
            Ok(Entry::Other | Entry::Missing { .. } | Entry::Excluded { .. }) => None,
            Err(error) => Some(Walked::Unreadable(start, error)),
        }
    }

    fn enter(&mut self, directory: LibraryPath) -> Option<Walked> {
        match self.ahead.list(&directory) {
            Ok(entries) => {
                self.levels.push(Level { directory, entries, next: 0 });
                None
            }
            Err(error) => Some(Walked::Unreadable(directory, error)),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Walked;

    fn next(&mut self) -> Option<Walked> {
        if let Some(start) = self.start.take()
            && let Some(walked) = self.begin(start)
        {
            return Some(walked);
        }
        loop {
            let Level { directory, entries, next } = self.levels.last_mut()?;
            let Some(entry) = entries.get(*next) else {
                self.levels.pop();
                continue;
            };
            let at = *next;
            *next += 1;
            match *entry.kind {
                ListedKind::File(stat) => {
                    let path = WalkedPath(Parts::Entry(directory.clone(), Arc::clone(entries), at));
                    return Some(Walked::File(path, stat));
                }
                ListedKind::Unreadable(error) => {
                    return Some(Walked::Unreadable(directory.join(entry.name), error.into()));
                }
                ListedKind::Excluded => {
                    if let Some(excluded) = self.excluded {
                        excluded.note_found(directory.join(entry.name));
                    }
                }
                ListedKind::Directory => {
                    let path = directory.join(entry.name);
                    if let Some(unreadable) = self.enter(path) {
                        return Some(unreadable);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::model::FollowSymlinks;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Against a naive walk: the same files, in byte order of whole paths.
        #[test]
        fn a_walk_finds_every_audio_file_in_the_order_of_paths(
            paths in prop::collection::btree_set("[ab.-]{0,2}[a0](/[ab.-]{0,2}[a0]){0,3}", 0..24),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut expected = BTreeSet::new();
            for path in &paths {
                let file = folder.path().join(format!("{path}.mp3"));
                if fs::create_dir_all(file.parent().unwrap()).is_ok() && fs::write(&file, b"").is_ok() {
                    expected.insert(LibraryPath::strip_root(folder.path(), &file).unwrap());
                }
                let _ = fs::write(folder.path().join(format!("{path}.txt")), b"");
            }
            let root = Arc::new(Root::open(folder.path()).unwrap());
            let walk = Walk::new(&root, LibraryPath::root()).map(|found| found.path());
            prop_assert_eq!(walk.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn a_path_is_compared_as_if_it_were_put_together(
            names in prop::collection::vec("[a/.-]{0,1}[a-]", 1..3),
            directory in "([a-](/[a-]){0,2})?",
            other in "[a-](/?[a.-]){0,5}",
        ) {
            let folder = tempfile::tempdir().unwrap();
            for name in &names {
                let _ = fs::create_dir(folder.path().join(name.trim_start_matches('/')));
            }
            let listing = Arc::new(Root::open(folder.path()).unwrap().list(&LibraryPath::root()).unwrap().unwrap());
            let directory = LibraryPath::from(directory.as_str());
            for at in 0..listing.len() {
                let path = WalkedPath(Parts::Entry(directory.clone(), Arc::clone(&listing), at));
                let whole = directory.join(listing.get(at).unwrap().name);
                prop_assert_eq!(path.to_path(), whole.clone());
                for other in [other.as_bytes(), whole.as_bytes(), directory.as_bytes()] {
                    prop_assert_eq!(path.order_of(other), other.cmp(whole.as_bytes()));
                }
            }
        }
    }

    /// Directories inside and outside of a library. Each has one file.
    const DIRECTORIES: [&str; 7] =
        ["library/a", "library/a/b", "library/c", "outside/d", "outside/d/e", "outside/d/e/f", "outside/g"];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        /// For any links: a walk ends, every file outside has at most one path, the links of the library are followed, and
        /// looks agree with walks.
        #[test]
        fn every_file_that_links_lead_to_outside_has_one_path(
            links in prop::collection::btree_map((0..DIRECTORIES.len(), "[lm]"), 0..DIRECTORIES.len() + 5, 0..9),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let base = folder.path().canonicalize().unwrap();
            for directory in DIRECTORIES {
                fs::create_dir_all(base.join(directory)).unwrap();
                fs::write(base.join(directory).join("x.mp3"), b"").unwrap();
            }
            let others = ["library", "outside", "", "nothing", "outside/g/x.mp3"];
            let target = |to: usize| base.join(DIRECTORIES.iter().chain(&others).nth(to).unwrap());
            for ((at, name), &to) in &links {
                let extension = if to == DIRECTORIES.len() + 4 { ".mp3" } else { "" };
                let link = base.join(DIRECTORIES[*at]).join(format!("{name}{extension}"));
                std::os::unix::fs::symlink(target(to), link).unwrap();
            }
            let root = Root::open(&base.join("library")).unwrap().following_links(FollowSymlinks::All);
            root.find_links();
            let root = Arc::new(root);
            let mut outside = BTreeSet::new();
            let mut last = None;
            for found in Walk::new(&root, LibraryPath::root()) {
                let path = found.path();
                prop_assert!(matches!(found, Walked::File(..)), "{found:?}");
                prop_assert!(matches!(root.entry(&path).unwrap(), Entry::File(_)), "{path}");
                prop_assert!(root.open(&path).unwrap().is_some(), "{path}");
                prop_assert!(last.is_none_or(|last| last < path), "{path} is out of order");
                let real = path.to_absolute(root.path()).canonicalize().unwrap();
                if !real.starts_with(root.path()) {
                    prop_assert_eq!(root.by_links(&real).map(|linked| linked.path), Some(path.clone()));
                    prop_assert!(outside.insert(real), "{path} is there twice");
                }
                last = Some(path);
            }
            let followed: Vec<_> = links
                .iter()
                .filter(|((at, _), _)| DIRECTORIES[*at].starts_with("library"))
                .map(|(_, to)| target(*to))
                .filter(|target| target.starts_with(base.join("outside")))
                .collect();
            for directory in DIRECTORIES {
                let file = base.join(directory).join("x.mp3");
                let is_followed = followed.iter().any(|target| file.starts_with(target));
                prop_assert!(!is_followed || outside.contains(&file), "{file:?} is not there");
            }
            let found_before = root.links_version();
            root.find_links();
            prop_assert_eq!(root.links_version(), found_before);
            prop_assert!(!root.have_links_changed());
        }
    }

    /// Few names and patterns, so that they often match.
    fn any_pattern() -> impl Strategy<Value = String> {
        ("!?", "/?", "(\\*|\\*\\*|a|b|[ab]\\*|\\?|[ab]\\.mp3|\\*\\.mp3)(/(a|b|\\*|\\*\\*|[ab]\\.mp3))?", "/?")
            .prop_map(|(not, rooted, pattern, directory)| format!("{not}{rooted}{pattern}{directory}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        /// Against ripgrep's walker. Looks agree with walks, and no walked file is known to be excluded.
        #[test]
        fn the_rules_exclude_what_gitignore_excludes(
            files in prop::collection::btree_set("[ab](/[ab]){0,3}\\.mp3", 1..16),
            ignore_files in prop::collection::btree_map(
                "[ab](/[ab]){0,2}|", prop::collection::vec(any_pattern(), 1..4), 0..4,
            ),
        ) {
            let folder = tempfile::tempdir().unwrap();
            for file in &files {
                let file = folder.path().join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, b"").unwrap();
            }
            for (directory, patterns) in &ignore_files {
                let file = folder.path().join(directory).join(".ignore-music");
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, patterns.join("\n")).unwrap();
            }
            let mut walker = ignore::WalkBuilder::new(folder.path());
            walker.standard_filters(false).add_custom_ignore_filename(".ignore-music");
            let expected: BTreeSet<LibraryPath> = walker
                .build()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.file_name().to_string_lossy().ends_with(".mp3"))
                .filter_map(|entry| LibraryPath::strip_root(folder.path(), entry.path()))
                .collect();

            // Each check runs with nothing in memory, and after a walk.
            let root = || Root::open(folder.path()).unwrap();
            let walked_root = Arc::new(root());
            let walked: Vec<_> =
                Walk::new(&walked_root, LibraryPath::root()).map(|found| found.path()).collect();
            prop_assert_eq!(&walked, &expected.iter().cloned().collect::<Vec<_>>());
            for file in files.iter().map(|file| LibraryPath::from(file.as_str())) {
                let is_excluded = !expected.contains(&file);
                prop_assert_eq!(root().is_excluded(&file), is_excluded, "{}", &file);
                prop_assert_eq!(walked_root.is_excluded(&file), is_excluded, "{}", &file);
                // Unless a directory of this name would not be excluded.
                prop_assert!(is_excluded || !walked_root.is_known_to_be_excluded(&file), "{}", &file);
                prop_assert!(!root().is_known_to_be_excluded(&file));
                let of_parent = Walk::new(&walked_root, file.parent().unwrap()).any(|found| found.path() == file);
                prop_assert_eq!(of_parent, !is_excluded);
            }
        }
    }

    #[test]
    fn a_walk_may_start_at_a_file_or_at_a_missing_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.mp3"), b"").unwrap();
        let root = Arc::new(Root::open(folder.path()).unwrap());
        let count = |start: &str| Walk::new(&root, start.into()).count();
        assert_eq!((count("a.mp3"), count("b"), count("")), (1, 0, 1));
    }
}
