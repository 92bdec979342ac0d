//! Publishing over one connection, and the outcome for each message.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, poll};
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Error as BrokerError, ErrorKind};
use tokio::sync::{mpsc, watch};
use tokio::time;

use super::AmqpSettings;
use crate::failpoint::failpoint;
use crate::message::{Headers, TraceIds};
use crate::model::Outgoing;

/// The outcome for a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    /// Confirmed and not returned: the message is in at least one queue.
    Delivered,
    /// Returned: no queue is bound for its routing key.
    Returned,
    /// Negatively confirmed: a queue is bound and did not take the message.
    Rejected,
    /// Not known: the connection was lost before the answer.
    Unconfirmed,
}

/// The result of publishing some messages.
#[derive(Debug)]
pub(super) struct Publication {
    /// One outcome for each message.
    pub(super) outcomes: Vec<PublishOutcome>,
    /// Why the link cannot be used any more, if it cannot.
    pub(super) error: Option<LinkError>,
}

/// Why a connection cannot be used any more.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// An error of lapin.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No confirm came in time.
    #[error("the broker did not confirm a message within {0:?}")]
    Unconfirmed(Duration),
    /// An earlier call was cancelled. Its answers are still to come and would be taken for those of other messages.
    #[error("an earlier delivery was cancelled")]
    Cancelled,
    /// Messages are rejected all the time; see [`Renewal`](super::renewal::Renewal).
    #[error("messages are rejected")]
    Rejected,
    /// The connection ended without a reason.
    #[error("the connection ended")]
    Ended,
}

/// One connection to publish over.
pub(super) struct Link {
    channel: Channel,
    exchange: ShortString,
    app_id: ShortString,
    /// How long the broker may take to confirm a message while it is not blocked.
    confirm_timeout: Duration,
    /// Whether messages have the header `traceparent`.
    is_traced: bool,
    blocked: watch::Receiver<bool>,
    give_up: mpsc::UnboundedSender<LinkError>,
    /// Set while `publish` runs. It stays set if `publish` fails or is cancelled.
    publishing: AtomicBool,
    /// Whether the broker has answered to a message.
    answered: watch::Sender<bool>,
    first_routed: Mutex<Option<Instant>>,
    end: OnceLock<LinkError>,
}

impl Link {
    pub(super) fn new(
        channel: Channel,
        settings: &AmqpSettings,
        blocked: watch::Receiver<bool>,
        give_up: mpsc::UnboundedSender<LinkError>,
    ) -> Self {
        Self {
            channel,
            exchange: settings.exchange.as_str().into(),
            app_id: "file-watcher".into(),
            confirm_timeout: settings.confirm_timeout,
            is_traced: settings.is_traced,
            blocked,
            give_up,
            publishing: AtomicBool::new(false),
            answered: watch::Sender::new(false),
            first_routed: Mutex::new(None),
            end: OnceLock::new(),
        }
    }

    /// Publishes the messages and waits for the outcomes. After an error the link is closed.
    pub(super) async fn publish(&self, messages: &[&Outgoing]) -> Publication {
        let mut outcomes = vec![PublishOutcome::Unconfirmed; messages.len()];
        let error = if self.publishing.swap(true, Ordering::Relaxed) {
            Some(LinkError::Cancelled)
        } else {
            self.publish_all(messages, &mut outcomes).await.err()
        };
        match &error {
            Some(error) => self.give_up(error.clone()),
            None => self.publishing.store(false, Ordering::Relaxed),
        }
        if outcomes.iter().any(|outcome| *outcome != PublishOutcome::Unconfirmed) {
            self.answered.send_replace(true);
        }
        if outcomes.contains(&PublishOutcome::Delivered) {
            self.first_routed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        }
        Publication { outcomes, error }
    }

    /// How long ago this connection first delivered a message to a queue.
    pub(super) fn routed_for(&self) -> Option<Duration> {
        self.first_routed.lock().unwrap_or_else(PoisonError::into_inner).map(|first| first.elapsed())
    }

