//! Messages over one connection, and what became of each.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, poll};
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Error as BrokerError, ErrorKind};
use tokio::sync::{mpsc, watch};
use tokio::time;

use crate::failpoint::failpoint;
use crate::model::Outgoing;

/// What became of a message that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The broker has it, in at least one queue.
    Delivered,
    /// The broker has no queue for it.
    Returned,
    /// The broker has a queue for it, which did not take it.
    Rejected,
    /// Nothing is known: the connection was lost before the answer.
    Unknown,
}

/// Why a connection is of no more use.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// lapin says so.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Messages were written, or not even that, and no answer came.
    #[error("the broker did not confirm a message within {0:?}")]
    Unconfirmed(Duration),
    /// Answers to messages that nobody waits for any more are still to come, and would be taken for others.
    #[error("a delivery was broken off")]
    BrokenOff,
    /// It ended without a reason.
    #[error("the connection ended")]
    Ended,
}

/// One connection that takes messages.
pub(super) struct Link {
    channel: Channel,
    exchange: ShortString,
    app_id: ShortString,
    /// How long the broker may be silent on a message while it is not blocked.
    patience: Duration,
    blocked: watch::Receiver<bool>,
    give_up: mpsc::UnboundedSender<LinkError>,
    publishing: AtomicBool,
    proven: watch::Sender<bool>,
    first_routed: Mutex<Option<Instant>>,
    end: OnceLock<LinkError>,
}

impl Link {
    pub(super) fn new(
        channel: Channel,
        exchange: &str,
        patience: Duration,
        blocked: watch::Receiver<bool>,
        give_up: mpsc::UnboundedSender<LinkError>,
    ) -> Self {
        Self {
            channel,
            exchange: exchange.into(),
            app_id: "file-watcher".into(),
            patience,
            blocked,
            give_up,
            publishing: AtomicBool::new(false),
            proven: watch::Sender::new(false),
            first_routed: Mutex::new(None),
            end: OnceLock::new(),
        }
    }

    /// Publishes the messages and says what became of each. With an error the link is given up.
    pub(super) async fn publish(&self, messages: &[&Outgoing]) -> (Vec<Fate>, Option<LinkError>) {
        let mut fates = vec![Fate::Unknown; messages.len()];
        // Still set from the last time where that was dropped half-way.
        let error = if self.publishing.swap(true, Ordering::Relaxed) {
            Some(LinkError::BrokenOff)
        } else {
            self.publish_all(messages, &mut fates).await.err()
        };
        match &error {
            Some(error) => {
                // Nobody listens where the connection was found to be lost already.
                let _ = self.give_up.send(error.clone());
            }
            None => self.publishing.store(false, Ordering::Relaxed),
        }
        if fates.iter().any(|fate| *fate != Fate::Unknown) {
            self.proven.send_replace(true);
        }
        if fates.contains(&Fate::Delivered) {
            self.first_routed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        }
        (fates, error)
    }

    /// How long ago this connection first delivered a message to a queue.
    pub(super) fn routed_for(&self) -> Option<Duration> {
        self.first_routed.lock().unwrap_or_else(PoisonError::into_inner).map(|first| first.elapsed())
    }

    /// Whether the broker ever answered to a message.
    pub(super) fn is_proven(&self) -> bool {
        *self.proven.borrow()
    }

    /// Waits until the broker answers to a message.
    pub(super) async fn proves_itself(&self) {
        // The sender lives as long as `self`.
        let _ = self.proven.subscribe().wait_for(|proven| *proven).await;
    }

    /// Whether messages were on their way whose answers did not all come.
    pub(super) fn is_publishing(&self) -> bool {
        self.publishing.load(Ordering::Relaxed)
    }

    /// Notes why the connection ended, before it is taken back.
    pub(super) fn set_end(&self, error: &LinkError) {
        // The first reason is the right one.
        let _ = self.end.set(error.clone());
    }

