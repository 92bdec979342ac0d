//! A real directory tree, and what must be true of it.
//!
//! Whatever is done to the disk goes through here, so it is known without looking what every name
//! holds, and every content that a name ever had.

mod identity;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use file_watcher::model::{IGNORE_FILE, IgnoreFile, LibraryPath, Patterns, Rules};

use crate::operation::Ignoring;
use crate::support::disk::{Files, sha256};

/// SHA-256 in hexadecimal.
pub(crate) type Hash = String;

/// Bytes written at once; a large file takes several writes.
const CHUNK: usize = 256 * 1024;

/// How long a file that was closed must be left alone to count as finished.
const QUIET: Duration = crate::program::DEBOUNCE.saturating_sub(TICK);

/// How late the program may read the event of a close or a rename, on a busy machine and after a flood.
const EVENT_DELAY: Duration = Duration::from_secs(3);

/// How much earlier than by its settings the program may call a file finished: file times advance with the kernel's tick.
const TICK: Duration = Duration::from_millis(15);

/// The library's name in the folder, and that of the place outside of it.
pub(crate) const LIBRARY: &str = "music";
pub(crate) const OUTSIDE: &str = "outside";

/// A file in place of a directory, so that no path through it can be made or found.
const NOWHERE: &str = "nowhere";

/// How long after a name went a message may still say that it was gone for a moment.
const PUBLISHED_EVENT_DELAY: Duration = Duration::from_secs(5);

/// An inode, whatever the filesystem calls it.
type FileId = u64;

struct Known {
    bytes: Arc<Vec<u8>>,
    hash: Hash,
}

impl Known {
    fn new(bytes: Vec<u8>) -> Self {
        Self { hash: sha256(&bytes), bytes: Arc::new(bytes) }
    }
}

/// A file that is being written in parts.
struct SlowWrite {
    id: FileId,
    file: File,
    parts: VecDeque<Vec<u8>>,
    offset: u64,
    pause: Duration,
    last: Instant,
    /// Somebody renamed it, by which it counts as complete.
    excused: bool,
    /// What the kernel calls it when it is closed: the last name that it had, whatever has that name then.
    name: PathBuf,
    /// The program may have read an event of a close, if it was begun soon after the last one was, or if another
    /// file is closed that the kernel calls the same.
    hurried: bool,
}

/// The tree in `folder`.
pub(crate) struct Tree {
    folder: PathBuf,
    /// How long a file that nobody closed must stay as it is to count as finished.
    settle: Duration,
    names: BTreeMap<PathBuf, FileId>,
    files: HashMap<FileId, Known>,
    next_id: FileId,
    slow: Vec<SlowWrite>,
    complete: HashSet<(PathBuf, Hash)>,
    /// Which file had which content, in histories whose contents are all different.
    holders: HashMap<Hash, FileId>,
    /// All names that each file ever had.
    ever_at: HashMap<FileId, BTreeSet<PathBuf>>,
    /// When a file was last closed or renamed: for a while after that the program may read an event of it, and
    /// take what it finds then for finished as soon as it is quiet.
    touched: HashMap<FileId, Instant>,
    /// When a name last went, or was given to another file.
    went: HashMap<PathBuf, Instant>,
    /// What is not there as long as its filesystem is not mounted.
    away: Option<PathBuf>,
    /// How many times an audio file in the library came, changed or went.
    pub(crate) effects: u64,
    /// What was done, for people.
    pub(crate) journal: Vec<String>,
    rules: Rules,
}

impl Tree {
    pub(crate) fn new(folder: &Path, settle: Duration) -> Self {
        fs::create_dir_all(folder.join(LIBRARY)).unwrap();
        fs::create_dir(folder.join(OUTSIDE)).unwrap();
        fs::write(folder.join(NOWHERE), "").unwrap();
        // A root that holds nothing at all is taken for one that is not mounted, and its deletes are held.
        fs::write(folder.join(LIBRARY).join("cover.jpg"), "no audio").unwrap();
        Self {
            folder: folder.to_path_buf(),
            settle: settle.saturating_sub(TICK),
            names: BTreeMap::new(),
            files: HashMap::new(),
            next_id: 0,
            slow: Vec::new(),
            complete: HashSet::new(),
            holders: HashMap::new(),
            ever_at: HashMap::new(),
            touched: HashMap::new(),
            went: HashMap::new(),
            away: None,
            effects: 0,
            journal: Vec::new(),
            rules: Rules::default(),
        }
    }

