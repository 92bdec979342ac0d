//! Logs the progress of the work from time to time.

use super::EventCounts;

/// Logs what was committed since it last did so.
#[derive(Debug, Default)]
pub struct Progress {
    events: EventCounts<u64>,
}

impl Progress {
    /// Logs the number of new events since the last call, if there are any; returns whether there are.
    ///
    /// `seen` is the number of files found so far, `bytes` the number of bytes read so far, and `waiting` the number of
    /// messages in the outbox.
    pub fn log(&mut self, events: EventCounts<u64>, seen: u64, bytes: u64, waiting: u64) -> bool {
        let before = std::mem::replace(&mut self.events, events);
        if before == events {
            return false;
        }
        tracing::info!(
            created = events.created - before.created,
            modified = events.modified - before.modified,
            deleted = events.deleted - before.deleted,
            moved = events.moved - before.moved + events.renamed - before.renamed,
            seen,
            hashed = human_bytes(bytes as f64),
            waiting,
            "indexed"
        );
        true
    }
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

#[cfg(test)]
mod tests {
    use super::human_bytes;

    #[test]
    fn bytes_are_shown_with_a_fitting_unit() {
        assert_eq!(human_bytes(0.0), "0 B");
        assert_eq!(human_bytes(999.0), "999 B");
        assert_eq!(human_bytes(1_550_000.0), "1.6 MB");
        assert_eq!(human_bytes(5e15), "5000.0 TB");
    }
}
