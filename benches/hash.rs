//! Both hashes in one read, from the page cache. Neighbour: SHA-256 alone, which is the lower bound.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek, Write};
use std::sync::LazyLock;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use file_watcher::content::{Contents, Reader};
use file_watcher::model::LibraryPath;
use sha2::{Digest, Sha256};

use crate::support::library::noise;

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
            let known = reader.read(file, &path, None).unwrap();
            bencher.iter(|| {
                file.rewind().unwrap();
                black_box(reader.read(file, &path, Some(&known)).unwrap())
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

fn file(size: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&noise(1, size)).unwrap();
    file.rewind().unwrap();
    file
}