    /// Takes note of a file that was there before.
    pub(crate) fn find(&mut self, path: &Path, bytes: &[u8]) {
        let id = self.adopt(path, bytes.to_vec());
        self.changed(id);
    }

    /// Where a path of this tree is on the disk.
    fn real(&self, path: &Path) -> PathBuf {
        let is_away = self.is_away(path);
        if is_away { self.folder.join(NOWHERE).join(path) } else { self.folder.join(path) }
    }

    fn is_away(&self, path: &Path) -> bool {
        self.away.as_ref().is_some_and(|away| path.starts_with(away))
    }

    /// Does as if nothing was at this place from now on, where nobody may be writing. Returns the names of the library that
    /// are there, without those that may still be published as gone for a moment.
    pub(crate) fn take_away(&mut self, place: &Path) -> BTreeSet<PathBuf> {
        self.away = Some(place.to_path_buf());
        let is_there = |path: &&PathBuf| {
            path.starts_with(place) && self.went.get(*path).is_none_or(|went| went.elapsed() > PUBLISHED_EVENT_DELAY)
        };
        self.names.keys().filter(is_there).filter_map(|path| self.audio(path)).map(Path::to_path_buf).collect()
    }

    /// What was taken away is there again.
    pub(crate) fn put_back(&mut self) {
        self.away = None;
    }

    /// Writes down what happens now.
    pub(crate) fn note(&mut self, what: impl AsRef<str>) {
        self.journal.push(format!("{} {}", jiff::Timestamp::now().strftime("%H:%M:%S%.6f"), what.as_ref()));
    }

    /// The audio files that the library must be seen to hold.
    pub(crate) fn library(&self) -> Files {
        let in_library = self.names.iter().filter_map(|(path, id)| Some((self.published(path)?, id)));
        in_library.map(|(path, id)| (path.to_path_buf(), self.files[id].hash.clone())).collect()
    }

