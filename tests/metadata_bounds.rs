//! What a file may cost, whatever is in it: 64 MB of memory, and 50 ms of the CPU.
//!
//! The time only counts in a program that is optimised: `just costs` measures it there, and prints what each file costs.
//! Elsewhere, the bytes and the number of reads stand for it.
//!
//! It is the only test of its program, since it measures the memory of the process.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use file_watcher::content::tags;
use file_watcher::model::{LibraryPath, Metadata};
use rustix::time::{ClockId, clock_gettime};

/// Kilobytes of memory that the tags of one file may take.
const MOST_MEMORY: u64 = 64 * 1024;

/// CPU time that they may take.
const MOST_TIME: Duration = if cfg!(debug_assertions) { Duration::from_secs(2) } else { Duration::from_millis(50) };

/// Bytes that may be read of it, and in how many reads.
const MOST_BYTES: u64 = 48 * 1024 * 1024;
const MOST_READS: u64 = 20_000;

/// The most bytes of a message that its texts may make.
const MOST_TEXT: usize = 512 * 1024;

fn le(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_le_bytes()
}

fn be(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_be_bytes()
}

fn seven_bits_a_byte(size: usize) -> [u8; 4] {
    [21, 14, 7, 0].map(|shift| u8::try_from(size >> shift & 0x7F).unwrap())
}

fn id3v2(version: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    [&[b'I', b'D', b'3', version, 0, flags], &seven_bits_a_byte(body.len())[..], body, &mp3()].concat()
}

fn frame(id: &str, flags: [u8; 2], data: &[u8]) -> Vec<u8> {
    [id.as_bytes(), &seven_bits_a_byte(data.len()), &flags, data].concat()
}

fn mp3() -> Vec<u8> {
    let mut frame = vec![0xFF, 0xFB, 0x50, 0xC0];
    frame.resize(208, 0);
    frame.repeat(20)
}

fn flac(comments: &[u8], count: usize) -> Vec<u8> {
    let counts = ((44_100_u64 << 44) + (1 << 41) + (15 << 36) + 44_100).to_be_bytes();
    let info = [&b"fLaC\0\0\0\x22"[..], &[16, 0, 16, 0, 0, 0, 0, 0, 0, 0], &counts, &[0; 16]].concat();
    [&info[..], &[0x84, 0xFF, 0xFF, 0xFF], &le(0), &le(count), comments].concat()
}

fn comment(text: &str) -> Vec<u8> {
    [&le(text.len()), text.as_bytes()].concat()
}

fn chunk(kind: &[u8], content: &[u8]) -> Vec<u8> {
    [kind, &le(content.len()), content].concat()
}

fn part(kind: &[u8], content: &[u8]) -> Vec<u8> {
    [&be(content.len() + 8), kind, content].concat()
}

fn page(flags: u8, lacing: &[u8], body: &[u8]) -> Vec<u8> {
    [b"OggS\0", &[flags][..], &[0; 20], &[u8::try_from(lacing.len()).unwrap()], lacing, body].concat()
}

fn compressed(bytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b' '; bytes]).unwrap();
    encoder.finish().unwrap()
}

fn vorbis() -> Vec<u8> {
    let rates = [0_u32, 64_000, 0].map(u32::to_le_bytes).concat();
    let packet = [&b"\x01vorbis\0\0\0\0\x02"[..], &44_100_u32.to_le_bytes(), &rates, b"\xb8\x01"].concat();
    page(2, &[u8::try_from(packet.len()).unwrap()], &packet)
}

/// A page of comments whose first text never ends.
fn comments_that_go_on() -> Vec<u8> {
    let mut body = [&b"\x03vorbis"[..], &[0xF0, 0xFF, 0xFF, 0xFF]].concat();
    body.resize(65_025, 0);
    page(0, &[255; 255], &body)
}

/// So many pages of a stream, with a packet of one byte each, that have no position.
fn pages_without_position(serial: u8, count: usize) -> Vec<u8> {
    let mut page = page(0, &[1], b"x");
    page[6..14].fill(0xFF);
    page[14] = serial;
    page.repeat(count)
}

/// Files that are one after the other.
fn chain() -> Vec<u8> {
    let link = |serial: u8| {
        let mut first = vorbis();
        first[14] = serial;
        [first, pages_without_position(serial, 70_000)].concat()
    };
    (0..30).flat_map(link).collect()
}

/// A track of sound in ALAC, whose table of samples has these parts.
fn track(table: &[u8]) -> Vec<u8> {
    let entry = part(b"alac", &[0; 28]);
    let table = [part(b"stsd", &[&[0; 8], &entry[..]].concat()), table.to_vec()].concat();
    let handler = part(b"hdlr", &[&[0; 8][..], b"soun", &[0; 12]].concat());
    let header = part(b"mdhd", &[&[0; 12][..], &be(1000), &be(0), &[0; 4]].concat());
    let media = part(b"mdia", &[header, handler, part(b"minf", &part(b"stbl", &table))].concat());
    part(b"trak", &[part(b"tkhd", &[&[0; 12][..], &be(1), &[0; 68]].concat()), media].concat())
}

