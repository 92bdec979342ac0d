//! Shows how far a scan is: as a bar on a terminal, and as lines in the log elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::Service;
use crate::library::FileCount;
use crate::model::Index as _;
use crate::screen::Screen;
use crate::status::{Progress, ScanProgress, scan_text};

/// How long after the first message of new work its progress is logged.
const FIRST_PROGRESS: Duration = Duration::from_secs(1);

/// How often the progress of work is logged after that.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait for a message, before looking whether there is a scan that finds nothing new.
const WITHOUT_MESSAGES: Duration = Duration::from_secs(9);

/// How often the bar is drawn.
const FRAME: Duration = Duration::from_millis(200);

/// How many frames there are between two measurements of the pace, so that it can be read.
const FRAMES_PER_PACE: u32 = 5;

/// How long a scan runs before its files are counted. A short scan needs no estimate.
const COUNTED_AFTER: Duration = Duration::from_secs(2);

/// How many files the scan that is going on will find.
struct Total<'a> {
    service: &'a Service,
    begun: Instant,
    /// The files of the index, unless it was created at this start.
    known: Option<u64>,
    count: Option<Arc<FileCount>>,
}

impl Total<'_> {
    fn of(service: &Service) -> Total<'_> {
        let known = if service.is_index_new { None } else { service.store.index().len().ok() };
        Total { service, begun: Instant::now(), known, count: None }
    }

    /// The total, if it is known by now. Counts the files of a new library beside its scan.
    fn now(&mut self) -> Option<u64> {
        if self.known.is_none() && self.count.is_none() && self.begun.elapsed() >= COUNTED_AFTER {
            let (count, root) = (Arc::new(FileCount::default()), Arc::clone(&self.service.root));
            self.count = Some(Arc::clone(&count));
            // It may block on a filesystem that does not answer, so it is no thread that anybody waits for.
            let _ = thread::Builder::new().name("count".into()).spawn(move || count.run(&root));
        }
        self.known.or_else(|| self.count.as_ref()?.total())
    }
}

impl Drop for Total<'_> {
    fn drop(&mut self) {
        if let Some(count) = &self.count {
            count.cancel();
        }
    }
}

/// Removes the bar when the work ends, however it ends.
struct Bar<'a>(&'a Screen);

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        self.0.clear_progress();
    }
}

impl Service {
    /// Shows the progress of the work. Never returns.
    pub(super) async fn show_progress(&self) -> Infallible {
        let mut total = Total::of(self);
        if self.screen.is_terminal() { self.draw(&mut total).await } else { self.log_progress(&mut total).await }
    }

    /// Draws a bar while the first scan runs.
    async fn draw(&self, total: &mut Total<'_>) -> Infallible {
        let bar = Bar(&self.screen);
        let mut progress = Progress::default();
        let (mut frame, mut pace) = (0, None);
        loop {
            tokio::time::sleep(FRAME).await;
            let scan = self.scan_progress(total).filter(|_| self.scanner.tally.last_scan().is_none());
            if frame % FRAMES_PER_PACE == 0 || scan.is_none() {
                pace = progress.pace(scan, Instant::now());
            }
            frame += 1;
            match scan.zip(pace) {
                Some((scan, pace)) => bar.0.show_progress(scan.files, scan.total, scan_text(scan, pace)),
                None => bar.0.clear_progress(),
            }
        }
    }

    /// Logs the progress soon after the work begins, then at a longer interval.
    async fn log_progress(&self, total: &mut Total<'_>) -> Infallible {
        let mut progress = Progress::after(self.observed.events.now());
        let mut committed = self.store.committed();
        tokio::time::sleep(FIRST_PROGRESS).await;
        loop {
            committed.mark_unchanged();
            let scan = self.scan_progress(total);
            if progress.log(self.observed.events.now(), scan, self.store.outbox_length(), Instant::now()) {
                tokio::time::sleep(PROGRESS_INTERVAL).await;
            } else {
                let _ = tokio::time::timeout(WITHOUT_MESSAGES, committed.changed()).await;
                tokio::time::sleep(FIRST_PROGRESS).await;
            }
        }
    }

    /// The files that the first scan is done with. It finds them some time before it has looked at them.
    pub(super) fn files_done(&self) -> u64 {
        let tally = &self.scanner.tally;
        let done = tally.unchanged.load(Ordering::Relaxed) + self.counters.looks.load(Ordering::Relaxed);
        done.min(tally.seen.load(Ordering::Relaxed))
    }

    /// How far the scan of everything is that is going on.
    fn scan_progress(&self, total: &mut Total<'_>) -> Option<ScanProgress> {
        self.inbox.engine().with(|engine| engine.is_walking_everything()).then(|| {
            let files = self.files_done();
            // A library that has grown since has more files than its index.
            let total = total.now().filter(|total| *total >= files);
            ScanProgress { files, total, bytes: self.examiner.contents.bytes_read() }
        })
    }
}
