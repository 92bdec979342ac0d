//! The kernel's mount table, `/proc/self/mountinfo`. Its format is described in proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The mount table of this process.
const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// After this time, the table counts as changed. Not every system that has the table also announces its changes.
const MAY_HAVE_CHANGED: Duration = Duration::from_secs(10);

/// Types of filesystems whose files are on a server or in another process. inotify reports only changes that are made
/// on this machine, and an access blocks while the other side does not respond.
const WITH_SERVER: &[&str] = &[
    "nfs", "nfs4", "smbfs", "cifs", "smb3", "fuse", "fuseblk", "9p", "virtiofs", "afs", "ceph", "coda", "lustre",
    "vboxsf", "vmhgfs",
];

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount id. The kernel may reuse it after this mount is gone.
    pub number: u64,
    /// Major and minor number of the filesystem's device, as text.
    pub device: String,
    /// The directory of the filesystem that is mounted; not `/` for a bind mount of a subdirectory.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The filesystem's type, such as `ext4` or `fuse.sshfs`.
    pub kind: String,
    /// What the filesystem calls its source: a device, a server, or any other text.
    pub source: String,
}

/// Says when the mounts of this process may have changed, without reading them.
#[derive(Debug)]
pub struct MountChanges {
    /// The table; `None` if it cannot be opened.
    table: Option<File>,
    /// When a change was last reported.
    reported: Instant,
}

impl MountChanges {
    /// Watches the table from now on.
    pub fn from_now() -> Self {
        Self { table: File::open(MOUNT_TABLE).ok(), reported: Instant::now() }
    }

    /// Whether a mount may have come, gone or changed since the last call that returned true.
    pub fn are_there(&mut self) -> bool {
        // The kernel reports each change once, as an error: proc_pid_mountinfo(5).
        let may_be_new = self.table.as_ref().is_none_or(|table| {
            let mut polled = [PollFd::new(table, PollFlags::PRI)];
            poll(&mut polled, Some(&Timespec::default())) != Ok(0)
        });
        let are_there = may_be_new || self.reported.elapsed() >= MAY_HAVE_CHANGED;
        if are_there {
            self.reported = Instant::now();
        }
        are_there
    }
}

/// All mounts of this process, in the order in which they were mounted over each other.
pub(super) fn mount_table() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read(MOUNT_TABLE)?))
}

/// The mounts on directories under `root`.
///
/// # Errors
///
/// If `root` does not exist, or the mount table cannot be read.
pub fn mounts_under(root: &Path) -> io::Result<Vec<MountEntry>> {
    let root = std::fs::canonicalize(root)?;
    let is_under = |entry: &MountEntry| entry.point != root && entry.point.starts_with(&root);
    Ok(mount_table()?.into_iter().filter(is_under).collect())
}

/// The mount of `table` that the canonical path `path` is on.
pub(super) fn mount_of<'a>(table: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let covering = table.iter().filter(|entry| path.starts_with(&entry.point));
    // Of several mounts on one directory, the last one in the table hides the others.
    covering.max_by_key(|entry| entry.point.as_os_str().len())
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = line.split(|&byte| byte == b' ');
    let number = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let root = unescaped(fields.next()?);
    let point = unescaped(fields.next()?);
    // Optional fields come between the options and a lone hyphen.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = text(rest.next()?);
    let source = unescaped(rest.next().unwrap_or_default()).to_string_lossy().into_owned();
    Some(MountEntry { number, device, root, point, kind, source })
}

/// Decodes a path of the table, in which space, tab, line feed and backslash are `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &behind[3..] } else { behind };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

impl MountEntry {
    /// Whether its files are on a server or in another process.
    pub fn has_server(&self) -> bool {
        // The type of a FUSE filesystem may have a subtype behind a dot.
        let (kind, _) = self.kind.split_once('.').unwrap_or((&self.kind, ""));
        WITH_SERVER.contains(&kind)
    }

    /// The UUID of the filesystem on a block device, if udev lists it.
    pub(super) fn uuid(&self) -> Option<String> {
        let device = std::fs::canonicalize(Path::new(&self.source)).ok().filter(|_| self.source.starts_with('/'))?;
        for entry in std::fs::read_dir("/dev/disk/by-uuid").ok()?.flatten() {
            if std::fs::canonicalize(entry.path()).is_ok_and(|target| target == device) {
                return Some(String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 22 8:2 / /my\\040music rw - ext4 /dev/sdb1 rw\n\
        31 30 8:3 /sub /my\\040music/usb rw master:2 shared:3 - vfat /dev/sdc1 rw\n\
        32 22 0:50 / /my\\040music2 rw - fuse.sshfs host:/m\\040x rw\n\
        33 30 0:51 / /my\\040music/usb rw - tmpfs tmpfs rw\n\
        a broken line\n";

    #[test]
    fn each_line_of_the_table_is_parsed() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 5);
        let usb = &table[2];
        assert_eq!((usb.number, usb.device.as_str()), (31, "8:3"));
        assert_eq!((usb.root.as_path(), usb.point.as_path()), (Path::new("/sub"), Path::new("/my music/usb")));
        assert_eq!((usb.kind.as_str(), usb.source.as_str()), ("vfat", "/dev/sdc1"));
        assert_eq!((table[3].kind.as_str(), table[3].source.as_str()), ("fuse.sshfs", "host:/m x"));
        let with_server: Vec<u64> = table.iter().filter(|entry| entry.has_server()).map(|entry| entry.number).collect();
        assert_eq!(with_server, [32], "a subtype counts like its type");
    }

    #[test]
    fn a_path_is_on_the_nearest_mount_above_it_and_on_the_last_of_several_there() {
        let table = parse(TABLE);
        let number = |path: &str| mount_of(&table, Path::new(path)).map(|entry| entry.number);
        assert_eq!(number("/my music/a"), Some(30));
        assert_eq!(number("/my music/usb/a"), Some(33));
        assert_eq!(number("/my music/usb2"), Some(30));
        assert_eq!(number("/my music2"), Some(32));
        assert_eq!(number("/my"), Some(22));
    }

    #[test]
    fn the_table_of_this_process_has_a_root_mount() {
        assert!(mount_of(&mount_table().unwrap(), Path::new("/")).is_some());
    }
}
