//! Messages to RabbitMQ, each until the broker has it.
//!
//! What is promised: `deliver` comes back only when each message of the batch was acknowledged and
//! not returned, or was let go as `UNROUTABLE` allows. Whatever fails, it goes on from the first
//! message that is not delivered, so that a consumer which drops what it has seen sees every message
//! once and in order.
//!
//! One thing can disturb that order, and it is the broker's: a queue that is full and told to reject
//! (`x-overflow: reject-publish`) may refuse a message and take the one behind it. So from the first
//! refusal on messages go one by one, until a thousand of them were taken.
//!
//! A message for which the broker closes the channel, because of its size or whatever else is wrong with it, would be
//! refused for ever. `suspects.rs` finds it; `deliver` goes on without it and says in the end which it was.
//!
//! `UNROUTABLE=auto` looks for somebody who listens among the keys of one batch. Where a batch holds
//! only keys that no consumer binds, and nothing was routed on this connection yet, it waits, as the
//! contract has it; `drop` is for consumers that bind few of the keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::broker_url::BrokerUrl;
use super::connection::{self, Keeper, pauses};
use super::delivery_status::{DeliveryStatus, Hold};
use super::publish::{Fate, Link, LinkError};
use super::rarely::Rarely;
use super::refusal::{self, MessageRefusal};
use super::suspects::{Suspects, Verdict};
use super::tls::Tls;
use super::{Deliver, Reread, SinkError};
use crate::message;
use crate::model::{Outgoing, Refused, Unroutable};

/// How many messages go one by one after one was refused.
const CAREFUL: usize = 1_000;

/// The longest pause between attempts on a broker that is there.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long after the first routed message a returned one is still kept: a consumer that has just
/// started binds its keys one after the other.
const BINDING: Duration = Duration::from_secs(1);

/// How to reach RabbitMQ and what to do there.
#[derive(Clone, Debug)]
pub struct AmqpSettings {
    /// Where it is, with user name and password.
    pub broker: BrokerUrl,
    /// What `amqps` needs beyond the authorities that the system trusts.
    pub tls: Tls,
    /// Reads both again before every connection; `None` if neither comes from files.
    pub reread: Option<Reread>,
    /// Names the connection, as `file_watcher_{instance_id}`.
    pub instance_id: String,
    /// Told to the broker as a property of the connection.
    pub watched_directory: String,
    /// The exchange to publish to.
    pub exchange: String,
    /// What becomes of messages for which no queue is bound.
    pub unroutable: Unroutable,
    /// How long the broker may take to confirm a message while it is not blocked.
    pub confirm_timeout: Duration,
    /// How long to wait after a refusal that a person must put right.
    pub refused_pause: Duration,
}

impl AmqpSettings {
    /// The usual settings for this broker.
    pub fn new(broker: BrokerUrl, instance_id: &str, watched_directory: &str) -> Self {
        Self {
            broker,
            tls: Tls::default(),
            reread: None,
            instance_id: instance_id.to_owned(),
            watched_directory: watched_directory.to_owned(),
            exchange: "file_events".to_owned(),
            unroutable: Unroutable::Auto,
            confirm_timeout: Duration::from_secs(30),
            refused_pause: Duration::from_secs(30),
        }
    }
}

/// Publishes to a topic exchange, with confirms.
#[derive(Debug)]
pub struct Amqp {
    settings: Arc<AmqpSettings>,
    status: Arc<DeliveryStatus>,
    links: watch::Receiver<Option<Arc<Link>>>,
    keeper: JoinHandle<()>,
    closing: DropGuard,
    /// How many messages still go one by one.
    careful: usize,
    suspects: Suspects,
    let_go: LetGo,
    unroutable: Rarely,
    rejected: Rarely,
}

impl Amqp {
    /// Begins to connect at once. To be called within a Tokio runtime.
    pub fn new(settings: AmqpSettings) -> Self {
        let settings = Arc::new(settings);
        let status = Arc::new(DeliveryStatus::default());
        let (links, link) = watch::channel(None);
        let closing = CancellationToken::new();
        let keeper = Keeper::new(Arc::clone(&settings), Arc::clone(&status), links, closing.clone());
        Self {
            settings,
            status,
            links: link,
            keeper: tokio::spawn(keeper.run()),
            closing: closing.drop_guard(),
            careful: 0,
            suspects: Suspects::default(),
            let_go: LetGo::default(),
            unroutable: Rarely::default(),
            rejected: Rarely::default(),
        }
    }

    /// How delivery is doing.
    pub fn status(&self) -> Arc<DeliveryStatus> {
        Arc::clone(&self.status)
    }

    /// Waits until there is a connection, for as long as it takes.
    pub async fn connect(&mut self) -> Result<(), SinkError> {
        self.link().await.map(|_| ())
    }

    /// Says goodbye to the broker, within two seconds.
    pub async fn close(self) {
        drop(self.closing);
        // An error would mean that the task panicked, and there is nothing left to close then.
        let _ = self.keeper.await;
    }

