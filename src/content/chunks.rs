//! The chunks of RIFF and of AIFF: four letters, a size, and so many bytes.

use std::io::{self, Read, Seek, SeekFrom};

use super::source::Source;

/// Bytes in front of a chunk's content.
const HEADER: u64 = 8;

/// The order of the bytes of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    LittleEndian,
    BigEndian,
}

impl Order {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::LittleEndian => u16::from_le_bytes(bytes),
            Self::BigEndian => u16::from_be_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::LittleEndian => u32::from_le_bytes(bytes),
            Self::BigEndian => u32::from_be_bytes(bytes),
        }
    }
}

/// The chunks of a file, one after the other.
pub(super) struct Chunks {
    order: Order,
    /// Where the next one begins.
    at: u64,
}

impl Chunks {
    /// Those from the position `first` on.
    pub(super) fn new(order: Order, first: u64) -> Self {
        Self { order, at: first }
    }

    /// The next chunk, and goes to its content; `None` behind the last one.
    pub(super) fn next<R: Read + Seek>(&mut self, source: &mut Source<R>) -> io::Result<Option<Chunk>> {
        let chunk = Chunk::at(source, self.at, source.length(), self.order)?;
        if let Some(chunk) = &chunk {
            self.at = chunk.next;
        }
        Ok(chunk)
    }

    /// The next chunk is behind `end`.
    pub(super) fn pass(&mut self, end: u64) {
        self.at = end.next_multiple_of(2);
    }
}

/// A chunk, by its positions in the file.
pub(super) struct Chunk {
    pub(super) kind: [u8; 4],
    pub(super) content: u64,
    /// The size that the header says.
    pub(super) size: u64,
    /// Where the content ends, within what surrounds it.
    pub(super) end: u64,
    /// Chunks begin at even positions.
    pub(super) next: u64,
}

impl Chunk {
    /// The chunk at this position, and goes to its content; `None` behind the last one.
    pub(super) fn at<R: Read + Seek>(
        source: &mut Source<R>,
        at: u64,
        end: u64,
        order: Order,
    ) -> io::Result<Option<Self>> {
        if at.saturating_add(HEADER) > end {
            return Ok(None);
        }
        source.visit()?;
        source.seek(SeekFrom::Start(at))?;
        let kind = source.array()?;
        let size = u64::from(order.u32(source.array()?));
        let content = at + HEADER;
        let next = content + size.next_multiple_of(2);
        Ok(Some(Self { kind, content, size, end: (content + size).min(end), next }))
    }

    /// Whether its name is of characters that names have.
    pub(super) fn has_name(&self) -> bool {
        self.kind.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b' ' || *byte == b'_')
    }
}
