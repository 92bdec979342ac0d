//! Parses the paths of the library and of the state directory.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::raw_value::{RawValue, shown};
use super::{Environment, Relocation, SettingsError};
use crate::model::{LibraryPath, Partition};

/// The library root: an absolute path of a directory that can be read, if it `must_be_there`.
pub(super) fn library(
    given: &RawValue,
    must_be_there: bool,
    environment: &Environment,
) -> Result<PathBuf, SettingsError> {
    if given.value.is_empty() {
        return Err(given.wrong("is empty; give the directory that contains the music"));
    }
    let root = absolute(environment.directory(), Path::new(&given.value));
    if !must_be_there {
        return Ok(root);
    }
    let refused = |error: &io::Error| {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => "does not exist; give the directory that contains the music".to_owned(),
            io::ErrorKind::NotADirectory => "is not a directory; give the directory that contains the music".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "cannot be read; grant this user permission to read and enter it".to_owned()
            }
            _ => format!("cannot be read ({error}); give the directory that contains the music"),
        };
        given.wrong(format!("{} {problem}", shown(&root)))
    };
    std::fs::read_dir(&root).map_err(|error| refused(&error))?;
    // Listing a directory and entering it need different permissions.
    std::fs::metadata(root.join(".")).map_err(|error| refused(&error))?;
    Ok(root)
}

/// The old path of the library at `root`. It need not exist.
pub(super) fn relocation(
    given: &RawValue,
    root: &Path,
    has_default_state: bool,
    partition: Partition,
    environment: &Environment,
) -> Result<Relocation, SettingsError> {
    if given.value.is_empty() {
        return Err(given.wrong("is empty; give the old path of the library"));
    }
    let from = absolute(environment.directory(), Path::new(&given.value));
    if from == root {
        return Err(given.wrong(format!("{} is the current path of the library; give the old one", shown(root))));
    }
    let resolved = |path: &Path| {
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
        let through_parent = parent.zip(path.file_name()).map(|(parent, name)| parent.join(name));
        path.canonicalize().ok().or(through_parent).unwrap_or_else(|| path.to_path_buf())
    };
    let old_state_dir =
        if has_default_state { Some(default_state(&resolved(&from), partition, environment)?) } else { None };
    Ok(Relocation { from, old_state_dir })
}

/// A library, and the working directory, for the paths of `--path`.
#[derive(Clone, Copy)]
pub(super) struct Library<'a> {
    pub(super) root: &'a Path,
    pub(super) working_directory: &'a Path,
}

impl Library<'_> {
    /// The path of `--path`; the root without it.
    pub(super) fn path_or_root(self, path: Option<OsString>) -> Result<LibraryPath, SettingsError> {
        let Some(value) = path else { return Ok(LibraryPath::root()) };
        self.path_of(&RawValue { label: "--path".to_owned(), value, is_default: false })
    }

    /// A path in the library, which need not exist: absolute, or relative to the working directory if it exists there,
    /// or else relative to the root.
    fn path_of(self, given: &RawValue) -> Result<LibraryPath, SettingsError> {
        if given.value.is_empty() {
            return Err(given.wrong("is empty; give a path of the library, or leave it out"));
        }
        let path = Path::new(&given.value);
        let from_here = absolute(self.working_directory, path);
        let inside = match self.strip_root(&from_here) {
            Some(inside) if path.is_absolute() || from_here.exists() => Some(inside),
            _ => self.strip_root(&absolute(self.root, path)),
        };
        let inside = inside.ok_or_else(|| {
            given.wrong(format!("{} is not in the library {}; give a path under it", shown(path), shown(self.root)))
        })?;
        Ok(LibraryPath::from_bytes(inside.as_os_str().as_bytes()))
    }

    fn strip_root(self, path: &Path) -> Option<PathBuf> {
        let canonical = || self.root.canonicalize().ok();
        let inside = path.strip_prefix(self.root).ok().map(Path::to_path_buf);
        inside.or_else(|| Some(path.strip_prefix(canonical()?).ok()?.to_path_buf()))
    }
}

/// The state directory: an absolute path outside of the library. It need not exist.
pub(super) fn state(
    given: Option<&RawValue>,
    root: &Path,
    partition: Partition,
    environment: &Environment,
) -> Result<PathBuf, SettingsError> {
    // The root may be gone, and then a service is asked how it is.
    let canonical_root = canonical(root).map_err(|source| SettingsError::Path { path: shown(root), source })?;
    let (state, label) = match given {
        Some(given) if given.value.is_empty() => return Err(given.wrong("is empty; give a directory")),
        Some(given) => (absolute(environment.directory(), Path::new(&given.value)), given.label.as_str()),
        None => (default_state(&canonical_root, partition, environment)?, "STATE_DIR"),
    };
    let wrong = |problem| SettingsError::Value { setting: label.to_owned(), problem };
    let canonical = canonical(&state).map_err(|error| {
        wrong(match error.kind() {
            io::ErrorKind::NotADirectory => format!("{} is not a directory; give another", shown(&state)),
            _ => format!("{} cannot be reached ({error}); give another", shown(&state)),
        })
    })?;
    if canonical.starts_with(&canonical_root) {
        let (state, root) = (shown(&state), shown(root));
        return Err(wrong(format!("{state} is inside the library {root}; give a directory outside of it")));
    }
    Ok(state)
}

