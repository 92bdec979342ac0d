//! The reader that parsers get: buffered, cheap to seek in, and limited in how much it reads.
//!
//! Parsers seek a lot, mostly by a few bytes, and ask for the length again and again. Here a seek
//! within the buffer keeps the buffer, and the length is read once.
//!
//! A file can be made so that its tags cost much time. So no more than a budget is ever spent on one file: of bytes that
//! are read, of parts that are visited, and of bytes of text that are decoded.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::model::Metadata;

/// Bytes that the parsers of one file may read. Tags without their pictures are far smaller, so a
/// file that needs more is corrupt.
pub(super) const BYTES: u64 = 48 * 1024 * 1024;

/// Frames, boxes, chunks, pages and other parts that the parsers of one file may visit.
pub(super) const PARTS: u32 = 200_000;

/// Bytes of text that the parsers of one file may decode.
pub(super) const TEXT: u64 = 4 * 1024 * 1024;

/// Bytes of a text that are decoded: more than it may have in messages, in the widest encoding.
pub(super) const LONGEST_TEXT: u64 = 2 * Metadata::LONGEST_TEXT as u64 + 1024;

/// Bytes per read. Parsers go to many places and read little at each, so most of a longer read would be in vain.
const BUFFER: usize = 4 * 1024;

/// A file for the parsers.
#[derive(Debug)]
pub(super) struct Source<R> {
    inner: BufReader<Metered<R>>,
    position: u64,
    length: u64,
    /// What is left of [`PARTS`].
    parts_left: u32,
    /// What is left of [`TEXT`].
    text_left: u64,
}

impl<R: Read + Seek> Source<R> {
    /// Reads the whole of `inner`, from its beginning.
    pub(super) fn new(mut inner: R) -> io::Result<Self> {
        let length = inner.seek(SeekFrom::End(0))?;
        inner.rewind()?;
        let metered = Metered { inner, left: BYTES };
        let inner = BufReader::with_capacity(BUFFER, metered);
        Ok(Self { inner, position: 0, length, parts_left: PARTS, text_left: TEXT })
    }

    /// The length of the file in bytes, from its beginning on.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Makes `begin` the beginning of the file: all positions count from there.
    pub(super) fn begin_at(&mut self, begin: u64) -> io::Result<()> {
        self.seek(SeekFrom::Start(begin))?;
        (self.position, self.length) = (0, self.length.saturating_sub(begin));
        Ok(())
    }

    /// From now on, at most `bytes` are read.
    pub(super) fn limit(&mut self, bytes: u64) {
        let left = &mut self.inner.get_mut().left;
        *left = bytes.min(*left);
    }

    /// Counts a part of the file that is visited.
    ///
    /// # Errors
    ///
    /// If there were too many of them.
    pub(super) fn visit(&mut self) -> io::Result<()> {
        let left = self.parts_left.checked_sub(1).ok_or_else(|| io::Error::other("it has too many parts"))?;
        self.parts_left = left;
        Ok(())
    }

    /// Counts bytes of text that are decoded.
    ///
    /// # Errors
    ///
    /// If there were too many of them.
    pub(super) fn decode(&mut self, bytes: u64) -> io::Result<()> {
        let left = self.text_left.checked_sub(bytes).ok_or_else(|| io::Error::other("it has too much text"))?;
        self.text_left = left;
        Ok(())
    }

    /// Reads the text of `length` bytes at the present position: at most so many of them as a text in messages can need.
    pub(super) fn text(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let kept = length.min(LONGEST_TEXT);
        self.decode(kept)?;
        let mut text = Vec::new();
        self.by_ref().take(kept).read_to_end(&mut text)?;
        Ok(text)
    }

    /// Fills `buffer` from `position`, or as much of it as the file has bytes for.
    pub(super) fn read_at<'buffer>(
        &mut self,
        position: u64,
        buffer: &'buffer mut [u8],
    ) -> io::Result<&'buffer mut [u8]> {
        self.seek(SeekFrom::Start(position))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&mut buffer[..filled])
    }

    /// Reads exactly `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
        self.inner.consume(amount);
    }
}

