//! Reads a file once, for both hashes and for the parsers that need every byte.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

use super::examine::Contents;
use super::page_cache::Passing;
use super::{adts, sound, tags};
use crate::metrics::Metrics;
use crate::model::{Fingerprint, LibraryPath, Metadata, Origin, Sound, Track};

/// Bytes per read. This was measured to be the fastest: it stays in the CPU's cache for the second hash.
const CHUNK: usize = 256 * 1024;

/// A file of at most this size, in bytes, is read at once.
pub(super) const READ_AT_ONCE: u64 = CHUNK as u64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Frees the buffer in which this thread reads. The next file gets a new one.
pub fn free_buffer() {
    drop(BUFFER.take());
}

/// Reads files, up to a rate limit. Clones share the limit and the counter.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    limit: Option<Arc<Limit>>,
    bytes_read: Arc<AtomicU64>,
    metrics: Metrics,
}

/// A rate limit, counted in units that fit the rate limiter's 32 bits.
#[derive(Debug)]
struct Limit {
    limiter: DefaultDirectRateLimiter,
    unit: u64,
}

impl Limit {
    fn new(bytes_per_second: NonZeroU64) -> Self {
        let unit = if bytes_per_second.get() > u64::from(u32::MAX) { CHUNK as u64 } else { 1 };
        let units =
            |bytes: u64| NonZeroU32::new(u32::try_from(bytes / unit).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        // The burst is what a tenth of a second brings: it makes up for threads that wake late. Less than one chunk could
        // never be granted at once.
        let burst = (bytes_per_second.get() / 10).max(CHUNK as u64);
        let quota = Quota::per_second(units(bytes_per_second.get())).allow_burst(units(burst));
        Self { limiter: RateLimiter::direct(quota), unit }
    }

    fn wait_for(&self, bytes: usize) {
        let units = u32::try_from((bytes as u64).div_ceil(self.unit)).unwrap_or(u32::MAX);
        let Some(units) = NonZeroU32::new(units) else { return };
        let clock = DefaultClock::default();
        while let Ok(Err(not_until)) = self.limiter.check_n(units) {
            thread::sleep(not_until.wait_time_from(clock.now()));
        }
    }
}

impl Reader {
    /// A reader with the same limit, whose reads are not counted as those of new or changed files.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { limit: self.limit.clone(), ..Self::default() }
    }

    /// A reader that reads at most `bytes_per_second` over all files together; `None` for no limit.
    pub fn new(bytes_per_second: Option<NonZeroU64>, metrics: Metrics) -> Self {
        Self { limit: bytes_per_second.map(|rate| Arc::new(Limit::new(rate))), bytes_read: Arc::default(), metrics }
    }

    /// How many bytes were hashed so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Hashes a file of this size.
    ///
    /// A file that grows while it is read is looked at again anyway: no need to race its writer, nor to read on until
    /// there is nothing more.
    fn hash(&self, mut file: &File, path: &LibraryPath, enough: u64) -> io::Result<Hashed> {
        let is_aac = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(b"aac"));
        let mut frames = is_aac.then(adts::Counter::new);
        let mut sha256 = Sha256::new();
        let mut xxh128 = Xxh3Default::new();
        let (mut size, mut reads) = (0, 0);
        let mut in_buffer = 0;
        // A file that fits in the buffer is parsed there.
        let fits = enough <= READ_AT_ONCE;
        let mut sound = None;
        if !fits {
            sound = Some(sound::Hasher::of(file, path));
            file.rewind()?;
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(CHUNK, 0);
            while size < enough {
                let wanted = usize::try_from(enough - size).unwrap_or(CHUNK).min(CHUNK);
                let chunk = fill(file, &mut buffer[..wanted])?;
                let length = chunk.len();
                if length == 0 {
                    break;
                }
                sha256.update(chunk);
                xxh128.update(chunk);
                if let Some(frames) = &mut frames {
                    frames.update(chunk);
                }
                if fits && size == 0 {
                    sound = Some(sound::Hasher::of(Cursor::new(chunk), path));
                }
                if let Some(sound) = &mut sound {
                    sound.update(chunk);
                }
                size += length as u64;
                (reads, in_buffer) = (reads + 1, length);
                self.bytes_read.fetch_add(length as u64, Ordering::Relaxed);
                if let Some(limit) = &self.limit {
                    limit.wait_for(length);
                }
            }
            Ok::<_, io::Error>(())
        })?;
        let fingerprint = Fingerprint { sha256: sha256.finalize().into(), xxh128: xxh128.digest128() };
        let frames = frames.map(|frames| frames.finish(size));
        let is_sound = frames.is_none_or(|frames| frames.frames > 0);
        let known = tags::Known { frames, kind: sound.as_ref().and_then(sound::Hasher::kind) };
        let sound = sound.and_then(sound::Hasher::finish).filter(|_| is_sound);
        Ok(Hashed { fingerprint, sound, known, in_buffer: (reads == 1).then_some(in_buffer), size })
    }
}

