//! Delivery to RabbitMQ.
//!
//! `deliver` returns when each message of the batch was confirmed and not returned, or was dropped as `UNROUTABLE`
//! allows. After any failure it continues with the first message that is not delivered. A consumer that ignores
//! sequence numbers which it already has sees every message once and in order.
//!
//! Only the broker can change that order: a full queue with `x-overflow: reject-publish` may reject a message and
//! take the next one. After a rejection, messages are therefore published one by one; see `pacing.rs`. If it lasts, a new
//! connection is opened; see `renewal.rs`.
//!
//! The broker closes the channel for a message that is too large or malformed, and would do so again each time.
//! `suspects.rs` finds this message. `deliver` skips it and returns it as refused.
//!
//! `UNROUTABLE=auto` looks for a consumer among the routing keys of one batch. If no consumer binds any of them, and
//! nothing was routed on this connection yet, delivery waits. `drop` is for consumers that bind few of the keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::broker_url::BrokerUrl;
use super::connection::{self, Supervisor};
use super::delivery_status::{DeliveryStatus, Stall};
use super::log_throttle::LogThrottle;
use super::pacing::{Pacing, ReturnPolicy};
use super::publish::{Link, LinkError, Publication, PublishOutcome};
use super::refusal::{self, MessageRefusal};
use super::renewal::Renewal;
use super::suspects::{Suspects, Verdict};
use super::tls::Tls;
use super::{Deliver, EXCHANGE, Reread, SinkError};
use crate::message;
use crate::model::{Outgoing, Refused, Unroutable};

/// How to reach RabbitMQ, and how to publish there.
#[derive(Clone, Debug)]
pub struct AmqpSettings {
    /// The broker, with user name and password.
    pub broker: BrokerUrl,
    /// The certificates for `amqps`, in addition to the authorities that the system trusts.
    pub tls: Tls,
    /// Reads both again before every connection; `None` if neither comes from files.
    pub reread: Option<Reread>,
    /// The instance id. The connection is named `file_watcher_{instance_id}`.
    pub instance_id: String,
    /// The library root, sent to the broker as a property of the connection.
    pub watched_directory: String,
    /// The exchange to publish to.
    pub exchange: String,
    /// What becomes of messages for which no queue is bound.
    pub unroutable: Unroutable,
    /// How long the broker may take to confirm a message while it is not blocked.
    pub confirm_timeout: Duration,
    /// The pause after a failure that only a change of the configuration can end.
    pub refused_pause: Duration,
    /// Whether messages have the header `traceparent`.
    pub is_traced: bool,
    /// The largest frame, in bytes; `None` for what the broker proposes. lapin keeps buffers for 64 of them.
    pub frame_max: Option<u32>,
}

impl AmqpSettings {
    /// The default settings for this broker.
    pub fn new(broker: BrokerUrl, instance_id: &str, watched_directory: &str) -> Self {
        Self {
            broker,
            tls: Tls::default(),
            reread: None,
            instance_id: instance_id.to_owned(),
            watched_directory: watched_directory.to_owned(),
            exchange: EXCHANGE.to_owned(),
            unroutable: Unroutable::Auto,
            confirm_timeout: Duration::from_secs(30),
            refused_pause: Duration::from_secs(30),
            is_traced: false,
            frame_max: None,
        }
    }
}

/// Publishes to a topic exchange, with publisher confirms.
#[derive(Debug)]
pub struct Amqp {
    settings: Arc<AmqpSettings>,
    status: Arc<DeliveryStatus>,
    links: watch::Receiver<Option<Arc<Link>>>,
    supervisor: JoinHandle<()>,
    closing: DropGuard,
    pacing: Pacing,
    suspects: Suspects,
    dropped: DroppedLog,
    returned: LogThrottle,
    rejected: LogThrottle,
    renewal: Renewal,
}

/// The outcomes of an attempt to publish some messages, one each.
enum Attempt {
    /// The connection is still good.
    Completed(Vec<PublishOutcome>),
    /// The connection was lost.
    ConnectionLost(Vec<PublishOutcome>),
}

