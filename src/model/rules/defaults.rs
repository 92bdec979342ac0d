//! The files that operating systems, network storage and sync tools leave in the directories of a library.
//!
//! None of these names can be music. Each is the exact name that a program gives its own files, or begins with
//! characters that no album or song begins with. A name that may also be that of an artist is matched only at the root,
//! which is the only place where its system creates it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::Patterns;

/// The patterns that are excluded unless `EXCLUDE_DEFAULTS` is false, in gitignore's syntax.
pub const DEFAULT_EXCLUDES: &[&str] = &[
    // macOS, and netatalk on its behalf.
    "._*",
    ".AppleDB/",
    ".AppleDesktop/",
    ".AppleDouble/",
    ".DocumentRevisions-V100/",
    ".MobileBackups/",
    ".Spotlight-V100/",
    ".TemporaryItems/",
    ".Trash/",
    ".Trashes/",
    ".fseventsd/",
    "/Network Trash Folder/",
    "/Temporary Items/",
    "Backups.backupdb/",
    // Windows.
    "$RECYCLE.BIN/",
    "$Recycle.Bin/",
    "$Extend/",
    "/FOUND.[0-9][0-9][0-9]/",
    "/RECYCLER/",
    "System Volume Information/",
    // Linux desktops, and Android, which renames a deleted song.
    ".Trash-*/",
    ".thumbnails/",
    ".trash/",
    ".pending-*",
    ".trashed-*",
    // Filesystems: fsck, snapshots, files that are removed while they are open, layers.
    ".fuse_hidden*",
    ".glusterfs/",
    ".nfs[0-9a-f][0-9a-f][0-9a-f][0-9a-f]*",
    ".snap/",
    ".snapshot/",
    ".snapshots/",
    ".trashcan/",
    ".unionfs/",
    ".unionfs-fuse/",
    ".wh.*",
    ".zfs/",
    "lost+found/",
    "~snapshot/",
    // Synology.
    ".SynologyWorkingDirectory/",
    "@SynoResource/",
    "@eaDir/",
    "@sharebin/",
    "@tmp/",
    "\\#recycle/",
    "\\#snapshot/",
    // QNAP.
    ".@__*/",
    ".@upload_cache/",
    "@Recently-Snapshot/",
    "@Recycle/",
    "@Transcode/",
    // Samba, Unraid, Western Digital.
    ".Recycle.Bin/",
    ".recycle/",
    ".streams/",
    ".wd_tv/",
    ".wdmc/",
    "@GMT-*/",
    // Sync tools: Syncthing, Resilio, rsync, Unison, osync, GoodSync, Allway Sync, git-annex.
    ".git/",
    ".osync_workdir/",
    ".rsync-partial/",
    ".rsync-tmp/",
    ".stfolder/",
    ".stversions/",
    ".sync/",
    ".SyncArchive/",
    ".syncthing.*",
    ".unison/",
    ".unison.*",
    ".~tmp~/",
    "_SYNCAPP/",
    "_gsdata_/",
    "~syncthing~*",
    // Clouds and backups: Nextcloud, ownCloud, Dropbox, Google Drive, MEGA, Insync, Tresorit, Backblaze, CCC.
    ".bzvol/",
    ".debris/",
    ".dropbox.cache/",
    ".insync-trash/",
    ".owncloudsync*",
    ".tmp.drivedownload/",
    ".tmp.driveupload/",
    ".tresorit/",
    "_CCC SafetyNet/",
    "files_trashbin/",
    "files_versions/",
    // Unfinished recordings of media servers, and this program itself.
    ".grab/",
    ".file-watcher-*",
];

static PREFIXES: LazyLock<Prefixes> = LazyLock::new(|| Prefixes::new(DEFAULT_EXCLUDES));

/// Compiled on first use: this takes longer than to walk a thousand files, and most libraries have no such names.
static PATTERNS: LazyLock<Patterns> =
    LazyLock::new(|| Patterns::of_lines(DEFAULT_EXCLUDES.iter().map(|pattern| pattern.as_bytes())).0);

/// Whether a default pattern excludes the entry `name`, whose whole path is the result of `path`.
///
/// Nearly all names in a library begin like none of the patterns, and for these only the first byte is checked.
pub(super) fn excludes<'p>(name: &[u8], path: impl FnOnce() -> std::borrow::Cow<'p, [u8]>, is_directory: bool) -> bool {
    PREFIXES.may_match(name) && PATTERNS.verdict(&path(), is_directory) == Some(true)
}

struct Prefixes {
    /// The part of each pattern before its first wildcard, by its first byte.
    by_first_byte: BTreeMap<u8, Vec<Vec<u8>>>,
    /// Whether a name with this first byte can match.
    first_bytes: [bool; 256],
}

impl Prefixes {
    fn new(list: &[&str]) -> Self {
        let mut by_first_byte: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
        let mut first_bytes = [false; 256];
        for pattern in list {
            let name = pattern.trim_start_matches('/').trim_end_matches('/').trim_start_matches('\\');
            let end = name.find(['*', '?', '[']).unwrap_or(name.len());
            let prefix = name.as_bytes()[..end].to_vec();
            if let Some(&first) = prefix.first() {
                first_bytes[usize::from(first)] = true;
                by_first_byte.entry(first).or_default().push(prefix);
            }
        }
        Self { by_first_byte, first_bytes }
    }

    fn may_match(&self, name: &[u8]) -> bool {
        let Some(&first) = name.first() else { return false };
        self.first_bytes[usize::from(first)]
            && self
                .by_first_byte
                .get(&first)
                .is_some_and(|prefixes| prefixes.iter().any(|prefix| name.starts_with(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_default_pattern_is_valid_and_does_not_begin_with_a_wildcard() {
        let (patterns, errors) = Patterns::of_text(DEFAULT_EXCLUDES.join("\n").as_bytes());
        assert!(errors.is_empty() && !patterns.is_empty(), "{errors:?}");
        let prefixes: usize = PREFIXES.by_first_byte.values().map(Vec::len).sum();
        assert_eq!(prefixes, DEFAULT_EXCLUDES.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn the_prefixes_miss_no_name_that_a_default_pattern_matches(
            which in 0..DEFAULT_EXCLUDES.len(),
            tail in "[a-z0-9._~]{0,6}",
            cut in 0..4_usize,
            is_directory: bool,
        ) {
            let pattern = DEFAULT_EXCLUDES[which].trim_matches('/').trim_start_matches('\\');
            let name = pattern.replace('*', &tail).replace("[0-9a-f]", "7").replace("[0-9]", "7");
            for name in [name.clone(), name[..name.len().saturating_sub(cut)].to_owned(), format!("{name}{tail}"), tail] {
                let matched = PATTERNS.verdict(name.as_bytes(), is_directory) == Some(true);
                prop_assert!(PREFIXES.may_match(name.as_bytes()) || !matched, "{name}");
            }
        }
    }
}
