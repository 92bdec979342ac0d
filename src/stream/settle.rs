//! How long a path must be left alone before a look at it can be trusted.

use std::time::Duration;

use crate::model::{FsEvent, Quiet};

/// How long the key of a hint must be left alone before the hint goes on; a closure can say it too.
pub trait QuietTime<T> {
    /// How long it must be quiet after `hint`; zero lets the hint go straight on.
    fn quiet(&self, hint: &T) -> Duration;
}

impl<T, F: Fn(&T) -> Duration> QuietTime<T> for F {
    fn quiet(&self, hint: &T) -> Duration {
        self(hint)
    }
}

/// The two times after which a file counts as finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// How long a path must be free of new hints before it is looked at.
    pub debounce: Duration,
    /// How long size and modification time of a file that nobody closed must stay as they are. A look
    /// knows the file's age and applies this itself, so that a file that is old already need not wait.
    pub settle: Duration,
}

impl Settle {
    /// File times advance with the kernel's tick, 1 to 10 ms: a look within the tick of the rename could
    /// not tell by them a change right after it. Nothing else is worth waiting for: the file is complete.
    pub const RENAMED: Duration = Duration::from_millis(20);

    /// The least that a deletion waits, so that a move is seen as a move before its delete.
    pub const GONE: Duration = Duration::from_millis(250);
}

impl QuietTime<FsEvent> for Settle {
    fn quiet(&self, hint: &FsEvent) -> Duration {
        match hint.quiet {
            Quiet::Found => Duration::ZERO,
            Quiet::Renamed => Self::RENAMED,
            Quiet::Closed | Quiet::Created | Quiet::Touched => self.debounce,
            // The other half of the move may itself be held back, and be hinted at again meanwhile.
            Quiet::Gone => Self::GONE.max(self.debounce.saturating_mul(4)),
            Quiet::Again(after) => after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;

    #[test]
    fn a_deletion_waits_longer_than_any_appearance() {
        for debounce in [0, 1, 50, 100, 5_000].map(Duration::from_millis) {
            let settle = Settle { debounce, settle: Duration::from_secs(2) };
            let quiet = |quiet| settle.quiet(&FsEvent::new("a.mp3".into(), quiet, Origin::Watch));
            for appearance in [Quiet::Found, Quiet::Renamed, Quiet::Closed, Quiet::Created, Quiet::Touched] {
                assert!(quiet(appearance) < quiet(Quiet::Gone), "{appearance:?} at {debounce:?}");
            }
            assert_eq!(quiet(Quiet::Again(Duration::from_secs(7))), Duration::from_secs(7));
            assert_eq!(quiet(Quiet::Found), Duration::ZERO);
        }
    }
}
