//! The pages of Ogg, and the packets of a stream in them.
//!
//! Format: RFC 3533, section 6.

use std::io::{self, Read, Seek, SeekFrom};

use super::ogg::corrupt;
use super::source::Source;

/// The first bytes of every page.
pub(super) const MAGIC: &[u8; 4] = b"OggS";

/// Bytes of a page's header, without its table of segments.
pub(super) const PAGE_HEADER: usize = 27;

/// Bytes of the longest page.
const LONGEST_PAGE: usize = PAGE_HEADER + 255 + 255 * 255;

/// Bytes that are searched at once: a page at least.
const CHUNK: usize = 64 * 1024;

/// Bytes in front of the end in which the last page of a stream is searched.
const SEARCHED: u64 = 2 * 1024 * 1024;

/// The flag of a stream's first page.
const BEGINS_STREAM: u8 = 2;

/// The position on a page on which no packet ends.
const NO_POSITION: u64 = u64::MAX;

/// The header of a page.
pub(super) struct Page {
    at: u64,
    flags: u8,
    position: u64,
    pub(super) serial: u32,
    lacing: [u8; 255],
    segments: usize,
}

impl Page {
    /// The page that begins at `at`; `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// If no page begins there.
    pub(super) fn at<R: Read + Seek>(source: &mut Source<R>, at: u64) -> io::Result<Option<Self>> {
        if at >= source.length() {
            return Ok(None);
        }
        source.visit()?;
        source.seek(SeekFrom::Start(at))?;
        let header: [u8; PAGE_HEADER] = source.array()?;
        if !header.starts_with(MAGIC) {
            return Err(corrupt("no ogg page where one should be"));
        }
        let mut page = Self::of(at, &header);
        source.read_exact(&mut page.lacing[..page.segments])?;
        Ok(Some(page))
    }

    fn of(at: u64, header: &[u8; PAGE_HEADER]) -> Self {
        let position = header[6..].first_chunk().map_or(NO_POSITION, |&bytes| u64::from_le_bytes(bytes));
        let serial = header[14..].first_chunk().map_or(0, |&bytes| u32::from_le_bytes(bytes));
        let segments = usize::from(header[PAGE_HEADER - 1]);
        Self { at, flags: header[5], position, serial, lacing: [0; 255], segments }
    }

    /// The page at the beginning of `bytes`, which are at `at`, if all of it is there.
    fn whole(bytes: &[u8], at: u64) -> Option<Self> {
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let mut page = Self::of(at, bytes.first_chunk()?);
        let lacing = bytes.get(PAGE_HEADER..PAGE_HEADER + page.segments)?;
        page.lacing[..page.segments].copy_from_slice(lacing);
        (page.end() - at <= bytes.len() as u64).then_some(page)
    }

    /// The position at the end of the last packet that ends on this page; `None` if no packet does.
    pub(super) fn position(&self) -> Option<u64> {
        Some(self.position).filter(|&position| position != NO_POSITION)
    }

    pub(super) fn begins_stream(&self) -> bool {
        self.flags & BEGINS_STREAM != 0
    }

    fn content(&self) -> u64 {
        self.at + (PAGE_HEADER + self.segments) as u64
    }

    /// The position behind the page.
    pub(super) fn end(&self) -> u64 {
        self.content() + self.lacing[..self.segments].iter().map(|&length| u64::from(length)).sum::<u64>()
    }

    /// The first bytes of the content.
    pub(super) fn head<'buffer, R: Read + Seek>(
        &self,
        source: &mut Source<R>,
        buffer: &'buffer mut [u8],
    ) -> io::Result<&'buffer [u8]> {
        Ok(source.read_at(self.content(), buffer)?)
    }
}

/// The last whole page that ends at or before `end` and is wanted; `None` if there is no such page near the end.
pub(super) fn last_page<R: Read + Seek>(
    source: &mut Source<R>,
    end: u64,
    is_wanted: impl Fn(&Page) -> bool,
) -> io::Result<Option<Page>> {
    let mut buffer = vec![0; CHUNK + LONGEST_PAGE];
    let mut to = end;
    while to > end.saturating_sub(SEARCHED) {
        let from = to.saturating_sub(CHUNK as u64);
        // A page that begins before `to` may end behind it.
        let length = usize::try_from(end - from).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = source.read_at(from, &mut buffer[..length])?;
        let begins = usize::try_from(to - from).unwrap_or(0).min(bytes.len());
        let pages = (0..begins).rev().filter_map(|offset| Page::whole(&bytes[offset..], from + offset as u64));
        let last = pages.into_iter().find(|page| is_wanted(page));
        if last.is_some() {
            return Ok(last);
        }
        to = from;
    }
    Ok(None)
}