fn default_state(
    canonical_root: &Path,
    partition: Partition,
    environment: &Environment,
) -> Result<PathBuf, SettingsError> {
    // The specification says to ignore a relative XDG_STATE_HOME.
    let absolute = |name| environment.get(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or_else(|| SettingsError::Value {
            setting: "STATE_DIR".to_owned(),
            problem: "is not set, and HOME is not set either; give a directory outside of the library".to_owned(),
        })?;
    Ok(base.join("file-watcher").join(state_name(canonical_root, partition)))
}

/// A readable name, made unique by a hash of the whole path, and by the number of an instance after the first. The first
/// one keeps the state of a service that had the whole library.
fn state_name(canonical_root: &Path, partition: Partition) -> String {
    let name = canonical_root.file_name().map(OsStr::to_string_lossy).unwrap_or_default().to_lowercase();
    let words: Vec<&str> =
        name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut slug: String = words.join("-").chars().take(32).collect();
    if slug.is_empty() {
        "library".clone_into(&mut slug);
    }
    let hash = xxhash_rust::xxh3::xxh3_64(canonical_root.as_os_str().as_bytes());
    let number = if partition.index() == 1 { String::new() } else { format!("-part-{}", partition.index()) };
    format!("{slug}-{:08x}{number}", hash >> 32)
}

/// Makes `path` absolute. Symbolic links are resolved only before a `..`, because the meaning of `a/..` depends on the
/// target of `a`.
pub(super) fn absolute(directory: &Path, path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for component in directory.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                whole = whole.canonicalize().unwrap_or(whole);
                whole.pop();
            }
            component => whole.push(component),
        }
    }
    whole
}

/// The canonical form of `path`, which need not exist.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(canonical) if canonical.is_dir() => Ok(canonical),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        // A dangling link is not a free name.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            Ok(canonical(parent)?.join(name))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_libraries_never_share_a_state() {
        let name = |path: &str| state_name(Path::new(path), Partition::default());
        assert_ne!(name("/a/music"), name("/b/music"));
        assert_eq!(name("/a/music"), name("/a/music"));
        assert!(name("/a/My Music (2024)").starts_with("my-music-2024-"));
        assert!(name("/").starts_with("library-"));
        assert!(name("/音楽").starts_with("library-"));
        assert_eq!(name("/a/music").len(), "music-".len() + 8);
    }

    #[test]
    fn a_path_is_made_absolute_and_keeps_its_links() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("real/inner")).unwrap();
        std::os::unix::fs::symlink(base.join("real/inner"), base.join("link")).unwrap();
        assert_eq!(absolute(&base, Path::new("link/./a//b/")), base.join("link/a/b"));
        assert_eq!(absolute(&base, Path::new(".")), base);
        assert_eq!(absolute(&base, Path::new("link/../x")), base.join("real/x"));
        assert_eq!(absolute(&base, Path::new("/../x")), Path::new("/x"));
    }

    #[test]
    fn a_path_of_the_library_is_found_from_the_root_and_from_the_working_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("real/a/b")).unwrap();
        std::os::unix::fs::symlink(base.join("real"), base.join("music")).unwrap();
        let (root, real) = (base.join("music"), base.join("real"));
        let of = |directory: &str, path: &str| {
            let library = Library { root: &root, working_directory: &base.join(directory) };
            library.path_or_root(Some(path.into())).map(|path| path.to_string()).map_err(|error| error.to_string())
        };
        for (directory, path, expected) in [
            ("", "a//b/", "a/b"),
            ("music/a", "b", "a/b"),
            ("music/a", "gone", "gone"),
            ("", "music/a", "a"),
            ("", "a/../c", "c"),
            ("", ".", ""),
            ("music/a/b", "..", "a"),
            ("", root.join("a").to_str().unwrap(), "a"),
            ("", real.join("a/gone").to_str().unwrap(), "a/gone"),
        ] {
            assert_eq!(of(directory, path).as_deref(), Ok(expected), "{path} in {directory}");
        }
        for outside in ["..", "../x", "/elsewhere", "a/../../x"] {
            let refused = of("", outside).unwrap_err();
            assert!(refused.contains("is not in the library"), "{outside}: {refused}");
        }
    }

    #[test]
    fn the_state_is_at_the_given_path_or_in_the_state_home_or_in_the_home() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        let root = base.join("library");
        std::fs::create_dir(&root).unwrap();
        let environment = |pairs: &[(&str, &str)]| {
            Environment::new(pairs.iter().map(|(name, value)| (name.into(), value.into())), base.clone())
        };
        let name = state_name(&root, Partition::default());
        let place = |pairs: &[(&str, &str)]| state(None, &root, Partition::default(), &environment(pairs));
        assert_eq!(
            place(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")]).unwrap(),
            Path::new("/x/file-watcher").join(&name)
        );
        assert_eq!(
            place(&[("HOME", "/h"), ("XDG_STATE_HOME", "x")]).unwrap(),
            Path::new("/h/.local/state/file-watcher").join(&name)
        );
        assert!(place(&[]).is_err());
        let given = |value: &str| RawValue { label: "STATE_DIR".into(), value: value.into(), is_default: false };
        assert_eq!(state(Some(&given("s")), &root, Partition::default(), &environment(&[])).unwrap(), base.join("s"));
    }

    #[test]
    fn a_state_inside_the_library_is_refused_through_links_too() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        let root = base.join("library");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&root, base.join("link")).unwrap();
        std::os::unix::fs::symlink(root.join("nothing"), base.join("dangling")).unwrap();
        let environment = Environment::new([], base.clone());
        let place = |value: &str| {
            state(
                Some(&RawValue { label: "STATE_DIR".into(), value: value.into(), is_default: false }),
                &root,
                Partition::default(),
                &environment,
            )
        };
        for inside in ["library", "library/s", "link/a/b", "x/../library/s", "dangling"] {
            assert!(place(inside).is_err(), "{inside}");
        }
        for outside in ["s", "library-state", "library/../s", "."] {
            assert!(place(outside).is_ok(), "{outside}");
        }
        std::fs::write(base.join("file"), "").unwrap();
        assert!(place("file").is_err() && place("file/s").is_err());
    }
}
