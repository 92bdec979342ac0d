//! Things that can be mounted, taken away and mounted again under another number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::disk::{require_root, run};

/// How long a medium may stay busy after the program was asked to release it.
const BUSY: Duration = Duration::from_secs(10);

/// Something with files on it.
pub(crate) trait Medium: Send {
    /// Mounts it on a directory, under another device number than the last time if it has one of its own.
    fn attach(&mut self, at: &Path);

    /// Unmounts it as a person does, which fails if somebody still holds on to it.
    fn detach(&mut self);

    /// Takes it out while it is in use.
    fn pull_out(&mut self);

    /// Puts files on it before it is mounted for the first time, on media whose files are changed elsewhere.
    fn prepare(&mut self, _fill: &dyn Fn(&Path)) {}

    /// Another directory in which its files are changed, if that is not its mount point.
    fn elsewhere(&self) -> Option<PathBuf> {
        None
    }

    /// Whether its files can be changed while it is mounted.
    fn changes_live(&self) -> bool {
        true
    }
}

/// Runs a program, however it ends.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// A mounted directory, unmounted in the end in any case.
#[derive(Default)]
pub(crate) struct MountPoint(Option<PathBuf>);

impl MountPoint {
    pub(crate) fn mount(&mut self, at: &Path, arguments: &[&str]) {
        require_root();
        assert!(self.0.is_none(), "it is mounted already");
        fs::create_dir_all(at).unwrap();
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = Vec::new();
        all.extend(arguments.iter().map(|word| word as &dyn AsRef<_>));
        all.push(&at);
        run("mount", &all);
        self.0 = Some(at.to_path_buf());
    }

    /// Notes that another program has mounted something there.
    pub(crate) fn is_mounted_at(&mut self, at: &Path) {
        self.0 = Some(at.to_path_buf());
    }

    pub(crate) fn unmount(&mut self) {
        let at = self.0.take().expect("it is mounted");
        let begun = Instant::now();
        loop {
            let output = Command::new("umount").arg(&at).output().unwrap();
            if output.status.success() {
                return;
            }
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            if begun.elapsed() > BUSY {
                self.0 = Some(at);
                panic!("{error}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn unmount_lazily(&mut self) {
        if let Some(at) = self.0.take() {
            let _ = Command::new("umount").arg("--lazy").arg(&at).output();
        }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        self.unmount_lazily();
    }
}

/// An image on a loop device.
pub(crate) struct Disk {
    mounted: MountPoint,
    device: Option<LoopDevice>,
    image: PathBuf,
    kind: &'static str,
    /// What `mount` is asked for besides.
    options: &'static [&'static str],
    _folder: TempDir,
}

/// A loop device, given back in the end.
struct LoopDevice(String);

impl LoopDevice {
    fn of(image: &Path) -> Self {
        // Two at once may be given the same free number.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let made = output("losetup", &["--find", "--show", image.to_str().unwrap()]);
        assert!(made.status.success(), "losetup: {}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).output();
    }
}

impl Disk {
    fn new(kind: &'static str, megabytes: u64, make: &[&str]) -> Self {
        require_root();
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes * 1024 * 1024).unwrap();
        let mut arguments = make[1..].to_vec();
        arguments.push(image.to_str().unwrap());
        let outcome = output(make[0], &arguments);
        assert!(outcome.status.success(), "{make:?}: {}", String::from_utf8_lossy(&outcome.stderr));
        Self { mounted: MountPoint::default(), device: None, image, kind, options: &[], _folder: folder }
    }

    pub(crate) fn ext4() -> Self {
        Self::ext4_of(16)
    }

    /// An ext4 of this size.
    pub(crate) fn ext4_of(megabytes: u64) -> Self {
        Self::new("ext4", megabytes, &["mkfs.ext4", "-q", "-F"])
    }

    pub(crate) fn xfs() -> Self {
        Self::xfs_of(300)
    }

    /// An xfs of this size, which is 300 at least.
    pub(crate) fn xfs_of(megabytes: u64) -> Self {
        Self::new("xfs", megabytes, &["mkfs.xfs", "-q"])
    }

    pub(crate) fn btrfs() -> Self {
        Self::new("btrfs", 32, &["mkfs.btrfs", "-q", "-M"])
    }

    /// A btrfs of this size, of which a subvolume is mounted and not its top.
    pub(crate) fn subvolume_of(megabytes: u64) -> Self {
        let mut disk = Self::new("btrfs", megabytes, &["mkfs.btrfs", "-q", "-M"]);
        let (device, top) = (LoopDevice::of(&disk.image), disk.image.with_extension("top"));
        disk.mounted.mount(&top, &["-t", disk.kind, &device.0]);
        run("btrfs", &[&"subvolume", &"create", &top.join("mounted")]);
        disk.mounted.unmount();
        disk.options = &["-o", "subvol=mounted"];
        disk
    }

    pub(crate) fn ntfs() -> Self {
        Self::new("ntfs-3g", 8, &["mkntfs", "-q", "-F", "-f"])
    }

    /// An ext4 that can have directories without case, if the kernel can mount it.
    pub(crate) fn casefold() -> Result<Self, String> {
        let mut disk = Self::new("ext4", 16, &["mkfs.ext4", "-q", "-F", "-O", "casefold", "-E", "encoding=utf8"]);
        let device = LoopDevice::of(&disk.image);
        let at = disk.image.with_extension("probe");
        fs::create_dir(&at).unwrap();
        let tried = output("mount", &[&device.0, at.to_str().unwrap()]);
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).trim().replace('\n', " "));
        }
        disk.mounted.is_mounted_at(&at);
        disk.mounted.unmount();
        Ok(disk)
    }
}