/// Where the file of a chain ends that begins at `begin`: where the next one begins, or at the end. By bisection, as a file
/// has pages of its own streams only.
pub(super) fn next_link<R: Read + Seek>(source: &mut Source<R>, begin: u64) -> io::Result<u64> {
    let own = serials_at(source, begin)?;
    let is_own = |page: &Page| own.contains(&page.serial);
    // A page that begins before `low` is of this file, and the first one at or behind `high` is not.
    let (mut low, mut high) = (begin, source.length());
    while high - low > CHUNK as u64 {
        let middle = low.midpoint(high);
        match page_behind(source, middle)? {
            Some(page) if is_own(&page) => low = page.end(),
            Some(_) | None => high = middle,
        }
        if low >= high {
            break;
        }
    }
    let mut at = low;
    while let Some(page) = page_behind(source, at)? {
        if !is_own(&page) {
            return Ok(page.at);
        }
        at = page.end();
    }
    Ok(source.length())
}

/// The serial numbers of the streams that begin at `at`.
pub(super) fn serials_at<R: Read + Seek>(source: &mut Source<R>, at: u64) -> io::Result<Vec<u32>> {
    let mut serials = Vec::new();
    let mut next = at;
    while let Some(page) = Page::at(source, next)?.filter(Page::begins_stream) {
        serials.push(page.serial);
        next = page.end();
    }
    Ok(serials)
}

/// The first page at or behind `at`, if there is one within the length of the longest page.
fn page_behind<R: Read + Seek>(source: &mut Source<R>, at: u64) -> io::Result<Option<Page>> {
    // Most are where the one before them ends.
    if let Ok(Some(page)) = Page::at(source, at) {
        return Ok(Some(page));
    }
    let mut buffer = vec![0; LONGEST_PAGE + PAGE_HEADER];
    let bytes = source.read_at(at, &mut buffer)?;
    let offsets = bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    for offset in offsets.map(|(offset, _)| offset as u64).take(8).collect::<Vec<_>>() {
        if let Ok(Some(page)) = Page::at(source, at + offset) {
            return Ok(Some(page));
        }
    }
    Ok(None)
}

/// Reads the packets of one stream, one after another.
pub(super) struct Packets<'source, R> {
    source: &'source mut Source<R>,
    page: Page,
    /// How many of the page's segments were begun.
    begun: usize,
    /// The position of the next byte of the current segment, and how many of its bytes are left to read.
    next: u64,
    left: u8,
    /// Whether the packet continues after the current segment.
    goes_on: bool,
}

impl<'source, R: Read + Seek> Packets<'source, R> {
    /// The packets of the stream `serial`, whose first page is at `at`.
    pub(super) fn of(source: &'source mut Source<R>, serial: u32, at: u64) -> io::Result<Self> {
        let page = Page::at(source, at)?.filter(|page| page.serial == serial);
        let Some(page) = page else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let next = page.content();
        Ok(Self { source, page, begun: 0, next, left: 0, goes_on: true })
    }

    /// Where the page of the current packet ends. What fills up the packet does not count.
    pub(super) fn end_of_page(&mut self) -> u64 {
        // A packet that is damaged ends where it was read to.
        let _ = self.next_packet();
        self.page.end()
    }

    /// Goes to the beginning of the next packet.
    pub(super) fn next_packet(&mut self) -> io::Result<()> {
        while self.goes_on {
            self.next_segment()?;
        }
        self.next += u64::from(std::mem::take(&mut self.left));
        self.goes_on = true;
        self.source.seek(SeekFrom::Start(self.next))?;
        Ok(())
    }

    /// Goes to the next segment of this packet. Returns false if there is none.
    fn next_segment(&mut self) -> io::Result<bool> {
        self.next += u64::from(std::mem::take(&mut self.left));
        if !self.goes_on {
            return Ok(false);
        }
        while self.begun == self.page.segments {
            self.next_page()?;
        }
        self.left = self.page.lacing[self.begun];
        self.begun += 1;
        // A segment of less than 255 bytes, possibly empty, is the last one of its packet.
        self.goes_on = self.left == u8::MAX;
        Ok(true)
    }

    /// Goes to the stream's next page. Pages of other streams are passed over.
    fn next_page(&mut self) -> io::Result<()> {
        let mut at = self.page.end();
        loop {
            let Some(page) = Page::at(self.source, at)? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            at = page.end();
            if page.serial == self.page.serial {
                self.next = page.content();
                (self.page, self.begun) = (page, 0);
                return Ok(());
            }
        }
    }

    /// Passes over so many bytes of the packet, whole segments unread; returns how many there were.
    pub(super) fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let mut skipped = 0;
        while skipped < bytes {
            if self.left == 0 && !self.next_segment()? {
                break;
            }
            let here = u64::from(self.left).min(bytes - skipped);
            self.left -= u8::try_from(here).unwrap_or(self.left);
            self.next += here;
            skipped += here;
        }
        self.source.seek(SeekFrom::Start(self.next))?;
        Ok(skipped)
    }
}

impl<R: Read + Seek> Read for Packets<'_, R> {
    /// Reads up to the end of the packet.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if !self.next_segment()? {
                return Ok(0);
            }
        }
        self.source.seek(SeekFrom::Start(self.next))?;
        let length = buffer.len().min(self.left.into());
        let read = self.source.read(&mut buffer[..length])?;
        if read == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= u8::try_from(read).unwrap_or(self.left);
        self.next += read as u64;
        Ok(read)
    }
}
