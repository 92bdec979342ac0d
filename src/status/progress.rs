//! Says now and then how far the work has come: seldom enough to read.

use super::EventCounts;

/// What was said last, so that only news is said.
#[derive(Debug, Default)]
pub struct Progress {
    events: EventCounts<u64>,
}

impl Progress {
    /// Logs what has come since the last call, if anything has; says whether it had.
    pub fn say(&mut self, events: EventCounts<u64>, seen: u64, bytes: u64, waiting: u64) -> bool {
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

/// A number of bytes as people say it.
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
    fn bytes_are_said_with_a_fitting_unit() {
        assert_eq!(human_bytes(0.0), "0 B");
        assert_eq!(human_bytes(999.0), "999 B");
        assert_eq!(human_bytes(1_550_000.0), "1.6 MB");
        assert_eq!(human_bytes(5e15), "5000.0 TB");
    }
}
