//! Choices that lower floors obey and the configuration reads.

/// How `metadata` looks in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataStyle {
    /// Numbers as numbers, tags in an object of their own.
    #[default]
    Nested,
    /// One level of strings, for consumers that store key and value as text.
    Flat,
    /// No metadata field.
    Off,
}