    /// Whether the broker has answered to a message.
    pub(super) fn is_answered(&self) -> bool {
        *self.answered.borrow()
    }

    /// Waits until the broker answers to a message, or until `idle` is over without a message that waits for an answer.
    pub(super) async fn is_good(&self, idle: Duration) {
        let mut answered = self.answered.subscribe();
        // The sender lives as long as `self`.
        while time::timeout(idle, answered.wait_for(|answered| *answered)).await.is_err() && self.is_publishing() {}
    }

    /// Has the supervisor replace this connection by a new one.
    pub(super) fn give_up(&self, reason: LinkError) {
        // Fails if the supervisor has noticed the end of the connection already.
        let _ = self.give_up.send(reason);
    }

    /// Whether some published messages have no outcome yet.
    pub(super) fn is_publishing(&self) -> bool {
        self.publishing.load(Ordering::Relaxed)
    }

    /// Records why the connection ended. The supervisor calls this before it replaces the link.
    pub(super) fn set_end(&self, error: &LinkError) {
        // The first reason is the right one.
        let _ = self.end.set(error.clone());
    }

    /// Why the connection ended, once the supervisor has replaced the link.
    pub(super) fn end(&self) -> Option<&LinkError> {
        self.end.get()
    }

    /// Whether lapin takes the channel for open.
    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    async fn publish_all(&self, messages: &[&Outgoing], outcomes: &mut [PublishOutcome]) -> Result<(), LinkError> {
        // The first poll of each future queues its frames, so they are written in this order. Waiting for each write
        // before the next would cost a thread switch per message.
        failpoint!("sink::publish");
        let mut writing = Vec::with_capacity(messages.len());
        for message in messages {
            let mut publish = Box::pin(self.channel.basic_publish(
                self.exchange.clone(),
                message.routing_key().into(),
                BasicPublishOptions { mandatory: true, immediate: false },
                &message.body,
                self.properties(message),
            ));
            let written = match poll!(publish.as_mut()) {
                std::task::Poll::Ready(written) => Some(written?),
                std::task::Poll::Pending => None,
            };
            writing.push((publish, written));
        }
        let mut result = Ok(());
        let mut confirms = Vec::with_capacity(messages.len());
        for (publish, written) in writing {
            match written {
                Some(confirm) => confirms.push(confirm),
                None => match self.with_timeout(publish).await {
                    Ok(confirm) => confirms.push(confirm),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                },
            }
        }
        failpoint!("sink::published");
        // lapin hands out returns in the order of arrival, so a return may come with the confirm of another message.
        // They are matched by id once all confirms are there.
        let mut returned = Vec::new();
        for (confirm, outcome) in confirms.into_iter().zip(outcomes.iter_mut()) {
            let answer = match result {
                Ok(()) => self.with_timeout(confirm).await,
                // Use the confirms that are there, without waiting for the others.
                Err(_) => confirm.now_or_never().unwrap_or(Err(ErrorKind::FutureCompleted.into())).map_err(Into::into),
            };
            match answer {
                Ok(confirmation) => {
                    *outcome = if confirmation.is_ack() { PublishOutcome::Delivered } else { PublishOutcome::Rejected };
                    returned.extend(confirmation.take_message().map(|message| id_of(&message)));
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        failpoint!("sink::confirmed");
        let all_ours = assign_returns(messages, &returned, outcomes, result.is_ok());
        result.and(if all_ours { Ok(()) } else { Err(LinkError::Cancelled) })
    }

    /// Waits for an answer of the broker: for the timeout, or longer while the broker is blocked.
    async fn with_timeout<T>(&self, answer: impl Future<Output = Result<T, BrokerError>>) -> Result<T, LinkError> {
        let mut answer = pin!(answer);
        let mut blocked = self.blocked.clone();
        loop {
            tokio::select! {
                biased;
                answer = answer.as_mut() => return Ok(answer?),
                changed = blocked.changed() => {
                    if changed.is_err() {
                        // The supervisor has dropped the session. lapin's answer is all that can still come.
                        return Ok(time::timeout(self.confirm_timeout, answer).await.map_err(|_| LinkError::Ended)??);
                    }
                }
                () = time::sleep(self.confirm_timeout) => {
                    if !*blocked.borrow() {
                        return Err(LinkError::Unconfirmed(self.confirm_timeout));
                    }
                }
            }
        }
    }

    fn properties(&self, message: &Outgoing) -> BasicProperties {
        let mut headers = FieldTable::default();
        let mut set = |name: &str, value: String| {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        if let Some(Headers { store_id, partition_key, old_partition_key }) = Headers::of(&message.body) {
            set("store_id", store_id);
            set("partition_key", partition_key);
            if let Some(old_partition_key) = old_partition_key {
                set("old_partition_key", old_partition_key);
            }
        }
        if let Some(ids) = TraceIds::of(&message.correlation_id).filter(|_| self.is_traced) {
            set("traceparent", ids.traceparent());
        }
        BasicProperties::default()
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_message_id(message.correlation_id.as_str().into())
            .with_correlation_id(message.correlation_id.as_str().into())
            .with_timestamp(message.timestamp)
            .with_type(message.event_type.as_str().into())
            .with_app_id(self.app_id.clone())
    }
}

/// Marks the returned messages by their ids. Returns whether every id in `returned` is that of one of `messages`.
///
/// If some confirms are missing, a known return may belong to any message, and further returns may be missing. So if
/// there are returns, an incomplete set of confirms proves nothing. If there are none, the confirms that are there are
/// good, because the broker sends a return before the confirm of its message.
fn assign_returns(
    messages: &[&Outgoing],
    returned: &[String],
    outcomes: &mut [PublishOutcome],
    all_confirmed: bool,
) -> bool {
    let mut all_ours = true;
    for id in returned {
        match messages.iter().position(|sent| sent.correlation_id == *id) {
            Some(index) if outcomes[index] == PublishOutcome::Delivered => outcomes[index] = PublishOutcome::Returned,
            Some(_) => {}
            None => all_ours = false,
        }
    }
    if !all_ours || (!all_confirmed && !returned.is_empty()) {
        outcomes.fill(PublishOutcome::Unconfirmed);
    }
    all_ours
}

fn id_of(message: &BasicReturnMessage) -> String {
    message.delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default()
}

impl std::fmt::Debug for Link {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Link").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventType;

    fn after_returns(
        outcomes: [PublishOutcome; 3],
        returned: &[&str],
        all_confirmed: bool,
    ) -> (bool, [PublishOutcome; 3]) {
        let sent = ["a", "b", "c"].map(|id| Outgoing {
            sequence: 0,
            event_type: EventType::Created,
            correlation_id: id.to_owned(),
            timestamp: 0,
            body: Vec::new(),
        });
        let returned: Vec<_> = returned.iter().map(ToString::to_string).collect();
        let mut outcomes = outcomes;
        let ours = assign_returns(&sent.each_ref(), &returned, &mut outcomes, all_confirmed);
        (ours, outcomes)
    }

    #[test]
    fn a_return_belongs_to_the_message_that_it_names() {
        use PublishOutcome::{Delivered, Rejected, Returned, Unconfirmed};
        let all = [Delivered; 3];
        assert_eq!(after_returns(all, &[], true), (true, all));
        assert_eq!(after_returns(all, &["c", "a"], true), (true, [Returned, Delivered, Returned]));
        assert_eq!(
            after_returns([Delivered, Rejected, Delivered], &["a"], true),
            (true, [Returned, Rejected, Delivered])
        );
        // A return from before shows that answers are mixed up.
        assert_eq!(after_returns(all, &["z"], true), (false, [Unconfirmed; 3]));
    }

    #[test]
    fn without_all_answers_no_message_that_may_have_come_back_counts_as_delivered() {
        use PublishOutcome::{Delivered, Unconfirmed};
        let cut_off = [Delivered, Delivered, Unconfirmed];
        assert_eq!(after_returns(cut_off, &[], false), (true, cut_off));
        assert_eq!(after_returns(cut_off, &["b"], false), (true, [Unconfirmed; 3]));
    }
}