/// A fragment with so many samples, each with its own duration.
fn fragment(samples: usize) -> Vec<u8> {
    let run = part(b"trun", &[&be(0x100), &be(samples), &vec![1; samples * 4][..]].concat());
    part(b"moof", &part(b"traf", &[part(b"tfhd", &[be(0), be(1)].concat()), run].concat()))
}

/// Files that are made to cost much, by name.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let bomb = [&seven_bits_a_byte(1 << 27)[..], &compressed(1 << 22)].concat();
    let title = [&b"\x01\xff\xfe"[..], &b"A\0".repeat(8 << 20)].concat();
    let blank = frame("TIT2", [0, 0], &[0].repeat(100_000));
    let ape_item = [&le(100_000)[..], &[0; 4], b"Title\0", &vec![b' '; 100_000]].concat();
    let ape = |items: usize| {
        let body = ape_item.repeat(items);
        [&body[..], b"APETAGEX", &le(2000), &le(body.len() + 32), &le(items), &[0; 12]].concat()
    };
    // As many tags as may be in front of the sound, each with as many frames as may be in a tag.
    let tags = |frame: &[u8]| {
        let tag = [&b"ID3\x04\0\0"[..], &seven_bits_a_byte(frame.len() * 10_000), &frame.repeat(10_000)].concat();
        [tag.repeat(16), mp3()].concat()
    };
    let tag_in_chunk = chunk(b"id3 ", &id3v2(4, 0, &frame("XXXX", [0, 0], b"").repeat(9000)));
    let attribute = [&[12, 0][..], b"T\0i\0t\0l\0e\0\0\0", &[0, 0], &[0xFF, 0xFF], &vec![b' '; 65_535]].concat();
    let asf = {
        let kind = [0x40, 0xA4, 0xD0, 0xD2, 0x07, 0xE3, 0xD2, 0x11, 0x97, 0xF0, 0, 0xA0, 0xC9, 0x5E, 0xA8, 0x50];
        let magic = [0x30, 0x26, 0xB2, 0x75, 0x8E, 0x66, 0xCF, 0x11, 0xA6, 0xD9, 0, 0xAA, 0, 0x62, 0xCE, 0x6C];
        let content = [&[0xFF, 0xFF][..], &attribute.repeat(500)].concat();
        let object = [&kind[..], &(content.len() as u64 + 24).to_le_bytes(), &content].concat();
        [&magic[..], &(object.len() as u64 + 30).to_le_bytes(), &le(1), &[1, 2], &object].concat()
    };
    vec![
        ("comments.flac", flac(&comment("artist= ").repeat(2_000_000), 2_000_000)),
        ("long-comments.flac", flac(&comment(&format!("artist={}", " ".repeat(65_000))).repeat(500), 500)),
        ("not-utf8.flac", flac(&[&le(60_000)[..], b"artist=", &vec![0xFF; 59_993]].concat().repeat(500), 500)),
        (
            "items.wav",
            [
                &b"RIFF\0\0\0\0WAVE"[..],
                &chunk(b"LIST", &[&b"INFO"[..], &chunk(b"INAM", b"  ").repeat(1_000_000)].concat()),
            ]
            .concat(),
        ),
        ("frames.mp3", id3v2(4, 0, &frame("TIT2", [0, 0], b"\0").repeat(32 * 1024 * 1024 / 11))),
        ("frames-of-nothing.mp3", id3v2(3, 0, &[&b"TXXX\0\0\0\x01\0\0\0"[..]].concat().repeat(3_000_000))),
        ("blank-frames.mp3", id3v2(4, 0, &blank.repeat(300))),
        ("title.mp3", id3v2(4, 0, &frame("TIT2", [0, 0], &title))),
        ("compressed.mp3", id3v2(4, 0, &frame("TIT2", [0, 9], &bomb).repeat(5000))),
        ("compressed-nothing.mp3", tags(&frame("TIT2", [0, 9], b"\0\0\0\x09\x78\x9c"))),
        ("names.mp3", tags(&frame("TXXX", [0, 0], b"\0ISRC\0"))),
        ("dates.mp3", tags(&frame("TDRC", [0, 0], b"\x01\xff\xfe2\0"))),
        ("long-dates.mp3", id3v2(4, 0, &frame("TDRC", [0, 0], &title[..100_001]).repeat(300))),
        ("genres.mp3", id3v2(4, 0, &frame("TCON", [0, 0], &[&[0][..], &b"(999)".repeat(20_000)].concat()).repeat(300))),
        (
            "unsynchronised-frames.mp3",
            id3v2(3, 0x80, &[&b"APIC\0\0\x0f\xa0\0\0"[..], &[0; 4000]].concat().repeat(8000)),
        ),
        (
            "unsynchronised.mp3",
            id3v2(3, 0x80, &[&b"APIC\x01\xff\xff\xff\0\0"[..], &[0xFF, 0].repeat(16 << 20)].concat()),
        ),
        ("headers.mp3", [0xFF, 0xFB, 0x90, 0x00].repeat(1 << 20)),
        ("other-headers.mp3", [0xFF, 0xFB, 0xE0, 0x00].repeat(1 << 20)),
        ("zeros.mp3", vec![0; 64 << 20]),
        ("ape.mp3", [mp3(), ape(400)].concat()),
        (
            "boxes.m4a",
            part(
                b"moov",
                &part(
                    b"udta",
                    &part(b"meta", &[&[0; 4][..], &part(b"ilst", &part(b"\xa9nam", b"").repeat(2_000_000))].concat()),
                ),
            ),
        ),
        ("deep-boxes.m4a", (0..2000).fold(vec![0; 100], |inner, _| part(b"moov", &inner))),
        (
            "pages.ogg",
            [
                vorbis(),
                comments_that_go_on(),
                page(0, &[255], &[0; 255]).repeat(150_000),
                page(0, &[1], b"x").repeat(500_000),
            ]
            .concat(),
        ),
        ("chain.ogg", chain()),
        ("magic.ogg", [vorbis(), b"OggS".repeat(4 << 20)].concat()),
        ("samples.m4a", part(b"moov", &track(&part(b"stsz", &[&[0; 8], &be(12 << 20)[..], &[0; 48 << 20]].concat())))),
        ("fragments.m4a", [part(b"moov", &track(b"")), fragment(1000).repeat(12_000)].concat()),
        ("small-fragments.m4a", [part(b"moov", &track(b"")), fragment(1).repeat(500_000)].concat()),
        ("attributes.wma", asf),
        ("lists.wav", [&b"RIFF\0\0\0\0WAVE"[..], &chunk(b"LIST", b"INFOINAM\x02\0\0\0  ").repeat(1_000_000)].concat()),
        ("tags.wav", [&b"RIFF\0\0\0\0WAVE"[..], &tag_in_chunk.repeat(100)].concat()),
        ("chunks.aiff", [&b"FORM\0\0\0\0AIFF"[..], &b"NAME\0\0\0\x02  ".repeat(2_000_000)].concat()),
        ("items.ape", [&b"MAC "[..], &[0; 100], &ape(400)].concat()),
        ("items.wv", [&b"wvpk"[..], &[0; 100], &ape(400)].concat()),
        ("items.mpc", [&b"MPCK"[..], &[0; 100], &ape(400)].concat()),
        ("blocks.wv", [&b"wvpk\x18\0\0\0\x10\x04"[..], &[0; 22]].concat().repeat(1_000_000)),
        ("packets.mpc", [&b"MPCK"[..], &b"XX\x03".repeat(4 << 20)].concat()),
    ]
}

