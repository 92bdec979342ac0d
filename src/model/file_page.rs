//! Some rows of the index without their content.

use super::{FileStat, LibraryPath};

/// The paths and stats of rows, in byte order of the paths.
///
/// The paths are kept in one piece. A walk compares each of them once and needs few of them as a [`LibraryPath`].
#[derive(Clone, Debug, Default)]
pub struct FilePage {
    paths: Vec<u8>,
    /// Where each path ends, and its stat.
    files: Vec<(usize, FileStat)>,
}

impl FilePage {
    /// Adds a file behind the others.
    pub fn push(&mut self, path: &[u8], stat: FileStat) {
        self.paths.extend_from_slice(path);
        self.files.push((self.paths.len(), stat));
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The bytes of the path at this position, and its stat.
    pub fn get(&self, at: usize) -> Option<(&[u8], &FileStat)> {
        let (end, stat) = self.files.get(at)?;
        let begin = at.checked_sub(1).map_or(0, |before| self.files[before].0);
        Some((&self.paths[begin..*end], stat))
    }

    /// The files in their order.
    pub fn iter(&self) -> impl Iterator<Item = (LibraryPath, &FileStat)> {
        (0..self.len()).filter_map(|at| self.get(at)).map(|(path, stat)| (LibraryPath::from_bytes(path), stat))
    }

    /// The last path.
    pub fn last_path(&self) -> Option<LibraryPath> {
        self.get(self.len().checked_sub(1)?).map(|(path, _)| LibraryPath::from_bytes(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_files_that_were_pushed() {
        let stat = |size| FileStat { size, ..FileStat::default() };
        let mut page = FilePage::default();
        assert!(page.is_empty() && page.get(0).is_none() && page.last_path().is_none());
        for (path, size) in [("a", 1), ("b/c", 2), ("b/c d", 3)] {
            page.push(path.as_bytes(), stat(size));
        }
        assert_eq!(page.get(0), Some((&b"a"[..], &stat(1))));
        assert_eq!((page.len(), page.last_path()), (3, Some("b/c d".into())));
        let files: Vec<_> = page.iter().map(|(path, stat)| (path.to_string(), stat.size)).collect();
        assert_eq!(files, [("a".to_owned(), 1), ("b/c".to_owned(), 2), ("b/c d".to_owned(), 3)]);
    }
}
