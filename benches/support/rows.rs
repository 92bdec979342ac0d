//! Rows and observations of the files of a library.

use std::sync::Arc;

use file_watcher::disk::Root;
use file_watcher::library::{Walk, Walked};
use file_watcher::model::{
    Content, Field, FileStat, Fingerprint, LibraryPath, Metadata, Observation, Origin, Row, Seen, Sound, Track,
};
use file_watcher::store::Store;

use super::library::{noise, path};

/// The row of the file with this number.
pub(crate) fn row(number: usize) -> Row {
    Row { path: path(number), stat: stat(number), track: track(number).into(), first_published: 0 }
}

/// An observation of the file with this number.
pub(crate) fn observation(number: usize) -> Observation {
    found(path(number), stat(number), number)
}

/// An observation of the content of the file with this number at `path`.
pub(crate) fn found(path: LibraryPath, stat: FileStat, number: usize) -> Observation {
    let seen = Seen::File { stat, content: Content::Read(track(number).into()), candidates: Vec::new() };
    Observation { path, origin: Origin::Scan, seen }
}

fn stat(number: usize) -> FileStat {
    let number = number as u64;
    let time = 1_700_000_000_000_000_000 + (number * 1_000_003).cast_signed();
    FileStat {
        inode: 1_000_000 + number,
        size: 30_000_000 + number,
        mtime_ns: time.into(),
        ctime_ns: time.into(),
        ..FileStat::default()
    }
}

/// The content of the file with this number.
pub(crate) fn track(number: usize) -> Track {
    let hashes = noise(number, 48);
    let fingerprint = Fingerprint {
        sha256: hashes[..32].try_into().unwrap(),
        xxh128: u128::from_be_bytes(hashes[32..].try_into().unwrap()),
    };
    let path = path(number).to_string();
    let mut names = path.split('/');
    let mut name = || names.next().map(str::to_owned);
    let fields = [
        (Field::Artist, name()),
        (Field::Album, name()),
        (Field::Title, name()),
        (Field::Date, Some("1997-05-21".to_owned())),
        (Field::Genre, Some("Alternative Rock".to_owned())),
        (Field::Track, Some(format!("{}/12", number % 12 + 1))),
    ];
    let tags = fields.into_iter().filter_map(|(field, text)| Some((field, text?))).collect();
    let metadata = Metadata {
        duration: Some(241.226_666),
        bitrate: Some(1_001_536),
        sample_rate: Some(44_100),
        channels: Some(2),
        format: Some("audio/flac".to_owned()),
        codec: Some("flac".to_owned()),
        bits_per_sample: Some(16),
        has_cover: true,
        tags,
        error: None,
    };
    let sound = Some(Sound { xxh128: fingerprint.xxh128.rotate_left(7), bytes: 30_000_000 });
    Track { fingerprint, sound, metadata }
}

/// Commits all files of a library as they are on disk now, and removes the messages.
pub(crate) fn fill(store: &Store, root: &Arc<Root>) {
    let walk = Walk::new(root, LibraryPath::root());
    let found = walk.enumerate().map(|(number, walked)| match walked {
        Walked::File(path, stat) => found(path.to_path(), stat, number),
        Walked::Unreadable(path, error) => panic!("{path}: {error}"),
    });
    commit_all(store, &found.collect::<Vec<_>>());
}

/// Commits all of these, a thousand at a time, and removes the messages.
pub(crate) fn commit_all(store: &Store, observations: &[Observation]) {
    super::runtime().block_on(async {
        for batch in observations.chunks(1000) {
            store.commit(Arc::from(batch)).await.unwrap();
        }
        store.remove_delivered(store.last_sequence()).await.unwrap();
    });
}
