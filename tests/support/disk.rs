//! Files on disk, as the tests write them and as they compare them with messages.
//!
//! The walk and the hashes share nothing with the program's own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

/// Paths relative to a library's root, each with the SHA-256 of its file.
pub(crate) type Files = BTreeMap<PathBuf, String>;

/// What counts as audio unless a setting says otherwise.
const AUDIO: &[&str] =
    &["mp3", "flac", "wav", "wave", "ogg", "oga", "aac", "opus", "m4a", "m4b", "m4p", "m4v", "m4r", "mp4", "wma"];

/// Every audio file in a directory and its subdirectories. Symbolic links are not followed.
pub(crate) fn files_in(root: &Path) -> Files {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut files = Files::new();
    // A directory that does not exist has no files.
    if let Ok(directory) = rustix::fs::openat(CWD, root, flags, Mode::empty()) {
        add_files(&directory, &[], &mut files);
    }
    files
}

/// Opens one name after the other, so that no path is too long.
fn add_files(directory: &OwnedFd, prefix: &[u8], files: &mut Files) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for entry in Dir::read_from(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes();
        if [b".".as_slice(), b".."].contains(&name) {
            continue;
        }
        let path = [prefix, name].concat();
        let open = || rustix::fs::openat(directory.as_fd(), entry.file_name(), flags, Mode::empty());
        match entry.file_type() {
            FileType::Directory => {
                if let Ok(subdirectory) = open() {
                    add_files(&subdirectory, &[&path, b"/".as_slice()].concat(), files);
                }
            }
            FileType::RegularFile if is_audio(name) => {
                if let Ok(file) = open() {
                    files.insert(OsString::from_vec(path).into(), sha256_of(File::from(file)).unwrap());
                }
            }
            _ => {}
        }
    }
}

fn is_audio(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_lowercase();
    name.rsplit_once('.').is_some_and(|(stem, extension)| !stem.is_empty() && AUDIO.contains(&extension))
}

fn sha256_of(mut file: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(data_encoding::HEXLOWER.encode(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(content: impl AsRef<[u8]>) -> String {
    sha256_of(content.as_ref()).unwrap()
}

/// The paths at which two libraries differ, in order.
pub(crate) fn differences<'a>(one: &'a Files, other: &'a Files) -> Vec<&'a Path> {
    let mut paths: Vec<&Path> = one
        .keys()
        .chain(other.keys())
        .filter(|path| one.get(*path) != other.get(*path))
        .map(PathBuf::as_path)
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Writes a file, and creates the directories that lead to it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Writes a file that nobody has changed for an hour: the program does not wait for it to settle.
pub(crate) fn write_settled(path: &Path, content: impl AsRef<[u8]>) {
    write(path, content);
    let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
    File::options().write(true).open(path).unwrap().set_modified(an_hour_ago).unwrap();
}

/// The folder of the files that real encoders made.
pub(crate) fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

/// Fails a test that needs root for mounts or limits, so that it does not pass without having tested anything.
pub(crate) fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, for mounts or limits, and did not run");
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&dyn AsRef<OsStr>]) {
    let output = Command::new(program).args(arguments.iter().map(AsRef::as_ref)).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
