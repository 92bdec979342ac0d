//! The threads that look at files.
//!
//! They sleep while there is nothing to look at. Threads that look for work all the time, as those of a pool for
//! computations do, would take the processor from the programs that write the files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::rest::QUIET;
use crate::content::free_buffer;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that do work in the order in which it comes. They end, after the work that waits, when this is dropped.
#[derive(Debug)]
pub(super) struct Readers {
    work: Sender<Work>,
}

impl Readers {
    /// Starts as many threads as are useful. Other files in flight wait for a thread.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn start(max_concurrent_files: usize) -> io::Result<Self> {
        let (work, waiting) = crossbeam_channel::unbounded();
        for number in 0..useful_readers(max_concurrent_files) {
            let waiting = waiting.clone();
            thread::Builder::new().name(format!("reader {number}")).spawn(move || do_all(&waiting))?;
        }
        Ok(Self { work })
    }

    /// Has a thread do this. Whoever waits for its result notices a panic, because what it holds is dropped.
    pub(super) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        // The threads end only when this is dropped.
        let _ = self.work.send(Box::new(work));
    }
}

fn do_all(waiting: &Receiver<Work>) {
    while let Some(work) = next_work(waiting) {
        // The panic is logged by its hook.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

fn next_work(waiting: &Receiver<Work>) -> Option<Work> {
    match waiting.recv_timeout(QUIET) {
        Err(RecvTimeoutError::Timeout) => {
            free_buffer();
            waiting.recv().ok()
        }
        work => work.ok(),
    }
}

/// How many threads keep the processors and the disk busy, without contention.
pub(super) fn useful_readers(max_concurrent_files: usize) -> usize {
    thread::available_parallelism().map_or(8, |cores| useful_for(cores.get())).min(max_concurrent_files)
}

/// The number of reader threads. Each has a buffer and a connection to the index, so their number is limited: four per
/// processor, because they mostly wait for the disk, but no more than 32 unless there are more processors than that.
fn useful_for(cores: usize) -> usize {
    (cores * 4).min(cores.max(32))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_threads_survive_a_panic_and_end_after_the_work_that_waits() {
        let readers = Readers::start(2).unwrap();
        let (done, results) = mpsc::channel();
        for number in 0..100 {
            let done = done.clone();
            readers.spawn(move || {
                assert!(number % 10 > 0, "a bug in a reader");
                done.send(number).unwrap();
            });
        }
        drop((readers, done));
        assert_eq!(results.iter().count(), 90);
    }

    #[test]
    fn there_is_a_limited_number_of_threads() {
        assert_eq!([1, 2, 8, 16, 64].map(useful_for), [4, 8, 32, 32, 64]);
    }
}