impl Medium for Disk {
    fn attach(&mut self, at: &Path) {
        let next = LoopDevice::of(&self.image);
        // Now, so that the next one certainly has another number.
        self.device = None;
        let arguments = [&["-t", self.kind], self.options, &[&next.0]].concat();
        self.mounted.mount(at, &arguments);
        self.device = Some(next);
    }

    fn detach(&mut self) {
        self.mounted.unmount();
    }

    fn pull_out(&mut self) {
        self.mounted.unmount_lazily();
    }
}

/// A directory that is mounted once more.
pub(crate) struct Bind {
    mounted: MountPoint,
    source: PathBuf,
    below: MountPoint,
    _folder: TempDir,
}

impl Bind {
    /// A directory of the system's disk.
    pub(crate) fn directory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        Self { mounted: MountPoint::default(), source, below: MountPoint::default(), _folder: folder }
    }

    /// A filesystem in memory, which stays mounted elsewhere.
    pub(crate) fn tmpfs() -> Self {
        let mut bind = Self::directory();
        bind.below.mount(&bind.source, &["-t", "tmpfs", "tmpfs"]);
        bind
    }
}

impl Medium for Bind {
    fn attach(&mut self, at: &Path) {
        self.mounted.mount(at, &["--bind", self.source.to_str().unwrap()]);
    }

    fn detach(&mut self) {
        self.mounted.unmount();
    }

    fn pull_out(&mut self) {
        self.mounted.unmount_lazily();
    }
}

/// An image that is made anew from a directory at each mount.
pub(crate) struct Squashfs {
    mounted: MountPoint,
    device: Option<LoopDevice>,
    folder: TempDir,
    made: u32,
}

impl Squashfs {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("source")).unwrap();
        Self { mounted: MountPoint::default(), device: None, folder, made: 0 }
    }
}

impl Medium for Squashfs {
    fn attach(&mut self, at: &Path) {
        self.made += 1;
        let image = self.folder.path().join(format!("image{}", self.made));
        let source = self.folder.path().join("source");
        run("mksquashfs", &[&source, &image, &"-quiet", &"-no-progress", &"-processors", &"1"]);
        let next = LoopDevice::of(&image);
        self.device = None;
        self.mounted.mount(at, &["-t", "squashfs", &next.0]);
        self.device = Some(next);
    }

    fn detach(&mut self) {
        self.mounted.unmount();
    }

    fn pull_out(&mut self) {
        self.mounted.unmount_lazily();
    }

    fn prepare(&mut self, fill: &dyn Fn(&Path)) {
        fill(&self.folder.path().join("source"));
    }

    fn elsewhere(&self) -> Option<PathBuf> {
        Some(self.folder.path().join("source"))
    }

