//! The filesystem of a history's library: the machine's own, or one that is taken out and mounted again.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::operation::Content;
use crate::random::Random;
use crate::support::medium::{Bind, Disk, Medium, Overlay};
use crate::tree::LIBRARY;

/// Room for everything that a history writes; images hold only what was written.
const MEGABYTES: u64 = 1024;

/// The directories of the library that a filesystem is mounted on, if it is not mounted on the root.
const BELOW: [&str; 3] = ["a", "d", "f"];

/// Files of the lower layer of an overlay.
const LOWER: [&str; 4] = ["x.mp3", "a/x.mp3", "b/y.mp3", "d/e/y.mp3"];

/// A kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A folder of the machine's own, which stays where it is.
    Plain,
    Ext4,
    Xfs,
    /// A subvolume.
    Btrfs,
    Tmpfs,
    Bind,
    /// An ext4 below and a tmpfs above.
    Overlay,
}

const KINDS: [(&str, Kind); 7] = [
    ("plain", Kind::Plain),
    ("ext4", Kind::Ext4),
    ("xfs", Kind::Xfs),
    ("btrfs", Kind::Btrfs),
    ("tmpfs", Kind::Tmpfs),
    ("bind", Kind::Bind),
    ("overlay", Kind::Overlay),
];

impl Kind {
    /// The kind with this name, as `CHAOS_ROOT` has it.
    pub(crate) fn named(wanted: &str) -> Self {
        let found = KINDS.iter().find(|(name, _)| *name == wanted);
        found.unwrap_or_else(|| panic!("CHAOS_ROOT={wanted} is none of {:?}", KINDS.map(|(name, _)| name))).1
    }
}

/// The filesystem of one history, and where it is mounted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub(crate) kind: Kind,
    /// The directory of the library, or nothing for the library itself.
    at: &'static str,
    is_about_names: bool,
    /// `WATCH_MODE`: fanotify in a third of the histories whose filesystem is able to do it.
    pub(crate) watch_mode: &'static str,
}

impl Root {
    /// Draws it: of this kind, or a plain folder in half of all cases. Histories about names have one filesystem only,
    /// because no name is passed from one to another in one step, and no lower layer, because a file that is copied up
    /// is another file.
    pub(crate) fn of(seed: u64, wanted: Option<Kind>, is_about_names: bool) -> Self {
        // Drawn from another sequence, so that it does not change that of the seed.
        let mut random = Random::new(seed.rotate_left(32));
        let drawn = KINDS[random.below(2 * KINDS.len() - 1).saturating_sub(KINDS.len() - 1)].1;
        let at = if random.percent(50) || is_about_names { "" } else { BELOW[random.below(BELOW.len())] };
        let kind = if may_mount() { wanted.unwrap_or(drawn) } else { Kind::Plain };
        let is_able = !matches!(kind, Kind::Btrfs | Kind::Overlay) && may_mount();
        let wants_fanotify = std::env::var_os("CHAOS_FANOTIFY").map_or(random.percent(33), |wants| wants == "1");
        let watch_mode = if is_able && wants_fanotify { "fanotify" } else { "auto" };
        Self { kind, at, is_about_names, watch_mode }
    }

    pub(crate) fn can_go(self) -> bool {
        self.kind != Kind::Plain
    }

    /// Mounts it in the folder of a history.
    pub(crate) fn mount(self, folder: &Path) -> Mounted {
        let place = if self.at.is_empty() { PathBuf::from(LIBRARY) } else { Path::new(LIBRARY).join(self.at) };
        let mut files = Vec::new();
        let mut medium: Box<dyn Medium> = match self.kind {
            Kind::Plain => return Mounted { medium: None, at: folder.join(&place), place, files },
            Kind::Ext4 => Box::new(Disk::ext4_of(MEGABYTES)),
            Kind::Xfs => Box::new(Disk::xfs_of(MEGABYTES)),
            Kind::Btrfs => Box::new(Disk::subvolume_of(MEGABYTES)),
            Kind::Tmpfs => Box::new(Bind::tmpfs()),
            Kind::Bind => Box::new(Bind::directory()),
            Kind::Overlay => Box::new(Overlay::on(Box::new(Disk::ext4_of(MEGABYTES)), Box::new(Bind::tmpfs()))),
        };
        if self.kind == Kind::Overlay && !self.is_about_names {
            files = (1..)
                .zip(LOWER)
                .map(|(number, name)| (place.join(name), Content { seed: number, length: 2_000 }.bytes()))
                .collect();
            medium.prepare(&|lower| {
                for (path, bytes) in &files {
                    let path = lower.join(path.strip_prefix(&place).unwrap());
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, bytes).unwrap();
                }
            });
        }
        let at = folder.join(&place);
        medium.attach(&at);
        Mounted { medium: Some(medium), at, place, files }
    }
}

/// Whether filesystems can be mounted here. Says so once if not.
fn may_mount() -> bool {
    static SAID: Once = Once::new();
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        SAID.call_once(|| println!("only plain folders are tried: mounting filesystems needs root"));
    }
    is_root
}

/// A filesystem in the folder of a history, unmounted in the end in any case.
pub(crate) struct Mounted {
    medium: Option<Box<dyn Medium>>,
    at: PathBuf,
    /// The same place, in the folder of the history.
    pub(crate) place: PathBuf,
    /// Files that were on it when it was mounted for the first time.
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
}

impl Mounted {
    pub(crate) fn can_go(&self) -> bool {
        self.medium.is_some()
    }

    /// Unmounts it, which fails if somebody keeps it busy.
    pub(crate) fn detach(&mut self) -> Result<(), String> {
        let Some(medium) = &mut self.medium else { return Ok(()) };
        catch_unwind(AssertUnwindSafe(|| medium.detach()))
            .map_err(|panic| format!("it cannot be unmounted: {}", panic.downcast_ref::<String>().map_or("", |it| it)))
    }

    /// Mounts it again, under another device number if it has one of its own.
    pub(crate) fn attach(&mut self) {
        if let Some(medium) = &mut self.medium {
            medium.attach(&self.at);
        }
    }
}
