//! Gives back the memory of busy times while there is nothing to do.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Service;

/// How long there must have been nothing to look at before memory is given back.
pub(super) const QUIET: Duration = Duration::from_secs(10);

impl Service {
    /// Gives memory back each time the work ends. Never returns.
    pub(super) async fn rest(&self) -> Infallible {
        let (mut looks, mut is_resting) = (0, false);
        loop {
            tokio::time::sleep(QUIET).await;
            let before = std::mem::replace(&mut looks, self.counters.looks.load(Ordering::Relaxed));
            let is_quiet = before == looks;
            if is_quiet && !is_resting {
                self.store.shrink();
                self.chain.pace.shrink();
            }
            is_resting = is_quiet;
        }
    }
}
