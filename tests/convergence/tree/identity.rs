//! Which file is which: exchanges of names, and the rows of consumers that follow their files.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{FileId, LIBRARY, Tree};
use crate::support::disk::Files;
use crate::support::strict::StrictRow;

impl Tree {
    /// Lets two files exchange their names, in one step.
    pub(crate) fn exchange(&mut self, one: &Path, other: &Path) {
        let (Some(&first), Some(&second)) = (self.names.get(one), self.names.get(other)) else { return };
        let (here, there) = (self.real(one), self.real(other));
        if first == second || renameat_with(CWD, here, CWD, there, RenameFlags::EXCHANGE).is_err() {
            return;
        }
        self.note(format!("exchanged {one:?} and {other:?}"));
        self.name(one.to_path_buf(), second);
        self.name(other.to_path_buf(), first);
        self.went.extend([one, other].map(|path| (path.to_path_buf(), Instant::now())));
        self.changed(first);
        self.changed(second);
        // One of them takes a passing name.
        self.effects += 1;
    }

    /// Whether each row of a consumer is still that of its file, which it names by the first content that it had.
    /// A row may outlive its file where another one took its place, as when a tagger saves.
    pub(crate) fn check_strict_rows(&self, rows: &BTreeMap<PathBuf, StrictRow>) -> Result<(), String> {
        let hashes: Files = rows.iter().map(|(path, row)| (path.clone(), row.sha256.clone())).collect();
        if hashes != self.library() {
            return Err("its rows are not what is on disk".to_owned());
        }
        for (path, row) in rows {
            let id = self.names[&Path::new(LIBRARY).join(path)];
            let first = self.holders.get(&row.identity);
            if !first.is_some_and(|first| *first == id || self.predecessors(id).contains(first)) {
                return Err(format!("{path:?} is file {id}, and its row was made for file {first:?}"));
            }
        }
        Ok(())
    }

    /// The files that are gone and had a name that this one had too, and so on.
    fn predecessors(&self, id: FileId) -> HashSet<FileId> {
        let mut found = HashSet::new();
        let mut next = vec![id];
        while let Some(id) = next.pop() {
            for (other, paths) in &self.ever_at {
                let is_gone = self.names_of(*other).is_empty();
                if is_gone && !paths.is_disjoint(&self.ever_at[&id]) && found.insert(*other) {
                    next.push(*other);
                }
            }
        }
        found
    }
}
