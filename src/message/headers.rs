//! The AMQP headers of a message.

use std::borrow::Cow;

use serde::Deserialize;

/// The headers repeat what the body says, for bindings of an exchange and for consumers that do not parse the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The id of the store.
    pub store_id: String,
    /// The first directory of the path under the root; empty for a file in the root.
    pub partition_key: String,
    /// The same of the old path, if it is another one.
    pub old_partition_key: Option<String>,
}

/// The fields of a body that the headers repeat.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    store_id: Cow<'a, str>,
    #[serde(borrow)]
    file_path: Cow<'a, str>,
    #[serde(borrow)]
    old_path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    watched_directory: Cow<'a, str>,
}

impl Headers {
    /// The headers for a body; `None` if it was written by a version without `store_id`.
    pub fn of(body: &[u8]) -> Option<Self> {
        let fields: Fields<'_> = serde_json::from_slice(body).ok()?;
        let root = &fields.watched_directory;
        let partition_key = first_directory(&fields.file_path, root)?.to_owned();
        // After a relocation, the old path is under another root and has the same key.
        let old_key = fields.old_path.as_deref().and_then(|old_path| first_directory(old_path, root));
        let old_partition_key = old_key.filter(|old_key| *old_key != partition_key).map(ToOwned::to_owned);
        Some(Self { store_id: fields.store_id.into_owned(), partition_key, old_partition_key })
    }
}

fn first_directory<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let inside = path.strip_prefix(root)?;
    // The root may be `/`.
    let inside = if root.ends_with('/') { inside } else { inside.strip_prefix('/')? };
    Some(inside.split_once('/').map_or("", |(first, _)| first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &serde_json::Value) -> Option<Headers> {
        Headers::of(body.to_string().as_bytes())
    }

    #[test]
    fn the_key_is_the_first_directory_under_the_root() {
        let keys = |root: &str, path: &str, old: Option<&str>| {
            let body = serde_json::json!({
                "store_id": "7", "file_path": path, "old_path": old, "watched_directory": root, "sequence": 1
            });
            of(&body).map(|headers| (headers.partition_key, headers.old_partition_key))
        };
        let some = |key: &str, old: Option<&str>| Some((key.to_owned(), old.map(ToOwned::to_owned)));
        assert_eq!(keys("/m", "/m/Bj\u{f6}rk \"x\"/a/1.mp3", None), some("Bj\u{f6}rk \"x\"", None));
        assert_eq!(keys("/m", "/m/1.mp3", None), some("", None));
        assert_eq!(keys("/", "/a/b/1.mp3", None), some("a", None));
        assert_eq!(keys("/m", "/m/a/1.mp3", Some("/m/a/0.mp3")), some("a", None));
        assert_eq!(keys("/m", "/m/a/1.mp3", Some("/m/b/1.mp3")), some("a", Some("b")));
        assert_eq!(keys("/m", "/m/a/1.mp3", Some("/old/a/1.mp3")), some("a", None), "relocated");
        assert_eq!(keys("/m", "/music/a/1.mp3", None), None);
    }

    #[test]
    fn a_message_of_an_older_version_has_no_headers() {
        assert_eq!(of(&serde_json::json!({"file_path": "/m/a", "watched_directory": "/m"})), None);
    }
}
