//! What an index of many rows costs, without their files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use file_watcher::message::Encoder;
use file_watcher::model::{Index, LibraryPath, MetadataStyle, MountId};
use file_watcher::store::{IndexReader, Store};
use rusqlite::{Connection, params};

use super::measure::resident_memory;

/// The root that the index is of.
const ROOT: &[u8] = b"/data/music";

/// Rows in a page, as a walk reads them.
const PAGE: usize = 2048;

/// Look-ups of each kind.
const LOOK_UPS: u64 = 20_000;

/// Metadata of usual length.
const METADATA: &str = r#"{"title":"The Long And Winding Title Of A Song","artist":"Some Artist","album":"Their Best Album","date":"1987-03-21","track":"7/12","genre":"Rock","albumartist":"Some Artist","musicbrainz_trackid":"7f7e0a04-1dd8-4ba5-a1c1-0b6e5a3ed1b7","duration":241.706667,"bitrate":921600,"sample_rate":44100,"channels":2,"codec":"flac","bits_per_sample":16,"has_cover":true}"#;

fn encoder() -> Encoder {
    Encoder::new("rows", Path::new("/data/music"), MetadataStyle::Nested)
}

fn path(number: u64) -> String {
    let (artist, album, track) = (number / 120, number / 12 % 10, number % 12 + 1);
    format!("Some Artist {artist:06}/Album of theirs {album}/{track:02} - The Long And Winding Title.flac")
}

/// Makes an index with this number of rows, and prints what it costs.
pub(crate) fn measure(count: u64) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.sqlite");
    drop(Store::open(&file, ROOT, encoder()).unwrap());
    // By a process of its own, whose memory is not measured.
    let filling = std::env::current_exe().unwrap();
    assert!(Command::new(filling).arg("fill-rows").arg(&file).arg(count.to_string()).status().unwrap().success());
    let size: u64 = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("rows                 {count}");
    println!("size                 {:.2} GB, {} bytes a row", size as f64 / 1e9, size / count);

    let begun = Instant::now();
    drop(Store::open(&file, ROOT, encoder()).unwrap());
    println!("index of sounds      {:.2} s, once, after the first scan", begun.elapsed().as_secs_f64());
    println!("memory               {:.0} MB", resident_memory(std::process::id()));
    let begun = Instant::now();
    let store = Store::open(&file, ROOT, encoder()).unwrap();
    println!("start                {:.2} s", begun.elapsed().as_secs_f64());
    let index = store.index().clone();
    let begun = Instant::now();
    assert_eq!(index.len().unwrap(), count);
    println!("count                {:.2} s", begun.elapsed().as_secs_f64());
    println!("all rows in order    {:.2} s", read_all(&index, count).as_secs_f64());

    let mut random = fastrand::Rng::with_seed(1);
    let begun = Instant::now();
    for _ in 0..LOOK_UPS {
        assert!(index.row(&LibraryPath::from(path(random.u64(..count)).as_str())).unwrap().is_some());
    }
    println!("look-up by path      {:.1} us", begun.elapsed().as_secs_f64() * 1e6 / LOOK_UPS as f64);
    let begun = Instant::now();
    for _ in 0..LOOK_UPS {
        assert_eq!(index.rows_by_inode(MountId(0), random.u64(..count) + 1, 2).unwrap().len(), 1);
    }
    println!("look-up by inode     {:.1} us", begun.elapsed().as_secs_f64() * 1e6 / LOOK_UPS as f64);
    println!("memory               {:.0} MB", resident_memory(std::process::id()));
}

/// Fills an index with this number of rows.
pub(crate) fn fill(file: &Path, count: u64) {
    let mut connection = Connection::open(file).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    connection.pragma_update(None, "cache_size", -1_000_000).unwrap();
    let transaction = connection.transaction().unwrap();
    {
        let mut insert = transaction
            .prepare(
                "INSERT INTO files (path, mount, inode, born_ns, size, mtime_ns, ctime_ns, sha256, xxh128, metadata,
                     first_published, audio_hash, audio_bytes)
                 VALUES (?1, 0, ?2, ?3, 30000000, ?3, ?3, ?4, ?5, ?6, 1700000000, ?7, 29000000)",
            )
            .unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let (mut sha256, mut xxh128, mut sound) = ([0; 32], [0; 16], [0; 16]);
        for number in 0..count {
            for hash in [&mut sha256[..], &mut xxh128, &mut sound] {
                random.fill(hash);
            }
            let time = 1_700_000_000_000_000_000_i64 + i64::try_from(number).unwrap();
            let inode = i64::try_from(number + 1).unwrap();
            let path = path(number);
            insert.execute(params![path.as_bytes(), inode, time, sha256, xxh128, METADATA, sound]).unwrap();
        }
    }
    transaction.commit().unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

/// Reads the index as a walk of everything does.
fn read_all(index: &IndexReader, count: u64) -> Duration {
    let begun = Instant::now();
    let (root, mut after, mut seen) = (LibraryPath::root(), None, 0);
    loop {
        let page = index.rows_after(&root, after.as_ref(), PAGE).unwrap();
        seen += page.len() as u64;
        match page.last_path() {
            Some(path) => after = Some(path),
            None => break,
        }
    }
    assert_eq!(seen, count);
    begun.elapsed()
}
