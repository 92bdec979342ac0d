# `just` alone lists the recipes. What CI runs is .ci/run.

_default:
    @just --list --unsorted

# Run the program: just run scan --sink stdout ~/Music
run *arguments:
    cargo run --release -- {{ arguments }}

# All tests, or those that match: just test settings
test *arguments:
    tests/run {{ arguments }}

# Random histories against the disk, a broker and a cluster in trouble: just chaos 500, just chaos 200 broker,
# just chaos 50 cluster, CHAOS_ROOT=ext4 just chaos 100 disk
chaos seeds="100" *arguments:
    CHAOS_SEEDS={{ seeds }} CHAOS_OPS="${CHAOS_OPS:-300}" tests/run --test convergence -- --nocapture --include-ignored --test-threads 1 {{ arguments }}

# The service with a cluster of three nodes that are killed, frozen and cut off, with this many files: just cluster 10000
cluster files="1000" *arguments:
    CLUSTER_FILES={{ files }} tests/run --test cluster -- --nocapture --include-ignored {{ arguments }}

# Several instances, random changes and a consumer that checks: just stress --instances 4 --files 5000 --seconds 60
stress *arguments:
    cargo test --release --features tools --test stress -- {{ arguments }}

# Random histories of a disk in memory, a minute for every 50,000: just model 200000
model histories="50000":
    PROPTEST_CASES={{ histories }} tests/run --test model

# The benches, or those that match: just bench hash
bench *arguments:
    cargo bench {{ arguments }}

# What the costliest files cost, in an optimised build
costs:
    cargo test --release --locked --test metadata_bounds -- --nocapture

# Fuzzing of one reader, or of all as `file`, beginning with the files of the tests; needs nightly Rust and cargo-fuzz:
# just fuzz, just fuzz flac 600
fuzz target="file" seconds="600" *arguments:
    mkdir -p fuzz/corpus/{{ target }}
    cargo +nightly fuzz run --sanitizer none {{ target }} fuzz/corpus/{{ target }} tests/fixtures -- \
        -dict=fuzz/dictionary -max_len=65536 -timeout=10 -max_total_time={{ seconds }} {{ arguments }}

# The whole program beside what its work costs at least, ten minutes; or these lines: just compare A D
compare *arguments:
    cargo test --release --features tools --test compare -- {{ arguments }}

# The page in a real browser, against a stand-in; needs Debian's chromium, chromium-driver and python3-selenium
page *arguments:
    /usr/bin/python3 tests/page/check.py {{ arguments }}

# The page of the real service in a real browser; needs the same
page-service:
    cargo build --locked
    /usr/bin/python3 tests/page/service.py "${CARGO_TARGET_DIR:-target}/debug/file-watcher"

# Formatting, clippy and the documentation, as CI checks them
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# Make the audio files of the tests anew; tests/fixtures/README.md says what that needs
fixtures:
    python3 tests/fixtures/make
    python3 tests/fixtures/retag
    python3 tests/fixtures/expected

# What is read of a corpus of real encoders, against mutagen, ffprobe and exiftool: just metadata, just metadata --foreign
metadata *arguments:
    cargo build --release --locked
    tests/metadata/compare.py {{ arguments }}

# Everything that CI runs
ci:
    .ci/run

# The manifests for Kubernetes against its schemas; needs kubectl, and kubernetes-validate from PyPI
kubernetes:
    deploy/kubernetes/check

# The container's image, with what is in it and when
release-docker tag="file-watcher:latest":
    docker build --pull --tag {{ tag }} \
        --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)" \
        --build-arg REVISION="$(git rev-parse HEAD)" \
        --build-arg CREATED="$(date --utc +%Y-%m-%dT%H:%M:%SZ)" .

# Builds the image, and runs it as operators do, or these sections of that; needs root on Debian, and 20 minutes
container *sections:
    tests/container/run {{ sections }}
