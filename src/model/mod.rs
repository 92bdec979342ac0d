//! The types that all floors share. No IO happens here.

mod error_chain;
mod event;
mod extensions;
mod file_page;
mod held;
mod hint;
mod memory_index;
mod partition;
mod path;
mod rules;
mod selection;
mod settings;
mod tags;
mod text;
mod ties;
mod track;

pub use error_chain::with_causes;
pub use event::{Change, EventType, FileEvent, Outgoing, ParkedRequest, Refused, UnknownEventType, VerifyRequest};
pub use extensions::{Extensions, ExtensionsError, FileType};
pub use file_page::FilePage;
pub use held::{HeldDeletes, HeldReason};
pub use hint::{Cause, Evidence, FsEvent, Guards, Origin, RetryState, Sighting, Token, WeakToken};
#[doc(hidden)]
pub use memory_index::MemoryIndex;
pub use partition::{Partition, PartitionError};
pub use path::{LibraryPath, PublishedPath};
pub use rules::{DEFAULT_EXCLUDES, IGNORE_FILE, IgnoreFile, PatternError, Patterns, Rules};
pub use selection::{Selection, TagCondition, TagConditionError};
pub use settings::{FollowSymlinks, InodeTrust, IoPriority, LogFormat, MetadataStyle, TagSet, Unroutable, WatchMode};
pub use tags::{Field, Tags};
pub use text::{counted, is_control, printable, printable_json};
pub use ties::{Member, MembersHere, RenameGroup, Ties, WeakRenameGroup};
pub use track::{Content, FileStat, Fingerprint, InodeKind, Metadata, MountId, Observation, Row, Seen, Sound, Track};

/// Read access to the index: by path, by inode and by content.
///
/// The store implements it. Tests use [`MemoryIndex`].
///
/// # Errors
///
/// Every method fails if the index cannot be read.
pub trait Index {
    /// Why a read failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The row of a path.
    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Self::Error>;

    /// The rows with this inode number on this mount, at most `limit`.
    fn rows_by_inode(&self, mount: MountId, inode: u64, limit: usize) -> Result<Vec<Row>, Self::Error>;

    /// The rows with the SHA-256 of `track`, or if there are none, those with its
    /// [distinctive](Sound::is_distinctive) sound. At most `limit`.
    fn rows_by_content(&self, track: &Track, limit: usize) -> Result<Vec<Row>, Self::Error>;

    /// The next rows after `after` in byte order of paths, at or under `under`, at most `limit`.
    fn rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        limit: usize,
    ) -> Result<FilePage, Self::Error>;

    /// The number of rows.
    fn len(&self) -> Result<u64, Self::Error>;

    /// Whether there are no rows.
    fn is_empty(&self) -> Result<bool, Self::Error> {
        Ok(self.len()? == 0)
    }
}