    /// Why the connection ended, once it was taken back for that.
    pub(super) fn end(&self) -> Option<&LinkError> {
        self.end.get()
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    async fn publish_all(&self, messages: &[&Outgoing], fates: &mut [Fate]) -> Result<(), LinkError> {
        // The first poll of each puts its frames in line, so the order on the wire is this order.
        // Waiting for each to be written before the next would cost a thread switch a message.
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
        let mut outcome = Ok(());
        let mut confirms = Vec::with_capacity(messages.len());
        for (publish, written) in writing {
            match written {
                Some(confirm) => confirms.push(confirm),
                None => match self.patiently(publish).await {
                    Ok(confirm) => confirms.push(confirm),
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                },
            }
        }
        failpoint!("sink::published");
        // A return may come with the answer to another message (lapin hands them out in the order of
        // arrival), so they are told apart by their id, and only once every answer is there.
        let mut returned = Vec::new();
        for (confirm, fate) in confirms.into_iter().zip(fates.iter_mut()) {
            let answer = match outcome {
                Ok(()) => self.patiently(confirm).await,
                // No more waiting, but the answers that did come are worth having.
                Err(_) => confirm.now_or_never().unwrap_or(Err(ErrorKind::FutureCompleted.into())).map_err(Into::into),
            };
            match answer {
                Ok(confirmation) => {
                    *fate = if confirmation.is_ack() { Fate::Delivered } else { Fate::Rejected };
                    returned.extend(confirmation.take_message().map(|message| id_of(&message)));
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        failpoint!("sink::confirmed");
        let complete = assign_returns(messages, &returned, fates, outcome.is_ok());
        outcome.and(if complete { Ok(()) } else { Err(LinkError::BrokenOff) })
    }

    /// Waits for the broker, but not for ever, unless it says that it is blocked.
    async fn patiently<T>(&self, answer: impl Future<Output = Result<T, BrokerError>>) -> Result<T, LinkError> {
        let mut answer = pin!(answer);
        let mut blocked = self.blocked.clone();
        loop {
            tokio::select! {
                biased;
                answer = answer.as_mut() => return Ok(answer?),
                changed = blocked.changed() => {
                    if changed.is_err() {
                        // Whoever watched the connection is gone, and lapin's answer is all there will be.
                        return Ok(time::timeout(self.patience, answer).await.map_err(|_| LinkError::Ended)??);
                    }
                }
                () = time::sleep(self.patience) => {
                    if !*blocked.borrow() {
                        return Err(LinkError::Unconfirmed(self.patience));
                    }
                }
            }
        }
    }

    fn properties(&self, message: &Outgoing) -> BasicProperties {
        BasicProperties::default()
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

/// Marks the messages that came back, by their ids; whether every one of `returned` was one of ours.
///
/// Where not every answer came, a return that is known may belong to any message and one that is
/// not known may be missing, unless none came at all: then none belongs to an answer that is here,
/// for the broker sends the return first. So with returns, an incomplete set of answers is worth nothing.
fn assign_returns(messages: &[&Outgoing], returned: &[String], fates: &mut [Fate], answered: bool) -> bool {
    let mut ours = true;
    for id in returned {
        match messages.iter().position(|sent| sent.correlation_id == *id) {
            Some(index) if fates[index] == Fate::Delivered => fates[index] = Fate::Returned,
            Some(_) => {}
            None => ours = false,
        }
    }
    if !ours || (!answered && !returned.is_empty()) {
        fates.fill(Fate::Unknown);
    }
    ours
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

    fn after_returns(fates: [Fate; 3], returned: &[&str], answered: bool) -> (bool, [Fate; 3]) {
        let sent = ["a", "b", "c"].map(|id| Outgoing {
            sequence: 0,
            event_type: "created".to_owned(),
            correlation_id: id.to_owned(),
            timestamp: 0,
            body: Vec::new(),
        });
        let returned: Vec<_> = returned.iter().map(ToString::to_string).collect();
        let mut fates = fates;
        let ours = assign_returns(&sent.each_ref(), &returned, &mut fates, answered);
        (ours, fates)
    }

    #[test]
    fn a_return_belongs_to_the_message_that_it_names() {
        use Fate::{Delivered, Rejected, Returned, Unknown};
        let all = [Delivered; 3];
        assert_eq!(after_returns(all, &[], true), (true, all));
        assert_eq!(after_returns(all, &["c", "a"], true), (true, [Returned, Delivered, Returned]));
        assert_eq!(
            after_returns([Delivered, Rejected, Delivered], &["a"], true),
            (true, [Returned, Rejected, Delivered])
        );
        // A return from before shows that answers are mixed up.
        assert_eq!(after_returns(all, &["z"], true), (false, [Unknown; 3]));
    }

    #[test]
    fn without_all_answers_no_message_that_may_have_come_back_counts_as_delivered() {
        use Fate::{Delivered, Unknown};
        let cut_off = [Delivered, Delivered, Unknown];
        assert_eq!(after_returns(cut_off, &[], false), (true, cut_off));
        assert_eq!(after_returns(cut_off, &["b"], false), (true, [Unknown; 3]));
    }
}
