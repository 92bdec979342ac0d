//! Filesystems whose remote changes inotify does not report: FUSE stands for all of them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
};

use crate::support::disk::{require_root, write};
use crate::support::library::Library;

/// A filesystem that shows the files of another directory, and whose changes give no events.
struct Elsewhere(PathBuf);

impl Elsewhere {
    /// Mounts the files of `source` at `at`, for as long as the session lives.
    fn mount(source: &Path, at: &Path) -> BackgroundSession {
        require_root();
        fs::create_dir_all(source).unwrap();
        fs::create_dir_all(at).unwrap();
        let mut settings = fuser::Config::default();
        settings.mount_options = vec![MountOption::RO, MountOption::FSName("elsewhere".into())];
        fuser::spawn_mount(Self(source.to_path_buf()), at, &settings).unwrap()
    }

    fn files(&self) -> Vec<(PathBuf, fs::Metadata)> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).collect()
    }

    fn find(&self, number: INodeNo) -> Option<(PathBuf, fs::Metadata)> {
        self.files().into_iter().find(|(_, metadata)| metadata.ino() == number.0)
    }

    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        let is_root = number == INodeNo::ROOT;
        let metadata = if is_root { fs::metadata(&self.0).ok()? } else { self.find(number)?.1 };
        let time = |seconds: i64, nanoseconds: i64| {
            UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap(), u32::try_from(nanoseconds).unwrap())
        };
        Some(FileAttr {
            ino: number,
            size: metadata.size(),
            blocks: metadata.blocks(),
            atime: UNIX_EPOCH,
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            ctime: time(metadata.ctime(), metadata.ctime_nsec()),
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Elsewhere {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = fs::metadata(self.0.join(name)).ok().and_then(|it| self.attributes(INodeNo(it.ino())));
        match found {
            Some(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Some(attributes) => reply.attr(&Duration::ZERO, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((path, _)) = self.find(number) else { return reply.error(Errno::ENOENT) };
        let mut bytes = vec![0; size as usize];
        let read = fs::File::open(path).and_then(|file| file.read_at(&mut bytes, offset));
        match read {
            Ok(length) => reply.data(&bytes[..length]),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let skipped = usize::try_from(offset).unwrap();
        for (place, (path, metadata)) in self.files().into_iter().enumerate().skip(skipped) {
            let name = path.file_name().unwrap();
            if reply.add(INodeNo(metadata.ino()), place as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// A file is created, changed, renamed and deleted without an event.
fn is_followed(library: &Library, source: &Path, below: &str) {
    let renamed = source.join("renamed.mp3");
    let mark = library.mark();
    write(&source.join("x.mp3"), "one");
    library.wait_until_settled();
    write(&source.join("x.mp3"), "another");
    library.wait_until_settled();
    fs::rename(source.join("x.mp3"), &renamed).unwrap();
    library.wait_until_settled();
    fs::remove_file(renamed).unwrap();
    library.wait_until_settled();
    let published =
        ["created {}x.mp3", "modified {}x.mp3", "renamed {}x.mp3 -> {}renamed.mp3", "deleted {}renamed.mp3"];
    assert_eq!(library.published_since(mark), published.map(|published| published.replace("{}", below)));
    assert!(library.messages_since(mark).iter().all(|message| message.origin == "scan"));
}

#[test]
fn a_library_on_a_filesystem_without_events_is_polled() {
    let mut library = Library::new();
    let source = library.outside("source");
    write(&source.join("cover.jpg"), "the root must not be empty");
    let mounted = Elsewhere::mount(&source, &library.root());
    library.set("POLL_INTERVAL_SECS", "1").start();
    assert_eq!(library.logged("some filesystems cause no events"), 1);
    is_followed(&library, &source, "");
    library.stop();
    mounted.umount_and_join().unwrap();
}

#[test]
fn a_filesystem_without_events_that_is_mounted_in_the_library_is_polled_too() {
    let mut library = Library::new();
    let source = library.outside("source");
    let mounted = Elsewhere::mount(&source, &library.path("cloud"));
    library.set("POLL_INTERVAL_SECS", "1").start();
    assert_eq!(library.logged("some filesystems cause no events"), 1);
    is_followed(&library, &source, "cloud/");
    library.stop();
    mounted.umount_and_join().unwrap();
}
