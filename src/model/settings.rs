//! Settings that several floors use.

/// The form of the metadata in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataStyle {
    /// Numbers, and an object of tags.
    #[default]
    Nested,
    /// One level of strings, for consumers that store key and value as text.
    Flat,
    /// No metadata field.
    Off,
}

/// How much of the metadata is in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagSet {
    /// All of it.
    #[default]
    All,
    /// What every version publishes: six tags, and no codec, bits per sample and cover.
    Basic,
}

/// What becomes of a message that is returned because no queue is bound for its routing key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unroutable {
    /// Hold it until a first message was routed on this connection; drop it after that.
    #[default]
    Auto,
    /// Hold it, and publish it again until a queue is bound.
    Hold,
    /// Drop it, and count it.
    Drop,
}

/// How changes of the library are detected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchMode {
    /// By inotify, and by polling on filesystems without events.
    #[default]
    Auto,
    /// By inotify only.
    Native,
    /// By fanotify, and by polling on filesystems without events.
    Fanotify,
    /// By polling only.
    Poll,
}

/// How the program competes with others for the disk and the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoPriority {
    /// As any program.
    #[default]
    Normal,
    /// Only for what others leave.
    Idle,
}

/// Which symbolic links are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FollowSymlinks {
    /// None.
    #[default]
    Never,
    /// Links to files and directories in the library.
    Inside,
    /// Links out of the library too.
    All,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Short lines for people.
    Pretty,
}

impl LogFormat {
    /// The value of `LOG_FORMAT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Pretty => "pretty",
        }
    }
}

/// Whether inode numbers identify files across mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InodeTrust {
    /// Decided by the type of the filesystem, or by comparison after a remount.
    #[default]
    Auto,
    /// Never: a file is unchanged if size and modification time are.
    Ignored,
    /// Always.
    Trusted,
}