/// Reads the next bytes of the file, as many as fit in `buffer` or as there are.
fn fill<'buffer>(mut file: &File, buffer: &'buffer mut [u8]) -> io::Result<&'buffer [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..filled])
}

/// The result of reading a whole file.
struct Hashed {
    fingerprint: Fingerprint,
    sound: Option<Sound>,
    known: tags::Known,
    /// The file's length, if the file is so small that the buffer still holds all of it.
    in_buffer: Option<usize>,
    size: u64,
}

impl Contents<File> for Reader {
    fn read(&self, file: &File, path: &LibraryPath, indexed: Option<&Track>, origin: Origin) -> io::Result<Track> {
        let begun = Instant::now();
        let size = file.metadata()?.len();
        // What was just written is soon read by others.
        let is_passing = origin == Origin::Scan && size > READ_AT_ONCE;
        let _passing = is_passing.then(|| Passing::begin(file, size));
        let Hashed { fingerprint, sound, known, in_buffer, size } = self.hash(file, path, size)?;
        let hashed = Instant::now();
        let mut metadata = match (indexed, in_buffer) {
            (Some(indexed), _) if indexed.fingerprint == fingerprint && has_all_fields(&indexed.metadata) => {
                indexed.metadata.clone()
            }
            (_, Some(length)) => {
                BUFFER.with_borrow(|buffer| tags::read_known(Cursor::new(&buffer[..length]), path, known))
            }
            _ => tags::read_known(file, path, known),
        };
        // That of the index may be from an older version, which kept texts of any length.
        metadata.cut_long_texts();
        self.metrics.count_read(size, hashed - begun, hashed.elapsed());
        Ok(Track { fingerprint, sound, metadata })
    }
}

/// Whether metadata of the index is from a version that read every field. Older ones did not read the codec.
fn has_all_fields(metadata: &Metadata) -> bool {
    metadata.codec.is_some()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use data_encoding::HEXLOWER;

    use super::*;

    fn track(reader: &Reader, bytes: &[u8]) -> Track {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        reader.read(&File::open(file.path()).unwrap(), &"x.txt".into(), None, Origin::Watch).unwrap()
    }

    #[test]
    fn both_hashes_agree_with_sha256sum_and_xxhsum() {
        // printf 'abc' | sha256sum; printf 'abc' | xxhsum -H128
        let abc = track(&Reader::default(), b"abc").fingerprint;
        assert_eq!(HEXLOWER.encode(&abc.sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(format!("{:032x}", abc.xxh128), "06b05ab6733a618578af5f94892f3950");
        let empty = track(&Reader::default(), b"").fingerprint;
        assert_eq!(format!("{:032x}", empty.xxh128), "99aa06d3014798d86001c324468d497f");
    }

    #[test]
    fn metadata_of_an_older_version_is_read_anew_and_that_of_this_one_is_kept() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"fLaC").unwrap();
        let read = |codec: Option<&str>| {
            let mut known = track(&Reader::default(), b"fLaC");
            known.metadata = Metadata { codec: codec.map(str::to_owned), channels: Some(7), ..Metadata::default() };
            Reader::default()
                .read(&File::open(file.path()).unwrap(), &"x.flac".into(), Some(&known), Origin::Watch)
                .unwrap()
                .metadata
        };
        assert_eq!(read(Some("flac")).channels, Some(7));
        assert_eq!(read(None).channels, None);
    }

    #[test]
    fn a_file_of_several_chunks_is_hashed_whole() {
        let bytes: Vec<u8> = (0..=250).cycle().take(CHUNK * 2 + 17).collect();
        let reader = Reader::default();
        let fingerprint = track(&reader, &bytes).fingerprint;
        assert_eq!(fingerprint.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(fingerprint.xxh128, xxhash_rust::xxh3::xxh3_128(&bytes));
        assert_eq!(reader.bytes_read(), bytes.len() as u64);
    }

    #[test]
    fn reading_is_limited_to_its_rate() {
        let reader = Reader::new(NonZeroU64::new(CHUNK as u64 * 4), Metrics::new());
        let begin = Instant::now();
        track(&reader, &vec![0; CHUNK * 3]);
        // The first chunk is the burst; the other two take a quarter of a second each.
        assert!(begin.elapsed().as_millis() >= 450, "{:?}", begin.elapsed());
    }
}