impl Attempt {
    fn outcomes(&self) -> &[PublishOutcome] {
        match self {
            Self::Completed(outcomes) | Self::ConnectionLost(outcomes) => outcomes,
        }
    }

    fn is_connection_lost(&self) -> bool {
        matches!(self, Self::ConnectionLost(_))
    }
}

impl Amqp {
    /// Starts to connect at once, in a task of its own.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn new(settings: AmqpSettings) -> Self {
        let settings = Arc::new(settings);
        let status = Arc::new(DeliveryStatus::default());
        let (sender, links) = watch::channel(None);
        let closing = CancellationToken::new();
        let supervisor = Supervisor::new(Arc::clone(&settings), Arc::clone(&status), sender, closing.clone());
        Self {
            settings,
            status,
            links,
            supervisor: tokio::spawn(supervisor.run()),
            closing: closing.drop_guard(),
            pacing: Pacing::default(),
            suspects: Suspects::default(),
            dropped: DroppedLog::default(),
            returned: LogThrottle::default(),
            rejected: LogThrottle::default(),
            renewal: Renewal::default(),
        }
    }

    /// The status of the delivery.
    pub fn status(&self) -> Arc<DeliveryStatus> {
        Arc::clone(&self.status)
    }

    /// Waits for a connection, without a limit.
    ///
    /// # Errors
    ///
    /// [`SinkError::Abandoned`] if the connection task has ended.
    pub async fn connect(&mut self) -> Result<(), SinkError> {
        self.link().await.map(|_| ())
    }

    /// Closes the connection gracefully, within half a second.
    pub async fn close(self) {
        drop(self.closing);
        // An error means that the task panicked; there is nothing left to close then.
        let _ = self.supervisor.await;
    }

    async fn link(&mut self) -> Result<Arc<Link>, SinkError> {
        let found = self.links.wait_for(|link| link.as_ref().is_some_and(|link| link.is_open())).await;
        found.ok().and_then(|link| link.clone()).ok_or(SinkError::Abandoned)
    }

    /// Publishes messages; suspects without their metadata, if they were too large.
    ///
    /// If the connection is lost, waits until the supervisor has replaced it, and finds out whether the broker refused
    /// one of these messages.
    async fn publish(&mut self, link: &Arc<Link>, messages: &[&Outgoing]) -> Result<Attempt, SinkError> {
        let sent: Vec<&Outgoing> = messages.iter().map(|message| self.suspects.to_send(message)).collect();
        let Publication { outcomes, error } = link.publish(&sent).await;
        let Some(error) = error else { return Ok(Attempt::Completed(outcomes)) };
        let replaced = |current: &Option<Arc<Link>>| !current.as_ref().is_some_and(|it| Arc::ptr_eq(it, link));
        self.links.wait_for(replaced).await.map_err(|_| SinkError::Abandoned)?;
        let refusal = [Some(&error), link.end()].into_iter().flatten().find_map(|error| match error {
            LinkError::Broker(error) => refusal::of_message(error, &self.settings.broker),
            _ => None,
        });
        if let Some(refusal) = refusal {
            let is_unconfirmed = |(_, outcome): &(_, &PublishOutcome)| **outcome == PublishOutcome::Unconfirmed;
            let unconfirmed: Vec<&Outgoing> =
                sent.iter().zip(&outcomes).filter(is_unconfirmed).map(|(sent, _)| *sent).collect();
            if let [suspect] = unconfirmed[..] {
                let suspect = suspect.clone();
                self.refused_alone(&suspect, refusal);
            } else {
                tracing::debug!(
                    reason = refusal.reason,
                    "RabbitMQ refused one of several messages; publishing them one by one"
                );
                self.pacing = self.pacing.refused_among(messages.len());
            }
        }
        Ok(Attempt::ConnectionLost(outcomes))
    }

    fn refused_alone(&mut self, sent: &Outgoing, refusal: MessageRefusal) {
        let reason = refusal.reason.clone();
        let verdict = self.suspects.refused_alone(sent, refusal);
        let (sequence, path) = (sent.sequence, message::file_path(sent));
        match verdict {
            Verdict::Retry => tracing::debug!(path, sequence, reason, "RabbitMQ refused the message; trying once more"),
            Verdict::Reduced => tracing::warn!(
                path,
                sequence,
                bytes = sent.body.len(),
                reason,
                "the message is too large for RabbitMQ; publishing it without its metadata"
            ),
            Verdict::GivenUp => self.status.count_refused(),
        }
    }

    /// Counts the outcomes of a window; returns how many of its first messages are delivered or dropped.
    fn settle(&mut self, window: &[&Outgoing], outcomes: &[PublishOutcome], policy: ReturnPolicy) -> usize {
        use PublishOutcome::{Delivered, Rejected, Returned};

        let done = policy.count_done(outcomes);
        let count = |outcomes: &[PublishOutcome], wanted| outcomes.iter().filter(|&&it| it == wanted).count();
        self.status.count_returned(count(outcomes, Returned));
        self.status.count_rejected(count(outcomes, Rejected));
        self.status.count_delivered(count(&outcomes[..done], Delivered));
        self.status.count_dropped(count(&outcomes[..done], Returned));
        for (message, _) in window[..done].iter().zip(outcomes).filter(|(_, outcome)| **outcome == Returned) {
            self.dropped.add(message.routing_key(), Instant::now());
        }
        self.pacing = self.pacing.settled(done, outcomes);
        done
    }

    /// Publishes the first message of each routing key that the first message does not have. The first message was
    /// returned; if one of these is routed, there are consumers.
    ///
    /// The messages are published again in their turn, so that consumers get them in order. Returns whether the
    /// connection was lost.
    async fn probe_other_keys(&mut self, link: &Arc<Link>, rest: &[Outgoing]) -> Result<bool, SinkError> {
        let mut probes = first_of_each_other_key(rest);
        probes.retain(|message| self.suspects.given_up(message).is_none());
        let at_once = if self.pacing.is_careful() { 1 } else { probes.len().max(1) };
        for probes in probes.chunks(at_once) {
            if self.publish(link, probes).await?.is_connection_lost() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Holds the first message of `window` that is not done, if there is one, and logs why. If messages are rejected for
    /// long, the connection is replaced.
    fn hold_first(&mut self, link: &Link, window: &[&Outgoing], outcomes: &[PublishOutcome], done: usize) {
        let now = Instant::now();
        match outcomes.get(done) {
            Some(PublishOutcome::Returned) => {
                let routing_key = window[done].routing_key();
                if let Some(lasted) = self.returned.should_log(now) {
                    tracing::warn!(
                        routing_key,
                        lasted_secs = lasted.as_secs(),
                        "no queue is bound for this routing key; messages wait (see UNROUTABLE)"
                    );
                }
                self.status.set_stall(Some(Stall::Unroutable { since: now, routing_key: routing_key.to_owned() }));
            }
            Some(PublishOutcome::Rejected) => {
                if let Some(lasted) = self.rejected.should_log(now) {
                    tracing::warn!(
                        lasted_secs = lasted.as_secs(),
                        "a queue is full or has no leader, and rejects messages; they wait"
                    );
                }
                self.status.set_stall(Some(Stall::Rejected { since: now }));
                if self.renewal.is_due(now) {
                    link.give_up(LinkError::Rejected);
                }
            }
            None | Some(PublishOutcome::Delivered | PublishOutcome::Unconfirmed) => {
                if let Some(lasted) = self.returned.ended(now) {
                    tracing::info!(lasted_secs = lasted.as_secs(), "a queue is bound; delivery continues");
                }
                // A queue that is nearly full all the time rejects messages many times a second.
                if !self.pacing.is_careful()
                    && let Some(lasted) = self.rejected.ended(now)
                {
                    tracing::info!(
                        lasted_secs = lasted.as_secs(),
                        "the queue accepts messages again; delivery continues"
                    );
                }
                self.status.set_stall(None);
            }
        }
        self.pacing = if done < window.len() { self.pacing.held() } else { self.pacing.released() };
    }
}

impl Deliver for Amqp {
    async fn deliver(&mut self, batch: &[Outgoing]) -> Result<Vec<Refused>, SinkError> {
        let mut rest = batch;
        let mut refused = Vec::new();
        let mut sent_up_to = 0;
        let mut pauses = connection::pauses();
        self.pacing = self.pacing.released();
        while let Some(first) = rest.first() {
            if let Some(reason) = self.suspects.given_up(first) {
                refused.push(Refused { sequence: first.sequence, reason: reason.to_owned() });
                self.pacing = self.pacing.skipped();
                rest = &rest[1..];
                continue;
            }
            let link = self.link().await?;
            // Decided before publishing: a message that is returned while the first consumer binds its queue may be for
            // that consumer.
            let policy = ReturnPolicy::new(self.settings.unroutable, link.routed_for());
            let is_single = self.pacing.is_single() || policy == ReturnPolicy::Probe;
            let window: Vec<_> = rest
                .iter()
                .take(if is_single { 1 } else { rest.len() })
                .take_while(|message| self.suspects.given_up(message).is_none())
                .collect();
            self.status.count_redelivered(window.iter().filter(|message| message.sequence <= sent_up_to).count());
            sent_up_to = window.iter().map(|message| message.sequence).fold(sent_up_to, u64::max);

            let attempt = self.publish(&link, &window).await?;
            let done = self.settle(&window, attempt.outcomes(), policy);
            rest = &rest[done..];
            if done > 0 {
                pauses = connection::pauses();
                self.renewal.ended();
            }
            let Attempt::Completed(outcomes) = attempt else { continue };
            if policy == ReturnPolicy::Probe
                && outcomes[0] == PublishOutcome::Returned
                && self.probe_other_keys(&link, rest).await?
            {
                continue;
            }
            self.hold_first(&link, &window, &outcomes, done);
            if let Pacing::Held { .. } = self.pacing {
                // The probes may have changed the policy.
                let longest = ReturnPolicy::new(self.settings.unroutable, link.routed_for()).longest_pause();
                time::sleep(pauses.next().map_or(longest, |pause| pause.min(longest))).await;
            }
        }
        self.suspects.clear();
        Ok(refused)
    }
}

/// The first message of each routing key that the first message does not have.
fn first_of_each_other_key(messages: &[Outgoing]) -> Vec<&Outgoing> {
    let mut firsts: Vec<&Outgoing> = Vec::new();
    for message in messages {
        if !firsts.iter().any(|first| first.event_type == message.event_type) {
            firsts.push(message);
        }
    }
    firsts.drain(..firsts.len().min(1));
    firsts
}

/// The number of dropped messages since the last log line, by routing key.
#[derive(Debug, Default)]
struct DroppedLog {
    messages: BTreeMap<&'static str, u64>,
    throttle: LogThrottle,
}

impl DroppedLog {
    fn add(&mut self, routing_key: &'static str, now: Instant) {
        *self.messages.entry(routing_key).or_default() += 1;
        if self.throttle.should_log(now).is_some() {
            for (routing_key, messages) in std::mem::take(&mut self.messages) {
                tracing::warn!(routing_key, messages, "no queue is bound for this routing key; messages dropped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventType::{self, Created, Deleted, Moved};

    fn message(sequence: u64, event_type: EventType) -> Outgoing {
        let correlation_id = sequence.to_string();
        Outgoing { sequence, event_type, correlation_id, timestamp: 0, body: Vec::new() }
    }

    #[test]
    fn other_keys_are_tried_once_each() {
        let batch: Vec<_> = [(1, Deleted), (2, Deleted), (3, Created), (4, Deleted), (5, Moved), (6, Created)]
            .map(|(sequence, event_type)| message(sequence, event_type))
            .into();
        let tried: Vec<_> = first_of_each_other_key(&batch).iter().map(|message| message.sequence).collect();
        assert_eq!(tried, [3, 5]);
        assert!(first_of_each_other_key(&batch[..2]).is_empty());
    }
}
