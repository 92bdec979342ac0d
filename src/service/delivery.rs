//! Delivers the outbox to the sink. Delivered messages are removed from the outbox, refused ones are parked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{MAX_RETRY_WAIT, Service, ServiceError, retry_waits};
use crate::message::{self, TraceIds};
use crate::model::{Outgoing, Refused, with_causes};
use crate::sink::{Deliver, Sink};
use crate::store::StoreError;
use crate::traces::{Confirmed, Traces};

/// How often spans are sent.
const TRACES_INTERVAL: Duration = Duration::from_secs(1);

/// How long sending the last spans may take.
const LAST_TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// The same after a signal. The grace time may be over, and Docker kills the process two seconds after the default one.
const LAST_TRACES_AFTER_SIGNAL: Duration = Duration::from_millis(500);

impl Service {
    /// Delivers the outbox to `sink`, for as long as the sink takes batches.
    ///
    /// Delivery continues while the disk is full: messages that cannot be removed at once are removed later. If the
    /// process ends before that, they are delivered again.
    pub(super) async fn deliver(&self, sink: &mut Sink) -> Result<(), ServiceError> {
        let pending = &PendingRemoval::default();
        let delivering = futures::sink::unfold(sink, |sink: &mut Sink, batch: Vec<Outgoing>| async move {
            let sequences: Vec<u64> = batch.iter().map(|message| message.sequence).collect();
            let (fitting, too_large) = split(batch);
            let begun = Instant::now();
            let mut refused = sink.deliver(&fitting).await?;
            self.confirmed(&sequences, &fitting, begun);
            refused.extend(too_large.iter().map(refused_for_size));
            for message in fitting.iter().chain(&too_large) {
                log_if_refused(message, &refused);
            }
            if let Some(last) = sequences.iter().max().copied() {
                pending.record(last, self.or_wait_if_corrupt(self.store.settle(sequences, refused)).await);
            }
            Ok::<_, ServiceError>(sink)
        });
        let outbox = futures::TryStreamExt::map_err(self.store.outbox(), ServiceError::from);
        let delivering = pin!(delivering);
        tokio::select! {
            done = crate::pipeline::deliver(outbox, self.settings.batch_size, delivering) => done,
            never = self.remove_pending(pending) => match never {},
        }
    }

    /// Records how long a batch and its messages took.
    fn confirmed(&self, sequences: &[u64], messages: &[Outgoing], begun: Instant) {
        let now = Instant::now();
        self.observed.metrics.observe_confirm(now - begun);
        let last = sequences.last().copied().unwrap_or(0);
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner).confirmed(last, now);
        for (_, took) in &latencies {
            self.observed.observe_latency(*took);
        }
        if let Some(traces) = &self.traces {
            trace(traces, messages, &latencies, now - begun);
        }
    }

    /// Sends the spans of messages to the collector, if one is given. Never returns.
    pub(super) async fn send_traces(&self) -> Infallible {
        let Some(traces) = &self.traces else { return std::future::pending().await };
        loop {
            tokio::time::sleep(TRACES_INTERVAL).await;
            traces.send().await;
        }
    }

    /// Sends the last spans, within a short time.
    pub(super) async fn send_last_traces(&self, shutdown: &CancellationToken) {
        let limit = if shutdown.is_cancelled() { LAST_TRACES_AFTER_SIGNAL } else { LAST_TRACES_TIMEOUT };
        if let Some(traces) = &self.traces {
            let _ = tokio::time::timeout(limit, traces.send()).await;
        }
    }

    /// Removes delivered messages that could not be removed at once.
    async fn remove_pending(&self, pending: &PendingRemoval) -> Infallible {
        loop {
            let mut waits = retry_waits();
            pending.wait().await;
            while let Some(sequence) = pending.sequence() {
                tokio::time::sleep(waits.next().unwrap_or(MAX_RETRY_WAIT)).await;
                pending.record(sequence, self.or_wait_if_corrupt(self.store.remove_delivered(sequence)).await);
            }
            tracing::info!("delivered messages are removed from the outbox again");
        }
    }
}

