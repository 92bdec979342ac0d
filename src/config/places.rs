//! The two directories: the library and the state.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::given::{Given, shown};
use super::{Environment, Relocation, SettingsError};
use crate::model::LibraryPath;

/// The library's root, absolute, proved to be a directory that can be read.
pub(super) fn library(given: &Given, environment: &Environment) -> Result<PathBuf, SettingsError> {
    if given.value.is_empty() {
        return Err(given.wrong("is empty; give the directory that holds the music"));
    }
    let root = absolute(environment.directory(), Path::new(&given.value));
    let refused = |error: &io::Error| {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => "does not exist; give the directory that holds the music".to_owned(),
            io::ErrorKind::NotADirectory => "is not a directory; give the directory that holds the music".to_owned(),
            io::ErrorKind::PermissionDenied => "may not be read; give this user leave to read and enter it".to_owned(),
            _ => format!("cannot be read ({error}); give the directory that holds the music"),
        };
        given.wrong(format!("{} {problem}", shown(&root)))
    };
    std::fs::read_dir(&root).map_err(|error| refused(&error))?;
    // Listing a directory and entering it are two permissions.
    std::fs::metadata(root.join(".")).map_err(|error| refused(&error))?;
    Ok(root)
}

/// The old place of the library at `root`, where nothing need be any more.
pub(super) fn relocation(
    given: &Given,
    root: &Path,
    is_state_by_default: bool,
    environment: &Environment,
) -> Result<Relocation, SettingsError> {
    if given.value.is_empty() {
        return Err(given.wrong("is empty; give the directory where the library was"));
    }
    let from = absolute(environment.directory(), Path::new(&given.value));
    if from == root {
        return Err(
            given.wrong(format!("{} is where the library is now; give the directory where it was", shown(root)))
        );
    }
    let resolved = |path: &Path| {
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
        let through_parent = parent.zip(path.file_name()).map(|(parent, name)| parent.join(name));
        path.canonicalize().ok().or(through_parent).unwrap_or_else(|| path.to_path_buf())
    };
    let old_state_dir = if is_state_by_default { Some(default_state(&resolved(&from), environment)?) } else { None };
    Ok(Relocation { from, old_state_dir })
}

/// The path that `--path` names; the root without it.
pub(super) fn beneath_or_root(path: Option<OsString>, root: &Path) -> Result<LibraryPath, SettingsError> {
    let Some(value) = path else { return Ok(LibraryPath::root()) };
    beneath(&Given { label: "--path".to_owned(), value, by_default: false }, root)
}

/// A path of the library, given absolute or from the root. Nothing need be there.
fn beneath(given: &Given, root: &Path) -> Result<LibraryPath, SettingsError> {
    let path = Path::new(&given.value);
    let inside = if path.is_absolute() { path.strip_prefix(root).ok() } else { Some(path) };
    let named =
        |inside: &&Path| inside.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let inside = inside.filter(named).ok_or_else(|| {
        given.wrong(format!("{} is not in the library {}; give a path beneath it", shown(path), shown(root)))
    })?;
    // Without the doubled and the last slashes.
    let tidy: PathBuf = inside.components().filter(|part| *part != Component::CurDir).collect();
    Ok(LibraryPath::from_bytes(tidy.as_os_str().as_bytes()))
}

/// The state's directory, absolute, proved to lie outside the library. It need not exist yet.
pub(super) fn state(given: Option<&Given>, root: &Path, environment: &Environment) -> Result<PathBuf, SettingsError> {
    let canonical_root = root.canonicalize().map_err(|source| SettingsError::Path { path: shown(root), source })?;
    let (state, label) = match given {
        Some(given) if given.value.is_empty() => return Err(given.wrong("is empty; give a directory")),
        Some(given) => (absolute(environment.directory(), Path::new(&given.value)), given.label.as_str()),
        None => (default_state(&canonical_root, environment)?, "STATE_DIR"),
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
        return Err(wrong(format!("{state} is inside the library {root}; give a directory outside it")));
    }
    Ok(state)
}

fn default_state(canonical_root: &Path, environment: &Environment) -> Result<PathBuf, SettingsError> {
    // A relative XDG_STATE_HOME is to be ignored, says the specification.
    let absolute = |name| environment.get(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or_else(|| SettingsError::Value {
            setting: "STATE_DIR".to_owned(),
            problem: "is not set, and there is no HOME to put it in; give a directory outside the library".to_owned(),
        })?;
    Ok(base.join("file-watcher").join(state_name(canonical_root)))
}

/// A name for people, made unique by a hash of the whole path.
fn state_name(canonical_root: &Path) -> String {
    let name = canonical_root.file_name().map(OsStr::to_string_lossy).unwrap_or_default().to_lowercase();
    let words: Vec<&str> =
        name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut slug: String = words.join("-").chars().take(32).collect();
    if slug.is_empty() {
        "library".clone_into(&mut slug);
    }
    let hash = xxhash_rust::xxh3::xxh3_64(canonical_root.as_os_str().as_bytes());
    format!("{slug}-{:08x}", hash >> 32)
}

/// `path` made absolute without resolving symbolic links, but for those before a `..`: what `a/..`
/// is depends on where `a` leads.
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

/// Where `path` really is, or would be once it is made.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(canonical) if canonical.is_dir() => Ok(canonical),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        // A link to nowhere must not pass for a name that is free.
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
        let name = |path: &str| state_name(Path::new(path));
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
    fn a_state_is_placed_by_the_user_then_by_the_desktop_then_by_the_home() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        let root = base.join("library");
        std::fs::create_dir(&root).unwrap();
        let environment = |pairs: &[(&str, &str)]| {
            Environment::new(pairs.iter().map(|(name, value)| (name.into(), value.into())), base.clone())
        };
        let name = state_name(&root);
        let place = |pairs: &[(&str, &str)]| state(None, &root, &environment(pairs));
        assert_eq!(
            place(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")]).unwrap(),
            Path::new("/x/file-watcher").join(&name)
        );
        assert_eq!(
            place(&[("HOME", "/h"), ("XDG_STATE_HOME", "x")]).unwrap(),
            Path::new("/h/.local/state/file-watcher").join(&name)
        );
        assert!(place(&[]).is_err());
        let given = |value: &str| Given { label: "STATE_DIR".into(), value: value.into(), by_default: false };
        assert_eq!(state(Some(&given("s")), &root, &environment(&[])).unwrap(), base.join("s"));
    }

    #[test]
    fn a_state_inside_the_library_is_refused_whatever_the_way_there() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        let root = base.join("library");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&root, base.join("link")).unwrap();
        std::os::unix::fs::symlink(root.join("nothing"), base.join("dangling")).unwrap();
        let environment = Environment::new([], base.clone());
        let place = |value: &str| {
            state(
                Some(&Given { label: "STATE_DIR".into(), value: value.into(), by_default: false }),
                &root,
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