    /// The audio files that are on the disk, read from there.
    pub(crate) fn on_disk(&self) -> Files {
        let mut found = Files::new();
        let mut directories = vec![PathBuf::from(LIBRARY)];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = fs::read_dir(self.real(&directory)) else { continue };
            for entry in entries.map(Result::unwrap) {
                let path = directory.join(entry.file_name());
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file()
                    && let Some(audio) = self.published(&path)
                {
                    found.insert(audio.to_path_buf(), sha256(fs::read(entry.path()).unwrap()));
                }
            }
        }
        found
    }

    /// Whether this file of the library ever had this content and was left with it.
    pub(crate) fn was_ever(&self, path: &Path, hash: &str) -> bool {
        self.complete.contains(&(path.to_path_buf(), hash.to_owned()))
    }

    /// The files that are there, in the library or outside.
    pub(crate) fn files_in(&self, place: &str) -> Vec<PathBuf> {
        self.names.keys().filter(|path| path.starts_with(place) && !self.is_away(path)).cloned().collect()
    }

    /// The directories in `place`, without itself.
    pub(crate) fn directories_in(&self, place: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut to_list = vec![place.to_path_buf()];
        while let Some(directory) = to_list.pop() {
            let Ok(entries) = fs::read_dir(self.real(&directory)) else { continue };
            for entry in entries.flatten() {
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory && !self.is_away(&directory.join(entry.file_name())) {
                    to_list.push(directory.join(entry.file_name()));
                    found.push(directory.join(entry.file_name()));
                }
            }
        }
        found.sort();
        found
    }

    pub(crate) fn is_writing_slowly(&self) -> bool {
        !self.slow.is_empty()
    }

    /// Writes the parts that are due, and says when the next one is.
    pub(crate) fn write_parts(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut writes = std::mem::take(&mut self.slow);
        for write in &mut writes {
            if now < write.last + write.pause {
                continue;
            }
            let Some(part) = write.parts.pop_front() else { continue };
            let begun = Instant::now();
            write.file.write_all_at(&part, write.offset).unwrap();
            self.keep_if_long(write);
            write.last = begun;
            let mut bytes = self.files[&write.id].bytes.to_vec();
            overlay(&mut bytes, write.offset, &part);
            self.files.insert(write.id, Known::new(bytes));
            write.offset += part.len() as u64;
            let names = self.names_of(write.id);
            self.note(format!("part of {names:?}, {} to come", write.parts.len()));
        }
        let (finished, going_on) = writes.into_iter().partition(|write| write.parts.is_empty());
        self.slow = going_on;
        self.close(finished);
        self.slow.iter().map(|write| write.last + write.pause).min()
    }

    /// Begins to write `parts`, which [`Tree::write_parts`] goes on with.
    pub(crate) fn begin_slow_write(&mut self, path: &Path, cut: bool, parts: Vec<Vec<u8>>, pause: Duration) {
        self.stop_writing(path);
        // If the file has several names, this one may go before it is closed, and the others get no event.
        let names = self.names.get(path).map_or(0, |&id| self.names_of(id).len());
        if !self.may_be_written(path) || names > 1 {
            return;
        }
        let last = Instant::now();
        let file = OpenOptions::new().write(true).create(true).truncate(cut).open(self.real(path));
        let Ok(file) = file else { return };
        let id = self.names.get(path).copied().unwrap_or_else(|| self.adopt(path, Vec::new()));
        if cut {
            self.files.insert(id, Known::new(Vec::new()));
        }
        let hurried = self.touched.get(&id).is_some_and(|touched| touched.elapsed() < EVENT_DELAY);
        self.note(format!("begin {path:?}, cut {cut}, {} parts every {pause:?}", parts.len()));
        let (name, parts) = (path.to_path_buf(), parts.into());
        self.slow.push(SlowWrite { id, file, parts, offset: 0, pause, last, excused: false, name, hurried });
    }

    /// Writes `bytes` at `offset` and closes the file; made, and cut first, as asked for.
    pub(crate) fn write(&mut self, path: &Path, bytes: &[u8], how: How) -> bool {
        if how != How::Whole && !self.names.contains_key(path) {
            return false;
        }
        self.stop_writing(path);
        if !self.may_be_written(path) {
            return false;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(how == How::Whole).truncate(how == How::Whole);
        let mut last = Instant::now();
        let Ok(mut file) = options.open(self.real(path)) else { return false };
        let before = match self.names.get(path) {
            Some(id) if how != How::Whole => self.files[id].bytes.to_vec(),
            _ => Vec::new(),
        };
        let offset = if how == How::Append { before.len() as u64 } else { 0 };
        file.seek(SeekFrom::Start(offset)).unwrap();
        let id = self.names.get(path).copied().unwrap_or_else(|| self.adopt(path, Vec::new()));
        let mut partial = before;
        let mut offset = usize::try_from(offset).unwrap();
        for chunk in bytes.chunks(CHUNK) {
            let begun = Instant::now();
            file.write_all(chunk).unwrap();
            if last.elapsed() >= QUIET {
                // The machine was so busy that what was there had the time to look finished.
                self.remember(id, &sha256(&partial));
            }
            last = begun;
            overlay(&mut partial, offset as u64, chunk);
            offset += chunk.len();
        }
        let mut after = partial.clone();
        if how == How::InPlaceAndCut {
            file.set_len(bytes.len() as u64).unwrap();
            after.truncate(bytes.len());
            if last.elapsed() >= QUIET {
                self.remember(id, &sha256(&partial));
            }
        }
        drop(file);
        self.files.insert(id, Known::new(after));
        self.changed(id);
        self.note(format!("wrote {path:?} {how:?}, {} bytes, {}", bytes.len(), &self.files[&id].hash[..8]));
        true
    }

    /// Writes `contents` one after the other, as fast as that goes; only the last one counts, and
    /// those that had the time to look finished.
    pub(crate) fn write_in_tight_loop(&mut self, path: &Path, mut content: impl FnMut() -> Vec<u8>, length: Duration) {
        let Some(&id) = self.names.get(path) else { return };
        self.stop_writing(path);
        if !self.may_be_written(path) {
            return;
        }
        self.note(format!("tight loop over {path:?}"));
        let begun = Instant::now();
        let mut bytes = self.files[&id].bytes.to_vec();
        let mut last: Option<Instant> = None;
        while last.is_none() || begun.elapsed() < length {
            let next = content();
            let cut = Instant::now();
            let mut file = OpenOptions::new().write(true).truncate(true).open(self.real(path)).unwrap();
            let is_cut = Instant::now();
            file.write_all(&next).unwrap();
            let written = Instant::now();
            drop(file);
            // On a busy machine each state may last until it looks finished.
            if last.is_some_and(|last| is_cut - last >= QUIET) {
                self.remember(id, &sha256(&bytes));
            }
            if written - cut >= QUIET {
                self.remember(id, &sha256(b""));
            }
            (bytes, last) = (next, Some(is_cut));
        }
        self.files.insert(id, Known::new(bytes));
        self.changed(id);
        self.note(format!("tight loop over {path:?} ended with {}", &self.files[&id].hash[..8]));
    }

    pub(crate) fn cut(&mut self, path: &Path) {
        let Some(&id) = self.names.get(path) else { return };
        self.stop_writing(path);
        if !self.may_be_written(path) {
            return;
        }
        let file = OpenOptions::new().write(true).open(self.real(path)).unwrap();
        let half = self.files[&id].bytes.len() / 2;
        file.set_len(half as u64).unwrap();
        drop(file);
        let bytes = self.files[&id].bytes[..half].to_vec();
        self.files.insert(id, Known::new(bytes));
        self.changed(id);
        self.note(format!("cut {path:?} to {half} bytes, {}", &self.files[&id].hash[..8]));
    }

    /// The modification time, to be restored.
    pub(crate) fn modified(&self, path: &Path) -> Option<SystemTime> {
        fs::metadata(self.real(path)).and_then(|metadata| metadata.modified()).ok()
    }

    pub(crate) fn set_modified(&mut self, path: &Path, when: SystemTime) {
        let Some(&id) = self.names.get(path) else { return };
        // A writer that makes a half-written file look old has declared it finished.
        self.excuse(id);
        let file = File::open(self.real(path)).unwrap();
        file.set_times(FileTimes::new().set_modified(when)).unwrap();
        self.note(format!("set the modification time of {path:?}"));
    }

    pub(crate) fn change_mode(&mut self, path: &Path) {
        let path = self.real(path);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return };
        let mode = if metadata.mode() & 0o777 == 0o644 { 0o600 } else { 0o644 };
        let _ = fs::set_permissions(&path, Permissions::from_mode(mode));
    }

    /// Renames a file or a directory, onto what is there.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> bool {
        let is_directory = fs::symlink_metadata(self.real(from)).is_ok_and(|metadata| metadata.is_dir());
        self.keep_what_lasted();
        if from == to {
            return false;
        }
        if let Err(error) = fs::rename(self.real(from), self.real(to)) {
            return error.kind() == io::ErrorKind::CrossesDevices && !is_directory && self.move_across(from, to);
        }
        self.keep_what_lasted();
        self.note(format!("renamed {from:?} to {to:?}"));
        if !is_directory && self.names.contains_key(to) && self.names.get(from) == self.names.get(to) {
            // POSIX: nothing happens between two names of one file.
            return true;
        }
        let moved: Vec<PathBuf> = self.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
        if !is_directory {
            if let Some(&id) = self.names.get(from) {
                self.excuse(id);
            }
            // A link or a pipe took its place.
            self.forget(to);
        }
        for write in &mut self.slow {
            if (is_directory || self.names.get(from) == Some(&write.id))
                && let Ok(relative) = write.name.strip_prefix(from)
            {
                write.name = joined(to, relative);
            }
        }
        for path in moved {
            let id = self.names.remove(&path).unwrap();
            self.went.insert(path.clone(), Instant::now());
            let relative = path.strip_prefix(from).unwrap();
            let new = joined(to, relative);
            let counts = self.audio(&path).is_some() || self.audio(&new).is_some();
            self.effects += u64::from(counts);
            self.name(new, id);
            if self.slow.iter().all(|write| write.id != id || write.excused) {
                let hash = self.files[&id].hash.clone();
                self.remember(id, &hash);
            }
        }
        true
    }

    /// As `mv` does it from one filesystem to another.
    fn move_across(&mut self, from: &Path, to: &Path) -> bool {
        let Some(id) = self.names.get(from) else { return false };
        let bytes = Arc::clone(&self.files[id].bytes);
        self.remove(to);
        let is_copied = self.write(to, &bytes, How::Whole);
        if is_copied {
            self.remove(from);
        }
        is_copied
    }

    pub(crate) fn link(&mut self, from: &Path, to: &Path) {
        self.keep_what_lasted();
        if self.names.get(from).is_some_and(|id| self.slow.iter().any(|write| write.id == *id)) {
            return;
        }
        if fs::hard_link(self.real(from), self.real(to)).is_ok()
            && let Some(&id) = self.names.get(from)
        {
            self.name(to.to_path_buf(), id);
            self.changed(id);
            self.note(format!("linked {from:?} to {to:?}"));
        }
    }

    pub(crate) fn remove(&mut self, path: &Path) {
        self.keep_what_lasted();
        if fs::remove_file(self.real(path)).is_ok() {
            self.note(format!("removed {path:?}"));
            self.forget(path);
        }
    }

    pub(crate) fn make_directories(&mut self, path: &Path) -> bool {
        let made = fs::create_dir_all(self.real(path)).is_ok();
        self.note(format!("made {path:?}: {made}"));
        made
    }

    /// As `rm -rf` does it: what is in a directory goes first.
    pub(crate) fn remove_tree(&mut self, path: &Path) {
        self.keep_what_lasted();
        self.note(format!("removing {path:?}"));
        let _ = fs::remove_dir_all(self.real(path));
        self.keep_what_lasted();
        let gone: Vec<PathBuf> = self.names.keys().filter(|name| name.starts_with(path)).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
        self.note(format!("removed {path:?}"));
    }

    /// As `cp -r` does it.
    pub(crate) fn copy_tree(&mut self, from: &Path, to: &Path) {
        let files: Vec<PathBuf> = self.names.keys().filter(|name| name.starts_with(from)).cloned().collect();
        let directories: Vec<PathBuf> = self.directories_in(from);
        self.make_directories(to);
        for directory in directories {
            self.make_directories(&to.join(directory.strip_prefix(from).unwrap()));
        }
        for file in files {
            let bytes = Arc::clone(&self.files[&self.names[&file]].bytes);
            self.write(&to.join(file.strip_prefix(from).unwrap()), &bytes, How::Whole);
        }
    }

    pub(crate) fn link_symbolically(&mut self, to: &Path, at: &Path) {
        // Never at the name of a directory, or files that are written into it would be elsewhere.
        let at = if at.extension().is_some() { at } else { &at.with_file_name("link.mp3") };
        let _ = std::os::unix::fs::symlink(self.real(to), self.real(at));
    }

    pub(crate) fn make_pipe(&mut self, at: &Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let _ = mknodat(CWD, self.real(at), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
    }

    /// More changes than the kernel's queue has room for, of no consequence.
    pub(crate) fn flood(&mut self, one: &Path, other: &Path) {
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").ok();
        let limit: usize = limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(16_384);
        if one == other || limit > 100_000 {
            return;
        }
        self.note("flooding the kernel's queue");
        for _ in 0..=limit / 2 {
            // The same event twice running would be one.
            self.change_mode(one);
            self.change_mode(other);
        }
        self.note("flooded");
    }

    /// Whether writing to a path would go to a plain file, or make one, and the kernel would report it: links and pipes
    /// must not be written through, nor a name that is no audio file's while the same file has one that is.
    fn may_be_written(&self, path: &Path) -> bool {
        let is_reported =
            |id| self.audio(path).is_some() || self.names_of(id).iter().all(|name| self.audio(name).is_none());
        match fs::symlink_metadata(self.real(path)) {
            Ok(metadata) => metadata.is_file() && self.names.get(path).is_none_or(|&id| is_reported(id)),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// An audio file's path in the library.
    fn audio<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let path = path.strip_prefix(LIBRARY).ok()?;
        let name = path.file_name()?;
        self.rules.extensions().matches_name(name.as_bytes()).then_some(path)
    }

    /// The same, if neither the patterns of `EXCLUDE` nor the ignore files that are on the disk now leave it out.
    fn published<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let path = self.audio(path)?;
        let whole = LibraryPath::from_bytes(path.as_os_str().as_bytes());
        let mut directory = LibraryPath::root();
        let mut ignore_file = None;
        for name in whole.names() {
            if let Ok(text) = fs::read(directory.join(IGNORE_FILE).to_absolute(&self.folder.join(LIBRARY))) {
                let (patterns, _) = Patterns::of_text(&text);
                let (directory, text) = (directory.clone(), text.into_boxed_slice());
                ignore_file = Some(Arc::new(IgnoreFile { directory, text, patterns, above: ignore_file }));
            }
            let is_directory = directory.join(name) != whole;
            if self.rules.excludes(ignore_file.as_deref(), &directory, name, is_directory) {
                return None;
            }
            directory = directory.join(name);
        }
        Some(path)
    }

    /// From now on the program leaves out what these patterns match.
    pub(crate) fn exclude(&mut self, patterns: &str) {
        let (exclude, _) = Patterns::of_text(patterns.as_bytes());
        self.rules = Rules::default().excluding(exclude, Patterns::default(), true);
        self.effects += self.names.len() as u64;
        self.note(format!("excluded: {patterns:?}"));
    }

    /// Gives a directory these patterns, or takes them away.
    pub(crate) fn ignore(&mut self, directory: &Path, patterns: &str, how: Ignoring) {
        let directory = self.real(directory);
        let file = directory.join(OsStr::from_bytes(IGNORE_FILE));
        let done = match how {
            Ignoring::Write => fs::write(&file, patterns),
            Ignoring::Replace => {
                let new = directory.join("new rules");
                fs::write(&new, patterns).and_then(|()| fs::rename(&new, &file))
            }
            Ignoring::Remove => fs::remove_file(&file),
        };
        if done.is_ok() {
            self.effects += self.names.len() as u64;
            self.note(format!("{how:?} {}: {patterns:?}", file.display()));
        }
    }

    fn adopt(&mut self, path: &Path, bytes: Vec<u8>) -> FileId {
        self.next_id += 1;
        self.name(path.to_path_buf(), self.next_id);
        self.files.insert(self.next_id, Known::new(bytes));
        self.next_id
    }

    fn name(&mut self, path: PathBuf, id: FileId) {
        self.ever_at.entry(id).or_default().insert(path.clone());
        self.names.insert(path, id);
    }

    fn forget(&mut self, path: &Path) {
        if self.names.remove(path).is_some() {
            self.went.insert(path.to_path_buf(), Instant::now());
            self.effects += u64::from(self.audio(path).is_some());
        }
    }

    fn names_of(&self, id: FileId) -> Vec<&Path> {
        self.names.iter().filter(|(_, other)| **other == id).map(|(path, _)| path.as_path()).collect()
    }

    /// The file has its content and was left with it.
    fn changed(&mut self, id: FileId) {
        let hash = self.files[&id].hash.clone();
        self.effects += self.remember(id, &hash);
    }

    fn remember(&mut self, id: FileId, hash: &Hash) -> u64 {
        self.touched.insert(id, Instant::now());
        self.holders.insert(hash.clone(), id);
        let names = self.names_of(id);
        let audio: Vec<PathBuf> = names.iter().filter_map(|path| self.audio(path)).map(Path::to_path_buf).collect();
        let count = audio.len() as u64;
        self.complete.extend(audio.into_iter().map(|path| (path, hash.clone())));
        count
    }

    fn keep_if_long(&mut self, write: &SlowWrite) {
        let lasted = write.last.elapsed();
        if write.excused || lasted >= self.settle || (write.hurried && lasted >= QUIET) {
            let hash = self.files[&write.id].hash.clone();
            self.remember(write.id, &hash);
        }
    }

    /// To be called before names go, and again before they are forgotten, for that may take a while too: what
    /// was there long enough may have been seen.
    fn keep_what_lasted(&mut self) {
        let writes = std::mem::take(&mut self.slow);
        for write in &writes {
            self.keep_if_long(write);
        }
        self.slow = writes;
    }

    fn excuse(&mut self, id: FileId) {
        for write in self.slow.iter_mut().filter(|write| write.id == id) {
            write.excused = true;
        }
    }

    /// Ends a slow write whose file is about to be written by somebody else.
    fn stop_writing(&mut self, path: &Path) {
        if let Some(&id) = self.names.get(path) {
            let (stopped, going_on) = std::mem::take(&mut self.slow).into_iter().partition(|write| write.id == id);
            self.slow = going_on;
            self.close(stopped);
        }
    }

    fn close(&mut self, writes: Vec<SlowWrite>) {
        for SlowWrite { id, file, name, .. } in writes {
            drop(file);
            self.changed(id);
            if let Some(&other) = self.names.get(&name).filter(|other| **other != id) {
                self.touched.insert(other, Instant::now());
                self.slow.iter_mut().filter(|write| write.id == other).for_each(|write| write.hurried = true);
            }
        }
    }
}

/// How [`Tree::write`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Creates the file if it is missing, and truncates it first.
    Whole,
    /// Overwrites the beginning, and keeps what is longer.
    InPlace,
    /// Overwrites the beginning, and truncates the file to the new length afterwards.
    InPlaceAndCut,
    /// Appends.
    Append,
}

/// `relative` joined to `to`, or `to` itself if `relative` is empty.
fn joined(to: &Path, relative: &Path) -> PathBuf {
    if relative.as_os_str().is_empty() { to.to_path_buf() } else { to.join(relative) }
}

fn overlay(bytes: &mut Vec<u8>, offset: u64, part: &[u8]) {
    let offset = usize::try_from(offset).unwrap();
    let end = offset + part.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(part);
}

/// A name from its bytes.
pub(crate) fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
