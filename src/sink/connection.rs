//! The connection, kept for ever: made, watched, and made again.
//!
//! A task of its own does this, so that the connection is there before it is needed, heartbeats go
//! on between batches, and whoever looks at the state sees the truth. However a connection fails, it
//! is torn down to the socket and made anew, with channel, exchange and confirms: one way back is
//! easier to trust than three.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use futures::stream::BoxStream;
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, Event, ExchangeKind};
use tokio::sync::{mpsc, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::delivery_status::DeliveryStatus;
use super::publish::{Link, LinkError};
use super::rarely::Rarely;
use super::refusal::{self, Step, Trouble};
use super::wire::Wire;
use super::{AmqpSettings, BrokerUrl, Tls};

/// How long the broker may take for the whole of logging in, after it was reached.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a broker may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long the reason for an end may take to come after the end.
const REASON: Duration = Duration::from_millis(500);

/// A connection that lived this long was good, even if it carried no message.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// The pause before the next connection after the broker refused a message: it is there, and the message is being
/// looked for.
const AFTER_REFUSED_MESSAGE: Duration = Duration::from_millis(50);

/// The longest pause after a refusal while a file holds what may be wrong: somebody may be about to replace it.
const FILE_PAUSE: Duration = Duration::from_secs(3);

/// Keeps one connection, and hands it out as a [`Link`] while it is good.
pub(super) struct Keeper {
    settings: Arc<AmqpSettings>,
    /// As last read, if they come from files.
    broker: BrokerUrl,
    tls: Tls,
    status: Arc<DeliveryStatus>,
    links: watch::Sender<Option<Arc<Link>>>,
    closing: CancellationToken,
}

/// When to say that there is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    AtOnce,
    /// Once a message was answered: the last connection was of no use.
    WhenProven,
    /// Only if its absence was said: the last connection ended with a refused message.
    IfMissed,
}

/// How a connection ended.
struct End {
    error: LinkError,
    /// Whether it was of any use.
    good: bool,
    /// Whether a message ended it that the broker will never take.
    refused_message: bool,
}

/// A time without a broker. That a person must put something right is said even where it was said just before that
/// there is no connection.
#[derive(Debug, Default)]
struct Outage {
    any: Rarely,
    refused: Rarely,
}

impl Outage {
    /// There is this trouble at `now`: how long already, where that is to be said.
    fn again(&mut self, trouble: &Trouble, now: Instant) -> Option<Duration> {
        let any = self.any.again(now);
        match trouble {
            Trouble::Passing(_) => any,
            Trouble::Refused(_) | Trouble::Unreadable(_) => self.refused.again(now),
        }
    }

    /// It is over: how long it lasted, where it ever began.
    fn over(&mut self, now: Instant) -> Option<Duration> {
        self.refused.over(now);
        self.any.over(now)
    }
}

/// One connection with all that belongs to it. Dropped in this order: the socket first.
struct Session {
    _wire: Wire,
    link: Arc<Link>,
    connection: Connection,
    events: BoxStream<'static, Event>,
    given_up: mpsc::UnboundedReceiver<LinkError>,
    blocked: watch::Sender<bool>,
}

impl Keeper {
    pub(super) fn new(
        settings: Arc<AmqpSettings>,
        status: Arc<DeliveryStatus>,
        links: watch::Sender<Option<Arc<Link>>>,
        closing: CancellationToken,
    ) -> Self {
        let (broker, tls) = (settings.broker.clone(), settings.tls.clone());
        Self { settings, broker, tls, status, links, closing }
    }