/// A line of `/proc/self/status`, in kilobytes.
fn memory(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    value.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
}

/// A file that counts what is read of it.
struct Counted {
    file: File,
    bytes: u64,
    reads: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes += read as u64;
        self.reads += 1;
        Ok(read)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// The folder in which a child makes the files, so that the memory for making them is not that of the test.
const FOLDER: &str = "FILE_WATCHER_COSTLY_FILES";

fn make_in_child(folder: &Path) {
    let test = ["--exact", "no_file_costs_more_than_its_bounds"];
    let status = Command::new(env::current_exe().unwrap()).args(test).env(FOLDER, folder).status().unwrap();
    assert!(status.success());
}

#[test]
fn no_file_costs_more_than_its_bounds() {
    if let Some(folder) = env::var_os(FOLDER) {
        for (name, bytes) in files() {
            fs::write(Path::new(&folder).join(name), bytes).unwrap();
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_in_child(folder.path());
    let mut over = Vec::new();
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert!(names.len() > 20, "{}", names.len());
    println!("{:<26} {:>6} {:>9} {:>7} {:>6} {:>6}  error", "file", "CPU ms", "memory KB", "read KB", "reads", "text");
    for name in names {
        let name = name.into_string().unwrap();
        let mut file = Counted { file: File::open(folder.path().join(&name)).unwrap(), bytes: 0, reads: 0 };
        // Forgets the highest memory use so far.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let (before, begun) = (memory("VmRSS"), cpu_time());
        let metadata: Metadata = tags::read(&mut file, &LibraryPath::from(name.as_str()), None);
        let (time, memory) = (cpu_time().saturating_sub(begun), memory("VmHWM").saturating_sub(before));
        let text: usize = metadata.tags.present().map(|(_, text)| text.len()).sum();
        let Counted { bytes, reads, .. } = file;
        let error = metadata.error.unwrap_or_default();
        let milliseconds = time.as_secs_f64() * 1e3;
        let begin_of_error: String = error.chars().take(70).collect();
        println!(
            "{name:<26} {milliseconds:>6.1} {memory:>9} {:>7} {reads:>6} {text:>6}  {begin_of_error}",
            bytes / 1024
        );
        assert_ne!(error, "the parser failed on it", "{name}");
        let costs_much = time > MOST_TIME || memory > MOST_MEMORY || bytes > MOST_BYTES || reads > MOST_READS;
        if costs_much || text > MOST_TEXT {
            over.push(name);
        }
    }
    assert!(over.is_empty(), "{over:?}");
}
