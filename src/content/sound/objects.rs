//! Sound in ASF: one object among others.
//!
//! Format: Advanced Systems Format (ASF) Specification, revision 01.20.03, section 5.1.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use super::super::asf::{OBJECT_HEADER, guid};
use super::super::source::Source;

/// The object of ASF that has the packets of all streams.
const DATA: [u8; 16] = guid(0x75B2_2636, 0x668E, 0x11CF, 0xA6D9_00AA_0062_CE6C);

/// Bytes of that object before its first packet: its header, the id of the file, a count and two reserved bytes.
const BEFORE_PACKETS: u64 = OBJECT_HEADER + 16 + 8 + 2;

/// The most objects of an ASF file. Real ones have about three.
const MAX_OBJECTS: usize = 1024;

/// The packets in the data object.
pub(super) fn packets<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<Range<u64>>> {
    let mut at = 0_u64;
    for _ in 0..MAX_OBJECTS {
        if at.saturating_add(OBJECT_HEADER) > source.length() {
            break;
        }
        source.seek(SeekFrom::Start(at))?;
        let kind: [u8; 16] = source.array()?;
        let size = u64::from_le_bytes(source.array()?);
        let end = at.saturating_add(size);
        if kind == DATA {
            // A live recording does not know its size.
            let end = if size < BEFORE_PACKETS { source.length() } else { end.min(source.length()) };
            return Ok(Some(at + BEFORE_PACKETS..end));
        }
        if size < OBJECT_HEADER {
            break;
        }
        at = end;
    }
    Ok(None)
}