impl<R: Read + Seek> Seek for Source<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let target = target.filter(|&position| i64::try_from(position).is_ok());
        let Some(target) = target else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too short, or a size in it is impossible"));
        };
        self.inner.seek_relative(target.wrapping_sub(self.position).cast_signed())?;
        self.position = target;
        Ok(target)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position)
    }
}

/// Fails once the budget is used up.
#[derive(Debug)]
struct Metered<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other("nothing that makes sense was found in a reasonable time"));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    #[derive(Clone, Debug)]
    enum Step {
        Seek(SeekFrom),
        Read(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..50_000_u64).prop_map(|position| Step::Seek(SeekFrom::Start(position))),
            (-50_000..5000_i64).prop_map(|offset| Step::Seek(SeekFrom::End(offset))),
            (-300..300_i64).prop_map(|offset| Step::Seek(SeekFrom::Current(offset))),
            any::<i64>().prop_map(|offset| Step::Seek(SeekFrom::Current(offset))),
            (0..5000_usize).prop_map(Step::Read),
        ]
    }

    proptest! {
        #[test]
        fn a_source_reads_what_the_file_holds(steps in prop::collection::vec(step(), 0..40)) {
            let bytes: Vec<u8> = (0..40_000_u32).map(|number| number.to_le_bytes()[number as usize % 2]).collect();
            let (mut source, mut model) = (Source::new(Cursor::new(&bytes)).unwrap(), Cursor::new(&bytes));
            for step in steps {
                match step {
                    Step::Seek(to) => {
                        let before = model.position();
                        match (source.seek(to), model.seek(to)) {
                            (Ok(at), Ok(expected)) => prop_assert_eq!(at, expected),
                            (Err(_), Err(_)) => {}
                            // Further than a file can reach.
                            (Err(_), Ok(_)) => model.set_position(before),
                            (Ok(at), Err(_)) => prop_assert!(false, "{at}"),
                        }
                    }
                    Step::Read(size) => {
                        let (mut found, mut expected) = (Vec::new(), Vec::new());
                        source.by_ref().take(size as u64).read_to_end(&mut found).unwrap();
                        model.by_ref().take(size as u64).read_to_end(&mut expected).unwrap();
                        prop_assert_eq!(found, expected);
                    }
                }
                prop_assert_eq!(source.stream_position().unwrap(), model.position());
            }
        }
    }

    #[test]
    fn a_source_ends_when_its_budget_is_used_up() {
        let mut source = Source::new(Cursor::new(vec![0; 1000])).unwrap();
        let mut rounds = 0_u64;
        while source.rewind().and_then(|()| source.seek(SeekFrom::Start(20_000))).is_ok()
            && source.read_at(0, &mut [0; 1000]).is_ok()
        {
            rounds += 1;
        }
        assert_eq!(rounds, BYTES / 1000);
    }

    #[test]
    fn a_source_ends_after_too_many_parts_and_too_much_text() {
        let mut source = Source::new(Cursor::new(vec![0; 1000])).unwrap();
        assert_eq!((0..PARTS * 2).take_while(|_| source.visit().is_ok()).count(), PARTS as usize);
        let texts = (0..TEXT).take_while(|_| source.rewind().is_ok() && source.text(1000).is_ok()).count();
        assert_eq!(texts as u64, TEXT / 1000);
    }

    #[test]
    fn a_source_may_be_limited_further() {
        let mut source = Source::new(Cursor::new(vec![0; 100_000])).unwrap();
        source.limit(10_000);
        assert!(io::copy(&mut source, &mut io::sink()).is_err());
    }

    #[test]
    fn positions_count_from_the_beginning_that_was_set() {
        let mut source = Source::new(Cursor::new(b"tagsound".repeat(9))).unwrap();
        source.begin_at(3).unwrap();
        assert_eq!(source.length(), 69);
        assert_eq!(source.read_at(0, &mut [0; 5]).unwrap(), b"sound");
        assert_eq!(source.read_at(8, &mut [0; 5]).unwrap(), b"sound");
    }
}
