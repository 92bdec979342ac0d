//! Sound in Ogg: the packets of a stream of sound behind its headers, found while the file is read.
//!
//! - What pages the packets are on makes no difference, and neither do the sizes of the chunks.
//! - Of several streams at the same time, the first one with sound counts. Of streams one after another, each counts.
//! - Bytes between pages are passed over.
//!
//! Formats: Ogg, RFC 3533, section 6; Vorbis I, section 4.2; Opus in Ogg, RFC 7845, section 3; the header of Speex, manual
//! of Speex, section 7.1; FLAC in Ogg, RFC 9639, section 10.1.

use super::super::ogg_pages::{MAGIC, PAGE_HEADER};

/// Bytes of a first packet that are kept: those of the header of Speex.
const FIRST_PACKET: usize = 80;

/// The flag of a page that begins a stream.
const BEGINS_STREAM: u8 = 2;

/// A reader of pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// The beginning of a page, as far as it was seen: its header, and the first packet of a stream.
    window: Vec<u8>,
    /// What is left of the page's content: bytes to pass over, and sound behind them.
    skip: usize,
    sound: usize,
    stream: Option<Stream>,
    /// Whether a page was seen that begins no stream. One that begins a stream after it belongs to the next link of a
    /// chain.
    is_link_begun: bool,
}

/// The stream whose packets are sound.
#[derive(Debug)]
struct Stream {
    serial: [u8; 4],
    /// How many of the next packets are headers.
    headers: u32,
}

impl Pages {
    /// Calls `take` with each part of the next bytes of the file that is sound, in order.
    pub(super) fn each_in(&mut self, chunk: &[u8], mut take: impl FnMut(&[u8])) {
        let mut rest = chunk;
        while !rest.is_empty() {
            if self.skip + self.sound > 0 {
                rest = self.pass_content(rest, &mut take);
                continue;
            }
            let Some(needed) = needed(&self.window) else {
                self.drop_junk();
                continue;
            };
            let (head, behind) = rest.split_at(rest.len().min(needed - self.window.len()));
            self.window.extend_from_slice(head);
            rest = behind;
            if self::needed(&self.window) == Some(self.window.len()) {
                self.begin_page(&mut take);
            }
        }
    }

    /// Goes on in the content of a page; returns what is behind it.
    fn pass_content<'chunk>(&mut self, chunk: &'chunk [u8], take: &mut impl FnMut(&[u8])) -> &'chunk [u8] {
        let (skipped, rest) = chunk.split_at(chunk.len().min(self.skip));
        let (sound, rest) = rest.split_at(rest.len().min(self.sound));
        take(sound);
        (self.skip, self.sound) = (self.skip - skipped.len(), self.sound - sound.len());
        rest
    }

    /// Drops the bytes of the window before the next one that a page may begin with.
    fn drop_junk(&mut self) {
        let mut later = 1..self.window.len();
        let next = later.find(|&at| needed(&self.window[at..]).is_some());
        self.window.drain(..next.unwrap_or(self.window.len()));
    }

    /// Begins the content of the page whose beginning is in the window.
    fn begin_page(&mut self, take: &mut impl FnMut(&[u8])) {
        let mut page = std::mem::take(&mut self.window);
        let (header, first_packet) = page.split_at(header_length(&page));
        let lacing = &header[PAGE_HEADER..];
        let serial = header[14..].first_chunk().copied().unwrap_or_default();
        if header[5] & BEGINS_STREAM == 0 {
            self.is_link_begun = true;
        } else {
            if std::mem::take(&mut self.is_link_begun) {
                self.stream = None;
            }
            if self.stream.is_none() {
                self.stream = headers_of(first_packet).map(|headers| Stream { serial, headers });
            }
        }
        let content = content_length(lacing);
        self.skip = match &mut self.stream {
            Some(stream) if stream.serial == serial => stream.headers_length(lacing),
            _ => content,
        };
        self.sound = content - self.skip;
        self.pass_content(first_packet, take);
        page.clear();
        self.window = page;
    }
}

impl Stream {
    /// The bytes of headers on the next page of the stream, whose segments have these lengths.
    fn headers_length(&mut self, lacing: &[u8]) -> usize {
        let mut length = 0;
        for &segment in lacing {
            if self.headers == 0 {
                break;
            }
            length += usize::from(segment);
            // A segment of less than 255 bytes is the last one of its packet.
            self.headers -= u32::from(segment < u8::MAX);
        }
        length
    }
}

/// How many bytes of the beginning of a page are needed, as far as these first ones say; `None` if they begin no page.
fn needed(page: &[u8]) -> Option<usize> {
    let magic = &MAGIC[..page.len().min(MAGIC.len())];
    if !page.starts_with(magic) {
        return None;
    }
    if page.len() < PAGE_HEADER {
        return Some(PAGE_HEADER);
    }
    let header = header_length(page);
    let Some(lacing) = page.get(PAGE_HEADER..header) else { return Some(header) };
    let begins_stream = page[5] & BEGINS_STREAM != 0;
    Some(header + if begins_stream { content_length(lacing).min(FIRST_PACKET) } else { 0 })
}

/// The length of a page's header with its table of segments.
fn header_length(page: &[u8]) -> usize {
    PAGE_HEADER + usize::from(page[PAGE_HEADER - 1])
}

fn content_length(lacing: &[u8]) -> usize {
    lacing.iter().map(|&segment| usize::from(segment)).sum()
}

/// How many packets at the beginning of a stream are headers, by the first of them; `None` if it is no stream of sound, or
/// does not say so.
fn headers_of(first_packet: &[u8]) -> Option<u32> {
    if first_packet.starts_with(b"\x01vorbis") {
        Some(3)
    } else if first_packet.starts_with(b"OpusHead") {
        Some(2)
    } else if first_packet.starts_with(b"Speex   ") {
        let more = u32::from_le_bytes(*first_packet.get(68..)?.first_chunk()?);
        Some(more.saturating_add(2))
    } else if first_packet.starts_with(b"\x7FFLAC") {
        let others = u16::from_be_bytes(*first_packet.get(7..)?.first_chunk()?);
        (others > 0).then(|| u32::from(others) + 1)
    } else {
        None
    }
}
