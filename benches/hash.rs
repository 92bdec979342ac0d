//! The hashes in one read, from the page cache. Neighbour of large files: SHA-256 alone, which is the lower bound. Neighbour
//! of small tagged files: the same without the hash of the sound.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Cursor, Read, Seek, Write};
use std::sync::LazyLock;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use file_watcher::content::{Contents, Reader, tags};
use file_watcher::model::{LibraryPath, Origin};
use sha2::{Digest, Sha256};

use crate::support::library::{fixture, noise};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

pub(crate) fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, size) in [("64 KiB", 64 * KIB), ("1 MiB", MIB), ("16 MiB", 16 * MIB), ("256 MiB", 256 * MIB)] {
        group.throughput(Throughput::Bytes(size as u64));
        let file = LazyLock::new(|| file(size));
        group.bench_function(BenchmarkId::new("both", name), |bencher| {
            let (reader, path, mut file) = (Reader::default(), LibraryPath::from("x.bin"), &*file);
            file.rewind().unwrap();
            // With known content the metadata is not read, so that only the hashing is measured.
            let known = reader.read(file, &path, None, Origin::Watch).unwrap();
            bencher.iter(|| {
                file.rewind().unwrap();
                black_box(reader.read(file, &path, Some(&known), Origin::Watch).unwrap())
            });
        });
        group.bench_function(BenchmarkId::new("sha256 alone", name), |bencher| {
            let mut file = &*file;
            let mut buffer = vec![0; 256 * KIB];
            bencher.iter(|| {
                file.rewind().unwrap();
                let mut hash = Sha256::new();
                loop {
                    match file.read(&mut buffer).unwrap() {
                        0 => break black_box(hash.finalize()),
                        length => hash.update(&buffer[..length]),
                    }
                }
            });
        });
    }
    group.finish();
}

pub(crate) fn sound(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sound");
    let read = |name: &str| fs::read(fixture(name)).unwrap();
    let frames = read("mp3/untagged-ffmpeg.mp3").repeat(15);
    for (path, bytes) in [
        ("x.mp3", [read("mp3/tagged-lame-vbr.mp3"), frames].concat()),
        ("x.flac", [read("flac/tagged-24bit.flac"), noise(2, 40 * KIB)].concat()),
        ("x.ogg", read("ogg/tagged-oggenc.ogg")),
        ("x.m4a", read("m4a/tagged-aac.m4a")),
    ] {
        let (path, mut file, size) = (LibraryPath::from(path), file_of(&bytes), bytes.len());
        group.throughput(Throughput::Bytes(size as u64));
        let reader = Reader::default();
        group.bench_function(BenchmarkId::new("read", &path), |bencher| {
            bencher.iter(|| {
                file.rewind().unwrap();
                black_box(reader.read(&file, &path, None, Origin::Watch).unwrap())
            });
        });
        let mut buffer = vec![0; 256 * KIB];
        group.bench_function(BenchmarkId::new("without the sound", &path), |bencher| {
            bencher.iter(|| {
                file.rewind().unwrap();
                let length = file.read(&mut buffer).unwrap();
                let bytes = &buffer[..length];
                let hashes = (Sha256::digest(bytes), xxhash_rust::xxh3::xxh3_128(bytes));
                black_box((hashes, tags::read(Cursor::new(bytes), &path, None)))
            });
        });
    }
    group.finish();
}

fn file(size: usize) -> File {
    file_of(&noise(1, size))
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}
