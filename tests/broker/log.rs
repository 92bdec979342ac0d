//! What each thread of the tests logs.
//!
//! One subscriber for the whole process, there before anything is logged. With a subscriber for one thread, the first
//! thread to reach a log statement decides for all threads whether it is of interest, and a thread without a subscriber
//! says no.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

static STARTED: Once = Once::new();

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to the log of the thread that calls it.
struct ThisThread;

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs from now on. Returns once it does, whoever called it first.
pub(crate) fn start() {
    STARTED.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| ThisThread).init());
}

/// What this thread has logged.
pub(crate) fn of_this_thread() -> String {
    LOGGED.with_borrow(|logged| String::from_utf8(logged.clone()).unwrap())
}