    fn changes_live(&self) -> bool {
        false
    }
}

/// An overlay whose layers are on two filesystems.
pub(crate) struct Overlay {
    mounted: MountPoint,
    /// Filesystems that take the device numbers that the overlay had.
    in_the_way: Vec<MountPoint>,
    lower: Box<dyn Medium>,
    upper: Box<dyn Medium>,
    folder: TempDir,
}

impl Overlay {
    pub(crate) fn on(mut lower: Box<dyn Medium>, mut upper: Box<dyn Medium>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        lower.attach(&folder.path().join("lower"));
        upper.attach(&folder.path().join("upper"));
        for name in ["files", "work"] {
            fs::create_dir(folder.path().join("upper").join(name)).unwrap();
        }
        Self { mounted: MountPoint::default(), in_the_way: Vec::new(), lower, upper, folder }
    }

    pub(crate) fn in_memory() -> Self {
        Self::on(Box::new(Bind::tmpfs()), Box::new(Bind::tmpfs()))
    }

    pub(crate) fn on_disks() -> Self {
        Self::on(Box::new(Disk::ext4()), Box::new(Disk::xfs()))
    }
}

impl Medium for Overlay {
    fn attach(&mut self, at: &Path) {
        if !self.in_the_way.is_empty() {
            let folder = self.folder.path();
            self.lower.detach();
            self.upper.detach();
            self.lower.attach(&folder.join("lower"));
            self.upper.attach(&folder.join("upper"));
        }
        let mut number = MountPoint::default();
        let place = self.folder.path().join(format!("number{}", self.in_the_way.len()));
        number.mount(&place, &["-t", "tmpfs", "tmpfs"]);
        self.in_the_way.push(number);
        let folder = self.folder.path().display();
        let options =
            format!("lowerdir={folder}/lower,upperdir={folder}/upper/files,workdir={folder}/upper/work,xino=off");
        self.mounted.mount(at, &["-t", "overlay", "-o", &options, "overlay"]);
    }

    fn detach(&mut self) {
        self.mounted.unmount();
    }

    fn pull_out(&mut self) {
        self.mounted.unmount_lazily();
        // The layers would stay in use for as long as anybody holds on to a file of the overlay.
        thread::sleep(Duration::from_millis(10));
    }

    fn prepare(&mut self, fill: &dyn Fn(&Path)) {
        fill(&self.folder.path().join("lower"));
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.mounted.unmount_lazily();
        self.in_the_way.clear();
        self.upper.pull_out();
        self.lower.pull_out();
    }
}

/// Two directories of one disk as one, by mergerfs.
pub(crate) struct Mergerfs {
    mounted: MountPoint,
    disk: Disk,
    inodes: &'static str,
    folder: TempDir,
}

impl Mergerfs {
    /// `inodes` is how it makes inode numbers: its options `use_ino` and `inodecalc`.
    pub(crate) fn new(inodes: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::ext4();
        disk.attach(&folder.path().join("disk"));
        for name in ["one", "two"] {
            fs::create_dir(folder.path().join("disk").join(name)).unwrap();
        }
        disk.detach();
        Self { mounted: MountPoint::default(), disk, inodes, folder }
    }
}

impl Medium for Mergerfs {
    fn attach(&mut self, at: &Path) {
        fs::create_dir_all(at).unwrap();
        let disk = self.folder.path().join("disk");
        self.disk.attach(&disk);
        let branches = format!("{0}/one:{0}/two", disk.display());
        let options =
            format!("{},category.create=rand,minfreespace=0,fsname=pool,cache.files=off,nonempty", self.inodes);
        run("mergerfs", &[&"-o", &options, &branches, &at]);
        self.mounted.is_mounted_at(at);
    }

    fn detach(&mut self) {
        self.mounted.unmount();
        self.release_disk();
    }

    fn pull_out(&mut self) {
        self.mounted.unmount_lazily();
        self.release_disk();
    }
}

impl Mergerfs {
    /// The daemon ends some time after its mount.
    fn release_disk(&mut self) {
        self.disk.detach();
    }
}

impl Drop for Mergerfs {
    fn drop(&mut self) {
        self.mounted.unmount_lazily();
    }
}
