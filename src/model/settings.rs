//! The choices that a person makes and that several floors obey.

/// How the metadata stands in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataStyle {
    /// Numbers as numbers, and an object of tags.
    #[default]
    Nested,
    /// One level of strings, for consumers that store key and value as text.
    Flat,
    /// No metadata field.
    Off,
}

/// What becomes of a message that the broker returns because no queue is bound for its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unroutable {
    /// Held until a first message of the connection was routed, let go after that.
    #[default]
    Auto,
    /// Held and sent again until a queue is bound.
    Hold,
    /// Let go, counted.
    Drop,
}

/// How changes of the library are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchMode {
    /// By the kernel's events, and by polling on file systems where those don't come.
    #[default]
    Auto,
    /// By the kernel's events only.
    Native,
    /// By polling only.
    Poll,
}

/// Which symbolic links are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FollowSymlinks {
    /// None.
    #[default]
    Never,
    /// Those to what is inside the library.
    Inside,
    /// Those that lead out of the library too.
    All,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// Short lines for people.
    Pretty,
}

/// Whether the inode numbers of a filesystem tell files apart from one mount to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InodeTrust {
    /// Decided by the filesystem's type, else by what is noticed after a remount.
    #[default]
    Auto,
    /// They never do: size and modification time alone say whether a file is unchanged.
    Ignored,
    /// They always do.
    Trusted,
}
