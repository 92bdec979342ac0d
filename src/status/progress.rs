//! How far a scan is, in figures and in words.

use std::time::{Duration, Instant};

use super::EventCounts;

/// How far a scan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanProgress {
    /// The audio files that it is done with.
    pub files: u64,
    /// How many there are, if that is known; an estimate.
    pub total: Option<u64>,
    /// The bytes that were hashed so far.
    pub bytes: u64,
}

/// The speed of a scan, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Bytes that are hashed per second.
    pub bytes_per_second: f64,
    /// The time that is left, if the total is known.
    pub left: Option<Duration>,
}

/// Follows one scan after another, and the events that they and the watch cause.
#[derive(Debug, Default)]
pub struct Progress {
    events: EventCounts<u64>,
    /// When the scan that is going on was first seen, and its figures then.
    begun: Option<(Instant, ScanProgress)>,
    /// The same at the last report.
    last: Option<(Instant, ScanProgress)>,
}

impl Progress {
    /// Follows the events after these.
    pub fn after(events: EventCounts<u64>) -> Self {
        Self { events, ..Self::default() }
    }

    /// The pace of the scan that is going on, given its figures at `now`; `None` if none is.
    pub fn pace(&mut self, scan: Option<ScanProgress>, now: Instant) -> Option<Pace> {
        let Some(scan) = scan else {
            (self.begun, self.last) = (None, None);
            return None;
        };
        let (begun, first) = *self.begun.get_or_insert((now, scan));
        let (last, before) = self.last.replace((now, scan)).unwrap_or((begun, first));
        let seconds = (now - last).as_secs_f64();
        let bytes = scan.bytes.saturating_sub(before.bytes) as f64;
        let found = scan.files.saturating_sub(first.files);
        let left = scan
            .total
            .filter(|_| found > 0)
            .map(|total| (now - begun).mul_f64(total.saturating_sub(scan.files) as f64 / found as f64));
        Some(Pace { bytes_per_second: if seconds > 0.0 { bytes / seconds } else { 0.0 }, left })
    }

    /// Logs the events since the last call, and how far the scan is that is going on. Returns whether there was
    /// something to log. `waiting` is the number of messages in the outbox.
    pub fn log(&mut self, events: EventCounts<u64>, scan: Option<ScanProgress>, waiting: u64, now: Instant) -> bool {
        let pace = self.pace(scan, now);
        let before = std::mem::replace(&mut self.events, events);
        if before == events && scan.is_none() {
            return false;
        }
        tracing::info!(
            created = events.created - before.created,
            modified = events.modified - before.modified,
            deleted = events.deleted - before.deleted,
            moved = events.moved - before.moved + events.renamed - before.renamed,
            done = scan.map(|scan| scan.files),
            of_about = scan.and_then(|scan| scan.total),
            hashed = scan.map(|scan| human_bytes(scan.bytes as f64)),
            rate = pace
                .filter(|pace| pace.bytes_per_second > 0.0)
                .map(|pace| format!("{}/s", human_bytes(pace.bytes_per_second))),
            left = pace.and_then(|pace| pace.left).map(duration_text_of),
            waiting,
            "indexed"
        );
        true
    }
}

/// One line about a scan: `1200 of about 5000 files, 1.6 GB, 310.0 MB/s, 0:42 left`.
pub fn scan_text(scan: ScanProgress, pace: Pace) -> String {
    let of = scan.total.map(|total| format!(" of about {total}")).unwrap_or_default();
    let left = pace.left.map(|left| format!(", {} left", duration_text_of(left))).unwrap_or_default();
    let (bytes, rate) = (human_bytes(scan.bytes as f64), human_bytes(pace.bytes_per_second));
    format!("{}{of} files, {bytes}, {rate}/s{left}", scan.files)
}

fn duration_text_of(duration: Duration) -> String {
    duration_text(duration.as_secs_f64())
}

/// A number of bytes with a decimal unit, such as `1.6 MB`.
pub fn human_bytes(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A playing time, such as `3:04` or `1:02:03`.
pub fn duration_text(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.round()).unwrap_or_default().as_secs();
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A sample rate in hertz, such as `44.1 kHz`.
pub fn kilohertz(hertz: f64) -> String {
    format!("{} kHz", hertz / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_shown_with_its_pace_and_the_time_that_is_left() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let scan = |files, bytes| Some(ScanProgress { files, total: Some(1000), bytes });
        let mut progress = Progress::default();
        assert_eq!(progress.pace(scan(0, 0), at(0)), Some(Pace { bytes_per_second: 0.0, left: None }));
        let pace = progress.pace(scan(250, 4_000_000), at(2)).unwrap();
        assert_eq!(pace, Pace { bytes_per_second: 2e6, left: Some(Duration::from_secs(6)) });
        assert_eq!(
            scan_text(scan(250, 4_000_000).unwrap(), pace),
            "250 of about 1000 files, 4.0 MB, 2.0 MB/s, 0:06 left"
        );
        let pace = progress.pace(scan(1200, 4_000_000), at(3)).unwrap();
        assert_eq!(pace, Pace { bytes_per_second: 0.0, left: Some(Duration::ZERO) }, "the total was too low");
        assert_eq!(progress.pace(None, at(4)), None);
        assert_eq!(progress.pace(scan(5, 5), at(5)).unwrap().left, None, "another scan");
    }

    #[test]
    fn without_a_scan_only_new_events_are_logged() {
        let mut progress = Progress::default();
        let events = EventCounts { created: 1, ..EventCounts::default() };
        assert!(progress.log(events, None, 0, Instant::now()) && !progress.log(events, None, 0, Instant::now()));
        assert!(progress.log(events, Some(ScanProgress::default()), 0, Instant::now()));
    }

    #[test]
    fn playing_times_are_shown_as_players_do() {
        assert_eq!(
            [0.4, 59.6, 184.0, 3723.2, f64::MAX].map(duration_text),
            ["0:00", "1:00", "3:04", "1:02:03", "0:00"]
        );
    }

    #[test]
    fn bytes_are_shown_with_a_fitting_unit() {
        assert_eq!(human_bytes(0.0), "0 B");
        assert_eq!(human_bytes(999.0), "999 B");
        assert_eq!(human_bytes(1_550_000.0), "1.6 MB");
        assert_eq!(human_bytes(5e15), "5000.0 TB");
    }
}
