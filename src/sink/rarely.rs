//! Saying a thing once and then rarely.

use std::time::{Duration, Instant};

/// How long a thing that was said is not said again.
const PAUSE: Duration = Duration::from_mins(1);

/// Something that lasts: it is said when it begins and then once a minute, with how long it has lasted.
#[derive(Debug, Default)]
pub(super) struct Rarely {
    lasting: Option<Lasting>,
}

#[derive(Debug)]
struct Lasting {
    since: Instant,
    said: Instant,
}

impl Rarely {
    /// It is so at `now`: how long already, where that is to be said.
    pub(super) fn again(&mut self, now: Instant) -> Option<Duration> {
        match &mut self.lasting {
            None => {
                self.lasting = Some(Lasting { since: now, said: now });
                Some(Duration::ZERO)
            }
            Some(lasting) if now.duration_since(lasting.said) >= PAUSE => {
                lasting.said = now;
                Some(now.duration_since(lasting.since))
            }
            Some(_) => None,
        }
    }

    /// It is over: how long it lasted, where it ever began.
    pub(super) fn over(&mut self, now: Instant) -> Option<Duration> {
        self.lasting.take().map(|lasting| now.duration_since(lasting.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_thing_is_said_at_once_and_then_once_a_minute() {
        let start = Instant::now();
        let mut rarely = Rarely::default();
        assert_eq!(rarely.over(start), None);
        let said: Vec<_> = (0..=130)
            .filter_map(|second| rarely.again(start + Duration::from_secs(second)))
            .map(|lasted| lasted.as_secs())
            .collect();
        assert_eq!(said, [0, 60, 120]);
        assert_eq!(rarely.over(start + Duration::from_secs(131)), Some(Duration::from_secs(131)));
        assert_eq!(rarely.again(start + Duration::from_secs(132)), Some(Duration::ZERO));
    }
}
