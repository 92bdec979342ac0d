//! From the outbox to the sink, each batch forgotten once it is delivered.

use std::convert::Infallible;
use std::pin::pin;

use tokio::sync::watch;

use super::{LONGEST_WAIT, Service, ServiceError, retry_waits};
use crate::model::Outgoing;
use crate::sink::{Deliver, Sink};
use crate::store::StoreError;

impl Service {
    /// Sends the outbox to `sink`, for as long as that takes batches.
    ///
    /// Delivery needs no room on the disk, and so does not wait for any: what cannot be forgotten at once is
    /// forgotten later. Were the process to end before that, it would only be delivered again.
    pub(super) async fn deliver(&self, sink: &mut Sink) -> Result<(), ServiceError> {
        let late = &Late::default();
        let forgetting = futures::sink::unfold(sink, |sink: &mut Sink, batch: Vec<Outgoing>| async move {
            sink.deliver(&batch).await?;
            if let Some(last) = batch.last() {
                late.note(last.sequence, self.to_be_tried_again(self.store.forget(last.sequence)).await);
            }
            Ok::<_, ServiceError>(sink)
        });
        let outbox = futures::TryStreamExt::map_err(self.store.outbox(), ServiceError::from);
        let forgetting = pin!(forgetting);
        tokio::select! {
            done = crate::pipeline::deliver(outbox, self.settings.batch_size, forgetting) => done,
            never = self.forget_late(late) => match never {},
        }
    }

    /// Forgets what could not be forgotten at once, for ever.
    async fn forget_late(&self, late: &Late) -> Infallible {
        loop {
            let mut waits = retry_waits();
            late.wait().await;
            while let Some(sequence) = late.sequence() {
                tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
                late.note(sequence, self.to_be_tried_again(self.store.forget(sequence)).await);
            }
            tracing::info!("what was delivered is forgotten");
        }
    }
}

/// The last message that was delivered and could not be forgotten; none where all were.
#[derive(Debug)]
struct Late(watch::Sender<Option<u64>>);

impl Default for Late {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Late {
    /// Takes in how forgetting everything up to `sequence` went.
    fn note(&self, sequence: u64, outcome: Result<(), StoreError>) {
        self.0.send_if_modified(|late| {
            let was_late = late.is_some();
            match outcome {
                Ok(()) => *late = late.filter(|late| *late > sequence),
                Err(error) => {
                    if !was_late {
                        tracing::error!(%error, "what was delivered cannot be forgotten; that is tried again");
                    }
                    *late = (*late).max(Some(sequence));
                }
            }
            was_late != late.is_some()
        });
    }

    fn sequence(&self) -> Option<u64> {
        *self.0.borrow()
    }

    async fn wait(&self) {
        // The sender is here, so there is always one.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_late_until_it_or_something_later_is_forgotten() {
        let late = Late::default();
        let failed = || Err(StoreError::Stopped);
        late.note(1, Ok(()));
        assert_eq!(late.sequence(), None);
        late.note(5, failed());
        late.note(9, failed());
        late.note(5, failed());
        assert_eq!(late.sequence(), Some(9));
        late.note(5, Ok(()));
        assert_eq!(late.sequence(), Some(9));
        late.note(12, Ok(()));
        assert_eq!(late.sequence(), None);
    }
}
