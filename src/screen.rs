//! Standard error as people see it: lines of the log, lines about events, and below them a progress bar.
//!
//! Only a terminal has a bar. Everything that is written to standard error while the bar is shown must go through the
//! [`Screen`], which clears the bar for that moment.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar while the total is known.
const WITH_TOTAL: &str = "[{bar:24}] {percent:>3} %  {wide_msg}";

/// The bar while it is not.
const WITHOUT_TOTAL: &str = "{spinner} {wide_msg}";

/// Standard error. Clones share it.
#[derive(Clone, Debug)]
pub struct Screen(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Screen {
    /// The standard error of this process.
    #[must_use]
    pub fn stderr() -> Self {
        Self(Arc::new(Shared { is_terminal: io::stderr().is_terminal(), bar: Mutex::default() }))
    }

    /// Whether it is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.0.is_terminal
    }

    /// Shows `done` of `total`, and a text, at the bottom. Does nothing if it is not a terminal.
    pub fn show_progress(&self, done: u64, total: Option<u64>, text: String) {
        if !self.0.is_terminal {
            return;
        }
        let mut bar = self.bar();
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::no_length();
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            bar
        });
        let template = if total.is_some() { WITH_TOTAL } else { WITHOUT_TOTAL };
        if bar.length() != total || bar.message().is_empty() {
            bar.set_style(ProgressStyle::with_template(template).expect("the templates are valid"));
            match total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
        }
        bar.set_message(text);
        bar.set_position(done);
    }

    /// Removes the progress bar, if there is one.
    pub fn clear_progress(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    /// Writes a line above the bar.
    pub fn print(&self, line: &str) {
        // Nobody may be reading.
        let _ = self.put(format!("{line}\n").as_bytes());
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let write = || io::stderr().write_all(bytes);
        match &*self.bar() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.0.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each call writes a whole line.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
