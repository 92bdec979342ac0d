//! Sound in ranges of a file that are known before it is read.

use std::ops::Range;

/// The ranges, and how far the file was read.
#[derive(Debug)]
pub(super) struct Ranges {
    /// In order, without empty ones and without overlap. Those before the position are dropped when they are passed.
    ranges: std::vec::IntoIter<Range<u64>>,
    position: u64,
}

impl Ranges {
    /// These ranges, whatever their order is, which count from `begin` on. Bytes in several of them count once.
    pub(super) fn new(mut ranges: Vec<Range<u64>>, begin: u64) -> Self {
        for range in &mut ranges {
            *range = range.start.saturating_add(begin)..range.end.saturating_add(begin);
        }
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            match merged.last_mut().filter(|last| last.end >= range.start) {
                Some(last) => last.end = last.end.max(range.end),
                None => merged.push(range),
            }
        }
        Self { ranges: merged.into_iter(), position: 0 }
    }

    /// Calls `take` with each part of the next bytes of the file that is in a range, in order.
    pub(super) fn each_in(&mut self, chunk: &[u8], mut take: impl FnMut(&[u8])) {
        let (begin, end) = (self.position, self.position + chunk.len() as u64);
        self.position = end;
        let within = |at: u64| usize::try_from(at.clamp(begin, end) - begin).unwrap_or(chunk.len());
        while let Some(range) = self.ranges.as_slice().first().filter(|range| range.start < end) {
            take(&chunk[within(range.start)..within(range.end)]);
            if range.end > end {
                break;
            }
            self.ranges.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_bytes_in_the_ranges_come_in_order_whatever_the_chunks(
            ranges in prop::collection::vec((0..300_u64, 0..60_u64), 0..8), chunk in 1..300_usize,
        ) {
            let ranges: Vec<Range<u64>> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
            let bytes: Vec<u8> = (0..=255).collect();
            let in_range = |at: usize| ranges.iter().any(|range| range.contains(&(at as u64)));
            let expected: Vec<u8> = (0..bytes.len()).filter(|&at| in_range(at)).map(|at| bytes[at]).collect();
            let (mut taken, mut found) = (Ranges::new(ranges.clone(), 0), Vec::new());
            bytes.chunks(chunk).for_each(|chunk| taken.each_in(chunk, |part| found.extend_from_slice(part)));
            prop_assert_eq!(found, expected);
        }
    }
}