/// Adds the spans of confirmed messages: from the first event of the kernel, if there was one, or else from publishing.
fn trace(traces: &Traces, messages: &[Outgoing], latencies: &[(u64, Duration)], publishing: Duration) {
    let confirmed = SystemTime::now();
    let latencies: HashMap<u64, Duration> = latencies.iter().copied().collect();
    for message in messages {
        let Some(ids) = TraceIds::of(&message.correlation_id) else { continue };
        let took = latencies.get(&message.sequence).copied().unwrap_or_default().max(publishing);
        traces.add(Confirmed {
            ids,
            event_type: message.event_type,
            path: message::file_path(message),
            sequence: message.sequence,
            begun: confirmed - took,
            published: confirmed - publishing,
            confirmed,
        });
    }
}

/// Splits a batch into messages within the size limit and larger ones.
///
/// A message that is too large loses its metadata, if that is enough. The outbox of an older version may have such
/// messages, and a message with an extremely long path is too large even without metadata.
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

fn log_if_refused(message: &Outgoing, refused: &[Refused]) {
    if let Some(Refused { sequence, reason }) = refused.iter().find(|refused| refused.sequence == message.sequence) {
        tracing::error!(
            path = message::file_path(message),
            event_type = message.event_type.as_str(),
            sequence,
            reason,
            "this message cannot be delivered and is parked; later ones are delivered (see `file-watcher parked`)"
        );
    }
}

/// The last message that was delivered and could not be removed from the outbox, if there is one.
#[derive(Debug)]
struct PendingRemoval(watch::Sender<Option<u64>>);

impl Default for PendingRemoval {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl PendingRemoval {
    /// Records the outcome of removing all messages up to `sequence`.
    fn record(&self, sequence: u64, outcome: Result<(), StoreError>) {
        self.0.send_if_modified(|pending| {
            let was_pending = pending.is_some();
            match outcome {
                Ok(()) => *pending = pending.filter(|pending| *pending > sequence),
                Err(error) => {
                    if !was_pending {
                        let error = with_causes(&error);
                        tracing::error!(error, "delivered messages cannot be removed from the outbox; retrying");
                    }
                    *pending = (*pending).max(Some(sequence));
                }
            }
            was_pending != pending.is_some()
        });
    }

    fn sequence(&self) -> Option<u64> {
        *self.0.borrow()
    }

    async fn wait(&self) {
        // `self` has the sender, so the channel is open.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventType;

    fn message(sequence: u64, path: usize, title: usize) -> Outgoing {
        let metadata = serde_json::json!({"tags": {"title": "t".repeat(title)}});
        let body = serde_json::json!({"file_path": "p".repeat(path), "metadata": metadata, "sequence": sequence});
        Outgoing {
            sequence,
            event_type: EventType::Created,
            correlation_id: sequence.to_string(),
            timestamp: 0,
            body: body.to_string().into_bytes(),
        }
    }

    #[test]
    fn a_message_that_is_too_large_loses_its_metadata_or_is_refused() {
        let (ordinary, large_tag, long_path) = (message(1, 9, 9), message(2, 9, 300_000), message(3, 300_000, 9));
        let (fitting, too_large) = split(vec![ordinary.clone(), large_tag, long_path]);
        assert_eq!(fitting[0], ordinary);
        assert_eq!((fitting.len(), fitting[1].sequence, fitting[1].is_too_large()), (2, 2, false));
        assert_eq!((too_large.len(), too_large[0].sequence), (1, 3));
        assert!(refused_for_size(&too_large[0]).reason.contains("a message may have 262144"));
    }

    #[test]
    fn a_removal_is_pending_until_it_or_a_later_one_succeeds() {
        let pending = PendingRemoval::default();
        let failed = || Err(StoreError::Stopped);
        pending.record(1, Ok(()));
        assert_eq!(pending.sequence(), None);
        pending.record(5, failed());
        pending.record(9, failed());
        pending.record(5, failed());
        assert_eq!(pending.sequence(), Some(9));
        pending.record(5, Ok(()));
        assert_eq!(pending.sequence(), Some(9));
        pending.record(12, Ok(()));
        assert_eq!(pending.sequence(), None);
    }
}