    async fn link(&mut self) -> Result<Arc<Link>, SinkError> {
        let found = self.links.wait_for(|link| link.as_ref().is_some_and(|link| link.is_open())).await;
        found.ok().and_then(|link| link.clone()).ok_or(SinkError::Abandoned)
    }

    /// Publishes messages, each as the suspicion against it demands. Where the connection was lost over that, waits
    /// until it was taken back, and finds out whether one of these messages is to blame; returns whether it was lost.
    async fn publish(&mut self, link: &Arc<Link>, messages: &[&Outgoing]) -> Result<(Vec<Fate>, bool), SinkError> {
        let sent: Vec<&Outgoing> = messages.iter().map(|message| self.suspects.to_send(message)).collect();
        let (fates, error) = link.publish(&sent).await;
        let Some(error) = error else { return Ok((fates, false)) };
        let replaced = |current: &Option<Arc<Link>>| !current.as_ref().is_some_and(|it| Arc::ptr_eq(it, link));
        self.links.wait_for(replaced).await.map_err(|_| SinkError::Abandoned)?;
        let refusal = [Some(&error), link.end()].into_iter().flatten().find_map(|error| match error {
            LinkError::Broker(error) => refusal::of_message(error, &self.settings.broker),
            _ => None,
        });
        if let Some(refusal) = refusal {
            let unanswered: Vec<&Outgoing> =
                sent.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Unknown).map(|(sent, _)| *sent).collect();
            if let [suspect] = unanswered[..] {
                let suspect = suspect.clone();
                self.refused_alone(&suspect, refusal);
            } else {
                tracing::debug!(reason = refusal.reason, "one of several messages is refused; they go one by one");
                self.careful = self.careful.max(messages.len());
            }
        }
        Ok((fates, true))
    }

    fn refused_alone(&mut self, sent: &Outgoing, refusal: MessageRefusal) {
        let reason = refusal.reason.clone();
        let verdict = self.suspects.refused_alone(sent, refusal);
        let (sequence, path) = (sent.sequence, message::file_path(sent));
        match verdict {
            Verdict::Again => tracing::debug!(path, sequence, reason, "the message is refused; it is sent once more"),
            Verdict::Reduced => tracing::warn!(
                path,
                sequence,
                bytes = sent.body.len(),
                reason,
                "the message is too large for RabbitMQ; it is sent without its metadata"
            ),
            Verdict::GivenUp => self.status.count_refused(),
        }
    }

    /// Counts what became of a window; returns how many of its first messages are done with.
    fn settle(&mut self, window: &[&Outgoing], fates: &[Fate], lets_go: bool) -> usize {
        let done = done_with(fates, lets_go);
        let count = |fates: &[Fate], fate| fates.iter().filter(|&&one| one == fate).count();
        self.status.count_returned(count(fates, Fate::Returned));
        self.status.count_rejected(count(fates, Fate::Rejected));
        self.status.count_delivered(count(&fates[..done], Fate::Delivered));
        self.status.count_let_go(count(&fates[..done], Fate::Returned));
        for (message, _) in window[..done].iter().zip(fates).filter(|(_, fate)| **fate == Fate::Returned) {
            self.let_go.add(message.routing_key(), Instant::now());
        }
        self.careful = if fates.contains(&Fate::Rejected) { CAREFUL } else { self.careful.saturating_sub(done) };
        done
    }

    /// Says why the messages from this one on wait, or that none does.
    fn say_held(&mut self, held: Option<(&Outgoing, Fate)>) {
        let since = Instant::now();
        match held {
            Some((first, Fate::Returned)) => {
                let routing_key = first.routing_key();
                if let Some(lasted) = self.unroutable.again(since) {
                    tracing::warn!(
                        routing_key,
                        lasted_secs = lasted.as_secs(),
                        "no queue is bound for this routing key, messages wait; see UNROUTABLE"
                    );
                }
                self.status.hold_for(Some(Hold::Unroutable { since, routing_key }));
            }
            Some((_, Fate::Rejected)) => {
                if let Some(lasted) = self.rejected.again(since) {
                    let lasted_secs = lasted.as_secs();
                    tracing::warn!(lasted_secs, "a queue is full and rejects messages, they wait");
                }
                self.status.hold_for(Some(Hold::Rejected { since }));
            }
            _ => {
                if let Some(lasted) = self.unroutable.over(since) {
                    tracing::info!(lasted_secs = lasted.as_secs(), "a queue is bound, messages go on");
                }
                // A queue that its consumer keeps nearly full is full many times a second.
                if self.careful == 0
                    && let Some(lasted) = self.rejected.over(since)
                {
                    tracing::info!(lasted_secs = lasted.as_secs(), "the queue has room again, messages go on");
                }
                self.status.hold_for(None);
            }
        }
    }
}

