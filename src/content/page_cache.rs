//! What a scan leaves in the kernel's page cache: what was there before.
//!
//! A scan reads a large library once, which would evict what people use.

use std::fs::File;
use std::io::IoSliceMut;

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

/// A file that is read once and was not in the page cache. It leaves the cache when this is dropped.
#[derive(Debug)]
pub(super) struct Passing<'a>(&'a File);

impl<'a> Passing<'a> {
    /// `None` if the middle of the file is in the page cache, or the kernel does not tell.
    pub(super) fn begin(file: &'a File, size: u64) -> Option<Self> {
        is_absent(file, size / 2).then_some(Self(file))
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        // Without it, the kernel evicts something else later.
        let _ = fadvise(self.0, 0, None, Advice::DontNeed);
    }
}

/// Whether reading there would have to wait for the disk.
fn is_absent(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let found = preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    found == Err(rustix::io::Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_the_page_cache_stays_there_and_nothing_else() {
        const SIZE: u64 = 1 << 20;
        // The folder of the build, because a folder for temporary files may be in memory.
        let path = std::env::current_exe().unwrap().with_extension("page_cache");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(Passing::begin(&file, SIZE).is_none());
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let passing = Passing::begin(&file, SIZE).expect("this filesystem does not tell what is in the page cache");
        std::io::copy(&mut &file, &mut std::io::sink()).unwrap();
        assert!(!is_absent(&file, 0));
        drop(passing);
        assert!(is_absent(&file, 0) && is_absent(&file, SIZE / 2));
    }
}