    /// Keeps the connection until `closing`, which closes it politely.
    pub(super) async fn run(mut self) {
        let closing = self.closing.clone();
        let mut pauses = pauses();
        let mut outage = Outage::default();
        let mut greeting = Greeting::AtOnce;
        loop {
            let opened = tokio::select! {
                () = closing.cancelled() => return,
                opened = self.open() => opened,
            };
            let pause = match opened {
                Ok(session) => {
                    let Some(end) = self.attend(session, &mut outage, greeting).await else { return };
                    let trouble = self.explain(&end.error, Step::Publish);
                    if end.refused_message {
                        greeting = Greeting::IfMissed;
                        pauses = self::pauses();
                        let (Trouble::Passing(error) | Trouble::Refused(error) | Trouble::Unreadable(error)) = trouble;
                        self.status.failed(error);
                        AFTER_REFUSED_MESSAGE
                    } else {
                        greeting = if end.good { Greeting::AtOnce } else { Greeting::WhenProven };
                        if end.good {
                            pauses = self::pauses();
                        }
                        self.complain(&trouble, &mut outage, &mut pauses)
                    }
                }
                Err(trouble) => self.complain(&trouble, &mut outage, &mut pauses),
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Makes a connection that is ready to publish.
    async fn open(&mut self) -> Result<Session, Trouble> {
        if let Some(reread) = &self.settings.reread {
            let unanswered = || Err(format!("the files with the broker's settings give nothing within {HANDSHAKE:?}"));
            let read = time::timeout(HANDSHAKE, reread.read()).await.unwrap_or_else(|_| unanswered());
            (self.broker, self.tls) = read.map_err(Trouble::Unreadable)?;
        }
        let reaching = self.broker.uri().query.connection_timeout.map_or(HANDSHAKE, Duration::from_millis);
        let limit = reaching.saturating_add(HANDSHAKE);
        match time::timeout(limit, self.handshake()).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err((error, step))) => Err(self.explain(&error, step)),
            Err(_) => Err(Trouble::Passing(format!("{}: no answer within {limit:?}", self.broker.address()))),
        }
    }

    async fn handshake(&self) -> Result<Session, (LinkError, Step)> {
        let settings = &*self.settings;
        let wire = Wire::default();
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("file_watcher_{}", settings.instance_id).into())
            .with_client_property("instance_id".into(), settings.instance_id.as_str().into())
            .with_client_property("watched_directory".into(), settings.watched_directory.as_str().into());
        let at = |step| move |error: lapin::Error| (LinkError::Broker(error), step);
        let connection = wire.connect(&self.broker, &self.tls, properties).await.map_err(at(Step::Connect))?;
        let events = connection.events_listener().boxed();
        let channel = connection.create_channel().await.map_err(at(Step::Connect))?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(settings.exchange.as_str().into(), ExchangeKind::Topic, durable, FieldTable::default())
            .await
            .map_err(at(Step::Declare))?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(at(Step::Declare))?;
        let (give_up, reasons) = mpsc::unbounded_channel();
        let blocked = watch::Sender::new(connection.status().blocked());
        let link = Link::new(channel, &settings.exchange, settings.confirm_timeout, blocked.subscribe(), give_up);
        Ok(Session { _wire: wire, link: Arc::new(link), connection, events, given_up: reasons, blocked })
    }

    /// Hands the connection out for as long as it is good; then says how it ended. `None` after `closing`.
    async fn attend(&self, mut session: Session, outage: &mut Outage, greeting: Greeting) -> Option<End> {
        let link = Arc::clone(&session.link);
        self.status.connected();
        self.links.send_replace(Some(Arc::clone(&link)));
        let mut good = false;
        match greeting {
            Greeting::AtOnce => self.say_connected(outage.over(Instant::now())),
            Greeting::IfMissed => {
                if let Some(lasted) = outage.over(Instant::now()) {
                    self.say_connected(Some(lasted));
                }
            }
            Greeting::WhenProven => {}
        }
        let end = {
            let mut fails = pin!(session.fails(&self.status));
            let mut proof = pin!(time::timeout(GOOD_LIFE, link.proves_itself()));
            loop {
                tokio::select! {
                    biased;
                    () = self.closing.cancelled() => break None,
                    _ = &mut proof, if !good => {
                        good = true;
                        if greeting == Greeting::WhenProven {
                            self.say_connected(outage.over(Instant::now()));
                        }
                    }
                    error = &mut fails => {
                        let refused_message = link.is_publishing() && self.refuses_message(&error);
                        break Some(End { error, good: good || link.is_proven(), refused_message });
                    }
                }
            }
        };
        if let Some(end) = &end {
            link.set_end(&end.error);
        }
        self.links.send_replace(None);
        if end.is_none() {
            // Nothing is lost where the broker does not answer: what is not confirmed will be sent again.
            let _ = time::timeout(FAREWELL, session.connection.close(200, "the service stops".into())).await;
        }
        end
    }

    fn refuses_message(&self, error: &LinkError) -> bool {
        matches!(error, LinkError::Broker(error) if refusal::of_message(error, &self.broker).is_some())
    }

