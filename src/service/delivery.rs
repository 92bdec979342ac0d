//! From the outbox to the sink, each batch forgotten once it is delivered. What can never be delivered is parked.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;

use super::{LONGEST_WAIT, Service, ServiceError, retry_waits};
use crate::message;
use crate::model::{Outgoing, Refused};
use crate::sink::{Deliver, DeliveryStatus, Sink};
use crate::store::StoreError;

impl Service {
    /// Sends the outbox to `sink`, for as long as that takes batches.
    ///
    /// Delivery needs no room on the disk, and so does not wait for any: what cannot be forgotten at once is
    /// forgotten later. Were the process to end before that, it would only be delivered again.
    pub(super) async fn deliver(&self, sink: &mut Sink) -> Result<(), ServiceError> {
        let late = &Late::default();
        let follow_parked = self.follow_parked(sink.status());
        let forgetting = futures::sink::unfold(sink, |sink: &mut Sink, batch: Vec<Outgoing>| async move {
            let sequences: Vec<u64> = batch.iter().map(|message| message.sequence).collect();
            let (fitting, too_large) = split(batch);
            let mut refused = sink.deliver(&fitting).await?;
            refused.extend(too_large.iter().map(refused_for_size));
            for message in fitting.iter().chain(&too_large) {
                say_if_refused(message, &refused);
            }
            if let Some(last) = sequences.iter().max().copied() {
                late.note(last, self.to_be_tried_again(self.store.settle(sequences, refused)).await);
            }
            Ok::<_, ServiceError>(sink)
        });
        let outbox = futures::TryStreamExt::map_err(self.store.outbox(), ServiceError::from);
        let forgetting = pin!(forgetting);
        tokio::select! {
            done = crate::pipeline::deliver(outbox, self.settings.batch_size, forgetting) => done,
            never = self.forget_late(late) => match never {},
            never = follow_parked => match never {},
        }
    }

    /// Tells the status how many messages are parked, for ever, and the log if there are any from before.
    async fn follow_parked(&self, status: Option<Arc<DeliveryStatus>>) -> Infallible {
        let mut parked = self.store.parked_length();
        let messages = *parked.borrow_and_update();
        if messages > 0 {
            tracing::warn!(messages, "messages are parked; `file-watcher parked` lists, retries and drops them");
        }
        loop {
            if let Some(status) = &status {
                status.set_parked(*parked.borrow_and_update());
            }
            if parked.changed().await.is_err() {
                return std::future::pending().await;
            }
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

/// The messages as they may be sent, and those that are larger than a message may be, also without their metadata: an
/// outbox of an older version has such, and so do paths that are absurdly long.
fn split(batch: Vec<Outgoing>) -> (Vec<Outgoing>, Vec<Outgoing>) {
    let reduced = |message: Outgoing| {
        if message.is_too_large() { message::without_metadata(&message).unwrap_or(message) } else { message }
    };
    batch.into_iter().map(reduced).partition(|message| !message.is_too_large())
}

fn refused_for_size(message: &Outgoing) -> Refused {
    let reason = format!(
        "it has {} bytes without its metadata, and a message may have {}: its path is too long",
        message.body.len(),
        Outgoing::LONGEST_BODY
    );
    Refused { sequence: message.sequence, reason }
}

fn say_if_refused(message: &Outgoing, refused: &[Refused]) {
    if let Some(Refused { sequence, reason }) = refused.iter().find(|refused| refused.sequence == message.sequence) {
        tracing::error!(
            path = message::file_path(message),
            event_type = message.event_type,
            sequence,
            reason,
            "this message cannot be delivered and is parked, those behind it go on; see `file-watcher parked`"
        );
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

    fn message(sequence: u64, path: usize, title: usize) -> Outgoing {
        let metadata = serde_json::json!({"tags": {"title": "t".repeat(title)}});
        let body = serde_json::json!({"file_path": "p".repeat(path), "metadata": metadata, "sequence": sequence});
        Outgoing {
            sequence,
            event_type: "created".to_owned(),
            correlation_id: sequence.to_string(),
            timestamp: 0,
            body: body.to_string().into_bytes(),
        }
    }

    #[test]
    fn what_is_too_large_goes_without_its_metadata_or_not_at_all() {
        let (ordinary, large_tag, long_path) = (message(1, 9, 9), message(2, 9, 300_000), message(3, 300_000, 9));
        let (fitting, too_large) = split(vec![ordinary.clone(), large_tag, long_path]);
        assert_eq!(fitting[0], ordinary);
        assert_eq!((fitting.len(), fitting[1].sequence, fitting[1].is_too_large()), (2, 2, false));
        assert_eq!((too_large.len(), too_large[0].sequence), (1, 3));
        assert!(refused_for_size(&too_large[0]).reason.contains("a message may have 262144"));
    }

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
