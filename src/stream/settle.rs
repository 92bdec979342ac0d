//! How long a path must be quiet before it is examined.

use std::time::Duration;

use crate::model::{Cause, FsEvent};

/// How long the key of a hint must be quiet before the hint goes on. Closures implement it.
pub trait QuietTime<T> {
    /// How long the key must be quiet after `hint`. With zero, the hint goes on at once.
    fn quiet(&self, hint: &T) -> Duration;
}

impl<T, F: Fn(&T) -> Duration> QuietTime<T> for F {
    fn quiet(&self, hint: &T) -> Duration {
        self(hint)
    }
}

/// The two times after which a file counts as settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// How long a path must have no new hints before it is examined.
    pub debounce: Duration,
    /// How long the size and the modification time of a file must stay the same if no close was seen. A look knows the
    /// file's age and applies this itself, so an old file does not wait.
    pub settle: Duration,
}

impl Settle {
    /// The shortest wait of a delete, so that a move is found as a move before that.
    pub const GONE: Duration = Duration::from_millis(250);
}

impl QuietTime<FsEvent> for Settle {
    fn quiet(&self, hint: &FsEvent) -> Duration {
        match hint.cause {
            // A renamed file is complete.
            Cause::Found | Cause::Renamed => Duration::ZERO,
            Cause::Closed | Cause::Created | Cause::Touched => self.debounce,
            // The hint for the new path of a move may itself be delayed, and renewed meanwhile.
            Cause::Gone => Self::GONE.max(self.debounce.saturating_mul(4)),
            Cause::Again(after) => after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;

    #[test]
    fn a_delete_waits_longer_than_any_hint_for_a_new_path() {
        for debounce in [0, 1, 50, 100, 5_000].map(Duration::from_millis) {
            let settle = Settle { debounce, settle: Duration::from_secs(2) };
            let quiet = |quiet| settle.quiet(&FsEvent::new("a.mp3".into(), quiet, Origin::Watch));
            for appearance in [Cause::Found, Cause::Renamed, Cause::Closed, Cause::Created, Cause::Touched] {
                assert!(quiet(appearance) < quiet(Cause::Gone), "{appearance:?} at {debounce:?}");
            }
            assert_eq!(quiet(Cause::Again(Duration::from_secs(7))), Duration::from_secs(7));
            assert_eq!((quiet(Cause::Found), quiet(Cause::Renamed)), (Duration::ZERO, Duration::ZERO));
        }
    }
}
