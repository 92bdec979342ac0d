//! A library of small files, and a consumer's knowledge of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::consumer::Received;
use crate::support::files_on_disk;

/// Path beneath the root to SHA-256.
pub(crate) type Files = BTreeMap<String, String>;

/// A directory of files that are no real audio: nobody here looks at tags.
pub(crate) struct Library {
    root: PathBuf,
}

impl Library {
    pub(crate) fn new(root: &Path) -> Self {
        fs::create_dir(root).unwrap();
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a file that has long been there, and the directories that lead to it.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    }

    /// So many small files, a hundred in a directory, each with a content of its own.
    pub(crate) fn fill(&self, files: usize) {
        for number in 0..files {
            self.write(&format!("{:04}/{:02}.mp3", number / 100, number % 100), &format!("content {number}"));
        }
    }

    /// What is on disk.
    pub(crate) fn files(&self) -> Files {
        let below = |path: String| path[self.root.as_os_str().len() + 1..].to_owned();
        files_on_disk(&self.root).into_iter().map(|(path, sha256)| (below(path), sha256)).collect()
    }
}

/// What a consumer knows that has read everything from the begin, dropping what comes again.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) files: Files,
    pub(crate) sequence: u64,
    /// Paths that were published again, in order.
    pub(crate) replayed: Vec<String>,
}

impl Known {
    /// Takes a message by the rules of the contract. Says whether it was news.
    pub(crate) fn take(&mut self, received: &Received) -> bool {
        let body = &received.body;
        if received.sequence() <= self.sequence {
            return false;
        }
        self.sequence += 1;
        assert_eq!(received.sequence(), self.sequence, "a gap, or out of order");
        let text = |field: &str| body[field].as_str().map(str::to_owned);
        let library = Path::new(body["watched_directory"].as_str().unwrap());
        let name = |field: &str| {
            let path = PathBuf::from(text(field)?);
            Some(path.strip_prefix(library).unwrap().to_str().unwrap().to_owned())
        };
        let path = name("file_path").unwrap();
        if body["origin"] == "replay" {
            // It tells again what earlier messages told: neither more nor less, neither older nor newer.
            assert_eq!(
                (received.routing_key.as_str(), self.files.get(&path)),
                ("file.created", text("sha256_hash").as_ref())
            );
            self.replayed.push(path);
            return true;
        }
        if let Some(old_path) = name("old_path") {
            assert_eq!(self.files.remove(&old_path), text("sha256_hash"), "{body}");
        }
        match text("sha256_hash") {
            Some(hash) => drop(self.files.insert(path, hash)),
            None => assert!(self.files.remove(&path).is_some(), "{body}"),
        }
        true
    }
}
