//! The metadata of one file of each format, from the page cache. Neighbour: a read of the first 4 KiB.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek};

use criterion::{BenchmarkId, Criterion};
use file_watcher::content::{adts, tags};
use file_watcher::model::{Field, LibraryPath};

use crate::support::library::fixture;

const FIXTURES: [&str; 12] = [
    "mp3/tagged-id3v24.mp3",
    "mp3/tagged-cover.mp3",
    "flac/tagged-flac.flac",
    "wav/tagged-id3.wav",
    "ogg/tagged-oggenc.ogg",
    "ogg/tagged-flac.ogg",
    "ogg/tagged-speex.ogg",
    "opus/tagged-opusenc.opus",
    "aac/tagged-44100.aac",
    "m4a/tagged-aac.m4a",
    "mp4/tagged-video.mp4",
    "wma/tagged-wmav2.wma",
];

pub(crate) fn tags(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tags");
    for name in FIXTURES {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let mut file = File::open(fixture(name)).unwrap();
            let path = LibraryPath::from(name);
            let frames = name.starts_with("aac").then(|| frames(&mut file));
            bencher.iter(|| {
                file.rewind().unwrap();
                let metadata = tags::read(&file, &path, frames);
                assert!(metadata.error.is_none() && metadata.tags.get(Field::Title).is_some(), "{metadata:?}");
                black_box(metadata)
            });
        });
    }
    group.bench_function("neighbour: read 4 KiB", |bencher| {
        let mut file = File::open(fixture("flac/tagged-flac.flac")).unwrap();
        let mut buffer = [0; 4096];
        bencher.iter(|| {
            file.rewind().unwrap();
            file.read(black_box(&mut buffer)).unwrap()
        });
    });
    group.finish();
}

/// The frames that are counted while the file is hashed.
fn frames(file: &mut File) -> adts::Summary {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let mut counter = adts::Counter::new();
    counter.update(&bytes);
    counter.finish(bytes.len() as u64)
}
