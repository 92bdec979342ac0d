//! The brake on mass deletes: a library that is suddenly empty is more likely unmounted than deleted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Deletes that are never held, however large a share of the library they are.
const NEVER_HELD: u64 = 10;

/// Holds deletes that a walk inferred when they are too many to be believed. Clones share its state.
#[derive(Clone, Debug)]
pub struct Brake {
    percent: u8,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    approved: bool,
    /// Approved deletes that one walk could not remember all of: as many may follow with the next.
    to_follow: u64,
}

/// What the brake says of some deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They may be told.
    Pass,
    /// They are held, and were not before.
    NewlyHeld,
    /// They are still held.
    StillHeld,
}

impl Brake {
    /// A brake that holds more than `percent` of the index at once.
    pub fn new(percent: u8) -> Self {
        Self { percent, state: Arc::default() }
    }

    /// Whether `gone` of `indexed` files, missing in a walk of everything, may be called deleted; of them
    /// `left_over` are left to the next walk.
    pub fn judge(&self, gone: u64, left_over: u64, indexed: u64) -> Verdict {
        let mut state = self.state();
        let too_many = gone > NEVER_HELD && gone.saturating_mul(100) > indexed.saturating_mul(u64::from(self.percent));
        // Approved is what this walk found, not what some later one may find.
        let approved = std::mem::take(&mut state.approved) | (gone <= std::mem::take(&mut state.to_follow));
        if !too_many || approved {
            state.held = 0;
            state.to_follow = if too_many { left_over } else { 0 };
            return Verdict::Pass;
        }
        let before = std::mem::replace(&mut state.held, gone);
        if before == 0 { Verdict::NewlyHeld } else { Verdict::StillHeld }
    }

    /// Lets the deletes that the next walk finds pass, however many they are.
    pub fn approve(&self) {
        self.state().approved = true;
    }

    /// How many deletes are held.
    pub fn held(&self) -> u64 {
        self.state().held
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_share_and_more_than_ten_are_held_until_approved_or_back() {
        let brake = Brake::new(50);
        assert_eq!(brake.judge(10, 0, 10), Verdict::Pass);
        assert_eq!(brake.judge(50, 0, 100), Verdict::Pass);
        assert_eq!(brake.judge(51, 0, 100), Verdict::NewlyHeld);
        assert_eq!((brake.judge(51, 0, 100), brake.held()), (Verdict::StillHeld, 51));
        assert_eq!((brake.judge(0, 0, 100), brake.held()), (Verdict::Pass, 0));
        assert_eq!(brake.judge(100, 0, 100), Verdict::NewlyHeld);
        brake.approve();
        assert_eq!(brake.judge(100, 0, 100), Verdict::Pass);
        brake.approve();
        assert_eq!(brake.judge(0, 0, 100), Verdict::Pass);
        assert_eq!(brake.judge(100, 0, 100), Verdict::NewlyHeld);
    }

    #[test]
    fn what_was_approved_is_approved_to_its_end_however_many_walks_that_takes() {
        let brake = Brake::new(50);
        assert_eq!(brake.judge(250, 150, 300), Verdict::NewlyHeld);
        brake.approve();
        assert_eq!(brake.judge(250, 150, 300), Verdict::Pass);
        assert_eq!(brake.judge(150, 50, 200), Verdict::Pass);
        assert_eq!(brake.judge(50, 0, 100), Verdict::Pass);
        // And not a file more.
        assert_eq!(brake.judge(90, 0, 100), Verdict::NewlyHeld);
        brake.approve();
        assert_eq!(brake.judge(250, 150, 300), Verdict::Pass);
        assert_eq!(brake.judge(151, 50, 200), Verdict::NewlyHeld);
    }
}