impl Deliver for Amqp {
    async fn deliver(&mut self, batch: &[Outgoing]) -> Result<Vec<Refused>, SinkError> {
        let auto = self.settings.unroutable == Unroutable::Auto;
        let mut rest = batch;
        let mut refused = Vec::new();
        let mut held = false;
        let mut sent_up_to = 0;
        let mut pauses = pauses();
        while let Some(first) = rest.first() {
            if let Some(reason) = self.suspects.given_up(first) {
                refused.push(Refused { sequence: first.sequence, reason: reason.to_owned() });
                self.careful = self.careful.saturating_sub(1);
                rest = &rest[1..];
                continue;
            }
            let link = self.link().await?;
            // Decided before publishing: what comes back while the first consumer binds its queue may be its own.
            let lets_go = lets_go(self.settings.unroutable, link.routed_for());
            let alone = held || self.careful > 0 || (auto && link.routed_for().is_none());
            let most = if alone { 1 } else { rest.len() };
            let window: Vec<_> =
                rest.iter().take(most).take_while(|message| self.suspects.given_up(message).is_none()).collect();
            self.status.count_redelivered(window.iter().filter(|message| message.sequence <= sent_up_to).count());
            sent_up_to = window.iter().map(|message| message.sequence).fold(sent_up_to, u64::max);

            let (fates, mut lost) = self.publish(&link, &window).await?;
            let done = self.settle(&window, &fates, lets_go);
            rest = &rest[done..];
            if done > 0 {
                pauses = connection::pauses();
            }
            if !lost && auto && fates[0] == Fate::Returned && link.routed_for().is_none() {
                // Nobody wants this one. Whoever wants another shows that there are consumers, and
                // loses nothing by getting that one early: it comes again in its place.
                let mut others = first_of_each_other_key(rest);
                others.retain(|message| self.suspects.given_up(message).is_none());
                let together = if self.careful > 0 { 1 } else { others.len().max(1) };
                for others in others.chunks(together) {
                    lost = lost || self.publish(&link, others).await?.1;
                }
            }
            if lost {
                continue;
            }
            held = done < window.len();
            self.say_held(held.then(|| (window[done], fates[done])));
            if held {
                let longest = if auto && link.routed_for().is_some() { BINDING } else { LONGEST_PAUSE };
                time::sleep(pauses.next().map_or(longest, |pause| pause.min(longest))).await;
            }
        }
        self.suspects.clear();
        Ok(refused)
    }
}

/// Whether a message that comes back may be let go, where the connection has routed others for this long.
fn lets_go(unroutable: Unroutable, routed_for: Option<Duration>) -> bool {
    match unroutable {
        Unroutable::Auto => routed_for.is_some_and(|long| long >= BINDING),
        Unroutable::Hold => false,
        Unroutable::Drop => true,
    }
}

/// How many of the first messages are delivered or let go.
fn done_with(fates: &[Fate], lets_go: bool) -> usize {
    fates.iter().take_while(|&&fate| fate == Fate::Delivered || (lets_go && fate == Fate::Returned)).count()
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

/// How many messages were let go since that was last said, by routing key.
#[derive(Debug, Default)]
struct LetGo {
    messages: BTreeMap<String, u64>,
    minute: Rarely,
}

impl LetGo {
    fn add(&mut self, routing_key: String, now: Instant) {
        *self.messages.entry(routing_key).or_default() += 1;
        if self.minute.again(now).is_some() {
            for (routing_key, messages) in std::mem::take(&mut self.messages) {
                tracing::warn!(routing_key, messages, "no queue is bound for this routing key, messages let go");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64, event_type: &str) -> Outgoing {
        Outgoing {
            sequence,
            event_type: event_type.to_owned(),
            correlation_id: sequence.to_string(),
            timestamp: 0,
            body: Vec::new(),
        }
    }

    #[test]
    fn only_an_unbroken_run_from_the_first_message_is_done_with() {
        use Fate::{Delivered, Rejected, Returned, Unknown};
        assert_eq!(done_with(&[Delivered, Delivered], false), 2);
        assert_eq!(done_with(&[Delivered, Returned, Delivered], false), 1);
        assert_eq!(done_with(&[Delivered, Returned, Delivered], true), 3);
        assert_eq!(done_with(&[Rejected, Delivered], true), 0);
        assert_eq!(done_with(&[Delivered, Unknown, Delivered], true), 1);
    }

    #[test]
    fn a_returned_message_is_let_go_as_the_setting_says() {
        let long = Some(Duration::from_mins(1));
        assert!(!lets_go(Unroutable::Auto, None));
        assert!(!lets_go(Unroutable::Auto, Some(Duration::ZERO)));
        assert!(lets_go(Unroutable::Auto, long));
        assert!(!lets_go(Unroutable::Hold, long));
        assert!(lets_go(Unroutable::Drop, None));
    }

    #[test]
    fn other_keys_are_tried_once_each() {
        let batch: Vec<_> =
            [(1, "deleted"), (2, "deleted"), (3, "created"), (4, "deleted"), (5, "moved"), (6, "created")]
                .map(|(sequence, event_type)| message(sequence, event_type))
                .into();
        let tried: Vec<_> = first_of_each_other_key(&batch).iter().map(|message| message.sequence).collect();
        assert_eq!(tried, [3, 5]);
        assert!(first_of_each_other_key(&batch[..2]).is_empty());
    }
}
