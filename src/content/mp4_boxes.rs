//! The boxes of MP4.
//!
//! Format: ISO/IEC 14496-12, section 4.2.

use std::io::{self, Read, Seek, SeekFrom};

use super::source::Source;

/// A box: its type, and the positions of its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) kind: [u8; 4],
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Part {
    /// The whole file.
    pub(super) fn file<R: Read + Seek>(source: &Source<R>) -> Self {
        Self { kind: [0; 4], start: 0, end: source.length() }
    }

    /// The first box of this type in this one.
    pub(super) fn child<R: Read + Seek>(self, source: &mut Source<R>, kind: [u8; 4]) -> io::Result<Option<Self>> {
        let mut found = None;
        self.each(source, |part| {
            found = (part.kind == kind).then_some(part);
            found.is_none()
        })?;
        Ok(found)
    }

    /// The box at the end of a path of types, the first one of each.
    pub(super) fn descendant<R: Read + Seek>(
        self,
        source: &mut Source<R>,
        path: &[[u8; 4]],
    ) -> io::Result<Option<Self>> {
        let mut part = self;
        for &kind in path {
            match part.child(source, kind)? {
                Some(child) => part = child,
                None => return Ok(None),
            }
        }
        Ok(Some(part))
    }

    /// All boxes of this type in this one.
    pub(super) fn children<R: Read + Seek>(self, source: &mut Source<R>, kind: [u8; 4]) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        self.each(source, |part| {
            if part.kind == kind {
                found.push(part);
            }
            true
        })?;
        Ok(found)
    }

    /// This box without its first bytes.
    pub(super) fn behind(self, bytes: u64) -> Self {
        Self { start: self.start.saturating_add(bytes).min(self.end), ..self }
    }

    pub(super) fn length(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// The first bytes of the content, or fewer if it has fewer.
    pub(super) fn head<'buffer, R: Read + Seek>(
        self,
        source: &mut Source<R>,
        buffer: &'buffer mut [u8],
    ) -> io::Result<&'buffer [u8]> {
        let length = usize::try_from(self.length()).unwrap_or(usize::MAX).min(buffer.len());
        Ok(source.read_at(self.start, &mut buffer[..length])?)
    }

    /// Calls `visit` with each box in this one, until it returns false.
    pub(super) fn each<R: Read + Seek>(
        self,
        source: &mut Source<R>,
        mut visit: impl FnMut(Self) -> bool,
    ) -> io::Result<()> {
        let mut at = self.start;
        while self.end.saturating_sub(at) >= 8 {
            source.visit()?;
            source.seek(SeekFrom::Start(at))?;
            let size = u32::from_be_bytes(source.array()?);
            let kind = source.array()?;
            let (header, size) = match size {
                0 => (8, self.end - at),
                1 => (16, u64::from_be_bytes(source.array()?)),
                size => (8, size.into()),
            };
            if size < header {
                break;
            }
            let end = at.saturating_add(size).min(self.end);
            if !visit(Self { kind, start: (at + header).min(end), end }) {
                break;
            }
            at = end;
        }
        Ok(())
    }
}