    fn explain(&self, error: &LinkError, step: Step) -> Trouble {
        match error {
            LinkError::Broker(error) => refusal::explain(error, step, &self.broker, &self.settings.exchange),
            LinkError::Unconfirmed(_) | LinkError::BrokenOff | LinkError::Ended => Trouble::Passing(error.to_string()),
        }
    }

    fn say_connected(&self, outage: Option<Duration>) {
        let broker = &self.broker;
        match outage {
            None => tracing::info!(%broker, "connected to RabbitMQ"),
            Some(outage) => tracing::info!(%broker, outage_secs = outage.as_secs(), "connected to RabbitMQ again"),
        }
    }

    /// Notes and rarely says the trouble; returns how long to wait before the next attempt.
    fn complain(&self, trouble: &Trouble, outage: &mut Outage, pauses: &mut ExponentialBackoff) -> Duration {
        let said = outage.again(trouble, Instant::now()).map(|lasted| lasted.as_secs());
        match trouble {
            Trouble::Passing(error) => {
                self.status.failed(error.clone());
                if let Some(outage_secs) = said {
                    tracing::warn!(outage_secs, error, "no connection to RabbitMQ, messages wait; trying again");
                }
                pauses.next().unwrap_or(self.settings.refused_pause)
            }
            Trouble::Refused(reason) => {
                self.status.refused(reason.clone());
                if let Some(outage_secs) = said {
                    tracing::error!(outage_secs, reason, "RabbitMQ refuses us, messages wait; trying again, slowly");
                }
                match self.settings.reread {
                    Some(_) => self.settings.refused_pause.min(FILE_PAUSE),
                    None => self.settings.refused_pause,
                }
            }
            Trouble::Unreadable(error) => {
                self.status.failed(error.clone());
                if let Some(outage_secs) = said {
                    tracing::error!(
                        outage_secs,
                        error,
                        "a file with settings of RabbitMQ cannot be used, messages wait; it is read again soon"
                    );
                }
                self.settings.refused_pause.min(FILE_PAUSE)
            }
        }
    }
}

impl Session {
    /// Waits until the connection is of no more use.
    async fn fails(&mut self, status: &DeliveryStatus) -> LinkError {
        let mut blocking = Rarely::default();
        // The events say it at once; the look every second is for an end that has no event.
        let mut looks = time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        if blocking.again(Instant::now()).is_some() {
                            tracing::warn!(reason, "RabbitMQ takes no messages for now, messages wait");
                        }
                        self.blocked.send_replace(true);
                        status.blocked(reason);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        if let Some(lasted) = blocking.over(Instant::now()) {
                            tracing::info!(lasted_secs = lasted.as_secs(), "RabbitMQ takes messages again");
                        }
                        self.blocked.send_replace(false);
                        status.unblocked();
                    }
                    Some(Event::Error(error)) => return error.into(),
                    Some(_) => {}
                    None => return LinkError::Ended,
                },
                Some(error) = self.given_up.recv() => return error,
                _ = looks.tick() => {
                    if !self.connection.status().connected() || !self.link.is_open() {
                        return self.reason().await;
                    }
                }
            }
        }
    }

    /// Why the connection or its channel ended. lapin notes first that it did, and tells why a moment later: whoever
    /// looks in between must not take the broker's refusal for a lost connection.
    async fn reason(&mut self) -> LinkError {
        let told = async {
            loop {
                tokio::select! {
                    biased;
                    event = self.events.next() => match event {
                        Some(Event::Error(error)) => return error.into(),
                        Some(_) => {}
                        None => return LinkError::Ended,
                    },
                    Some(error) = self.given_up.recv() => return error,
                }
            }
        };
        time::timeout(REASON, told).await.unwrap_or(LinkError::Ended)
    }
}

/// From a tenth of a second to half a minute, each a little different, so that many services that
/// lost one broker don't come back to it in step.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_though_a_lost_connection_was_said_just_before() {
        let (lost, refused) = (Trouble::Passing("lost".into()), Trouble::Refused("who are you?".into()));
        let mut outage = Outage::default();
        let now = Instant::now();
        assert!(outage.again(&lost, now).is_some() && outage.again(&lost, now).is_none());
        assert!(outage.again(&refused, now).is_some() && outage.again(&refused, now).is_none());
        assert!(outage.again(&lost, now).is_none());
        assert!(outage.over(now).is_some());
        assert!(outage.again(&refused, now).is_some() && outage.again(&lost, now).is_none());
    }
}
