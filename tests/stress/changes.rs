//! Random changes of files, and when each was made.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::support::disk::{sha256, write};

/// When each content was written: the key is its path and its SHA-256.
pub(crate) type Sent = Arc<Mutex<HashMap<(PathBuf, String), Instant>>>;

/// Directories in each root whose files change.
const ARTISTS: u32 = 40;

/// Makes random changes at a rate.
pub(crate) struct Changes {
    sent: Sent,
    random: Mutex<fastrand::Rng>,
    rate: u32,
}

impl Changes {
    pub(crate) fn new(sent: Sent, seed: u64, rate: u32) -> Self {
        Self { sent, random: Mutex::new(fastrand::Rng::with_seed(seed)), rate }
    }

    /// Changes files under these roots until `is_over`. Returns the number of changes.
    pub(crate) fn run(&self, roots: &[PathBuf], is_over: &AtomicBool) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        let mut changes = 0;
        while !is_over.load(Ordering::Relaxed) {
            let root = &roots[random.usize(..roots.len())];
            self.change(root, &mut random, changes);
            changes += 1;
            let due = Duration::from_secs_f64(changes as f64 / f64::from(self.rate));
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        changes
    }

    fn change(&self, root: &Path, random: &mut fastrand::Rng, number: u64) {
        let mut place = || {
            let directory = root.join(format!("Artist {}", random.u32(..ARTISTS)));
            directory.join(format!("new {}.mp3", random.u32(..60)))
        };
        let (one, other) = (place(), place());
        // A failure is a path that does not exist, which is as good.
        match random.u32(..10) {
            0..=4 => self.write(&one, format!("{number} {}", one.display())),
            5..=6 => drop(fs::remove_file(&one)),
            7..=8 => drop(fs::rename(&one, &other)),
            _ => {
                let (from, to) = (one.with_extension(""), other.with_extension(""));
                self.write(&from.join("1.mp3"), format!("{number} {}", from.display()));
                let _ = fs::rename(&from, &to);
            }
        }
    }

    fn write(&self, path: &Path, content: String) {
        let hash = sha256(&content);
        write(path, content);
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.insert((path.to_path_buf(), hash), Instant::now());
    }
}
