//! A path under the library root, as the bytes from the kernel.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use serde::Serialize;

/// Paths of up to this many bytes are joined on the stack, without an intermediate heap allocation.
const SHORT_PATH: usize = 256;

/// A path under the library root: bytes, with `/` between names and at neither end. The root is the empty path.
///
/// Paths are ordered by their bytes. This is also SQLite's order of BLOBs and the order of the walk, so both can be
/// merged without sorting. A clone shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LibraryPath(Arc<[u8]>);

/// An absolute path as it appears in messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublishedPath {
    /// As text. Bytes that are not UTF-8 are replaced.
    pub file_path: String,
    /// The bytes in base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_path_bytes: Option<String>,
}

impl PublishedPath {
    /// The path of a file in the library at `root`.
    pub fn of(path: &LibraryPath, root: &Path) -> Self {
        let absolute = path.to_absolute(root);
        match absolute.to_str() {
            Some(text) => Self { file_path: text.to_owned(), file_path_bytes: None },
            None => Self {
                file_path: absolute.to_string_lossy().into_owned(),
                file_path_bytes: Some(BASE64.encode(absolute.as_os_str().as_bytes())),
            },
        }
    }
}

impl LibraryPath {
    /// The root itself.
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// A path from its bytes, as in the store.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Arc::from(bytes))
    }

    /// The library path of the absolute `path`; `None` if it is not under `root`.
    pub fn strip_root(root: &Path, path: &Path) -> Option<Self> {
        let below = path.strip_prefix(root).ok()?;
        Some(Self::from_bytes(below.as_os_str().as_bytes()))
    }

    /// The bytes, as in the store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The absolute path in the library at `root`.
    pub fn to_absolute(&self, root: &Path) -> PathBuf {
        if self.is_root() { root.to_path_buf() } else { root.join(OsStr::from_bytes(&self.0)) }
    }

    /// The path of the entry `name` in this directory.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        if self.is_root() {
            return Self::from_bytes(name);
        }
        let (slash, end) = (self.0.len(), self.0.len() + 1 + name.len());
        let mut short = [0; SHORT_PATH];
        let mut long;
        // Most paths fit on the stack. This saves one of two allocations.
        let bytes = if let Some(short) = short.get_mut(..end) {
            short
        } else {
            long = vec![0; end];
            &mut long[..]
        };
        bytes[..slash].copy_from_slice(&self.0);
        bytes[slash] = b'/';
        bytes[slash + 1..].copy_from_slice(name);
        Self::from_bytes(bytes)
    }

    /// The directory that contains this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self::from_bytes(&self.0[..end]))
    }

    /// This path, and the directories above it, the root last.
    pub fn at_and_above(&self) -> impl Iterator<Item = Self> + use<> {
        std::iter::successors(Some(self.clone()), Self::parent)
    }

    /// The last name of the path; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }

    /// Whether this path is `directory` itself or anything under it.
    pub fn is_at_or_under(&self, directory: &Self) -> bool {
        self == directory || directory.is_above(&self.0)
    }

    /// Whether the path with these bytes, which is not the root, is under this directory.
    pub fn is_above(&self, path: &[u8]) -> bool {
        self.is_root() || path.strip_prefix(&*self.0).is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// The part of the name after the last dot; `None` if it is empty, or if there is nothing before that dot.
    pub fn extension(&self) -> Option<&[u8]> {
        let name = self.name();
        let dot = name.iter().rposition(|&byte| byte == b'.')?;
        (dot > 0 && dot + 1 < name.len()).then(|| &name[dot + 1..])
    }
}

impl fmt::Display for LibraryPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LibraryPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl From<&str> for LibraryPath {
    fn from(path: &str) -> Self {
        Self::from_bytes(path.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_parts_of_a_path_are_found() {
        let path = LibraryPath::from("a/b.d/c.MP3");
        assert_eq!(path.name(), b"c.MP3");
        assert_eq!(path.extension(), Some(&b"MP3"[..]));
        assert_eq!(path.parent(), Some(LibraryPath::from("a/b.d")));
        assert_eq!(LibraryPath::from("a").parent(), Some(LibraryPath::root()));
        assert_eq!(LibraryPath::root().parent(), None);
        assert_eq!(LibraryPath::from("a/.mp3").extension(), None);
        assert_eq!(LibraryPath::from("a.d/b").extension(), None);
        assert_eq!(LibraryPath::from("a.").extension(), None);
    }

    #[test]
    fn only_the_directory_itself_and_its_contents_are_at_or_under_it() {
        let directory = LibraryPath::from("a/b");
        assert!(LibraryPath::from("a/b").is_at_or_under(&directory));
        assert!(LibraryPath::from("a/b/c").is_at_or_under(&directory));
        assert!(!LibraryPath::from("a/bc").is_at_or_under(&directory));
        assert!(LibraryPath::from("x").is_at_or_under(&LibraryPath::root()));
    }

    proptest! {
        #[test]
        fn joining_and_taking_the_parent_are_inverse(names in prop::collection::vec(prop_oneof![4 => "[a-z][a-z.]{0,3}", 1 => "[a-z]{200,255}"], 1..5)) {
            let mut path = LibraryPath::root();
            for name in &names {
                let child = path.join(name.as_bytes());
                prop_assert_eq!(child.parent(), Some(path.clone()));
                prop_assert_eq!(child.name(), name.as_bytes());
                prop_assert!(child.is_at_or_under(&path));
                path = child;
            }
            prop_assert_eq!(path.names().count(), names.len());
            let root = Path::new("/r");
            prop_assert_eq!(LibraryPath::strip_root(root, &path.to_absolute(root)), Some(path));
        }
    }
}
