//! Keeps a connection to the broker open, and opens a new one whenever it fails.
//!
//! This is a task of its own. So the connection exists before the first message, heartbeats continue between batches,
//! and the status is always current. After any failure the connection is closed down to the socket and opened again,
//! with channel, exchange and confirms: one way to recover is easier to trust than three.
//!
//! If the broker has several nodes, the others are tried at once; see `round.rs`.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use futures::stream::BoxStream;
use lapin::options::ConfirmSelectOptions;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::sync::{mpsc, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::delivery_status::DeliveryStatus;
use super::exchange::channel_with_exchange;
use super::log_throttle::LogThrottle;
use super::publish::{Link, LinkError};
use super::refusal::{self, Failure, Step};
use super::round::{Candidate, Round};
use super::socket::SocketGuard;
use super::{AmqpSettings, BrokerUrl, Tls};

/// How long the whole login may take once the broker is reached.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a graceful close may take. A process is killed two seconds after the default grace time.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long after the end of a connection lapin may take to give the reason.
const REASON_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that lasted this long was good, if no message waited for an answer then.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// The pause before the next connection after the broker refused a message. The broker is reachable, and the next
/// connection finds out which message it was.
const AFTER_REFUSED_MESSAGE: Duration = Duration::from_millis(50);

/// The longest pause after a failure that may come from a file: the file may be about to be replaced.
const FILE_PAUSE: Duration = Duration::from_secs(3);

/// Keeps one connection open, and hands it out as a [`Link`] while it is good.
pub(super) struct Supervisor {
    settings: Arc<AmqpSettings>,
    /// The settings in effect. If they come from files, as last read.
    broker: BrokerUrl,
    tls: Tls,
    status: Arc<DeliveryStatus>,
    links: watch::Sender<Option<Arc<Link>>>,
    closing: CancellationToken,
}

/// When to log that there is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogConnected {
    AtOnce,
    /// Once the broker has answered to a message: the last connection was of no use.
    WhenAnswered,
    /// If an outage was logged: the last connection ended because of a message.
    IfOutageLogged,
}

/// What to do after the attempts so far.
struct Attempts {
    next: Next,
    log_connected: LogConnected,
    outage: OutageLog,
    /// The pauses between rounds.
    pauses: ExponentialBackoff,
}

impl Attempts {
    fn new() -> Self {
        let (next, log_connected) = (Next::Round, LogConnected::AtOnce);
        Self { next, log_connected, outage: OutageLog::default(), pauses: pauses() }
    }
}

/// Which nodes to try next.
#[derive(Default)]
enum Next {
    /// All of them, with the settings as they are now.
    #[default]
    Round,
    /// All but this one, whose connection was lost for this reason.
    RoundWithout(SocketAddr, Failure),
    /// Those that were not tried yet: the last connection was of no use.
    RestOf(Round),
}

/// How a connection ended.
struct End {
    error: LinkError,
    /// Whether messages were answered, or the connection lasted for [`GOOD_AFTER`].
    was_good: bool,
    /// Whether the broker closed it because of a message.
    is_message_refused: bool,
}

/// Limits the log lines about an outage. A failure that needs the operator is logged even if a lost connection was
/// logged just before.
#[derive(Debug, Default)]
struct OutageLog {
    any: LogThrottle,
    needs_operator: LogThrottle,
}

impl OutageLog {
    /// Notes a failure at `now`. Returns the length of the outage if the failure is due to be logged.
    fn should_log(&mut self, failure: &Failure, now: Instant) -> Option<Duration> {
        let any = self.any.should_log(now);
        match failure {
            Failure::Transient(_) => any,
            Failure::NeedsOperator(_) | Failure::SettingsFile(_) => self.needs_operator.should_log(now),
        }
    }

    /// Notes that there is a connection at `now`. Returns the length of the outage if there was one.
    fn ended(&mut self, now: Instant) -> Option<Duration> {
        self.needs_operator.ended(now);
        self.any.ended(now)
    }
}

/// One connection and everything that belongs to it. The fields are dropped in this order: the socket first.
struct Session {
    _socket: SocketGuard,
    node: Candidate,
    link: Arc<Link>,
    connection: Connection,
    events: BoxStream<'static, Event>,
    given_up: mpsc::UnboundedReceiver<LinkError>,
    blocked: watch::Sender<bool>,
}

impl Supervisor {
    pub(super) fn new(
        settings: Arc<AmqpSettings>,
        status: Arc<DeliveryStatus>,
        links: watch::Sender<Option<Arc<Link>>>,
        closing: CancellationToken,
    ) -> Self {
        let (broker, tls) = (settings.broker.clone(), settings.tls.clone());
        Self { settings, broker, tls, status, links, closing }
    }

    /// Keeps the connection open until `closing` is cancelled, then closes it gracefully.
    pub(super) async fn run(mut self) {
        let closing = self.closing.clone();
        let mut attempts = Attempts::new();
        loop {
            let next = std::mem::take(&mut attempts.next);
            let opened = tokio::select! {
                () = closing.cancelled() => return,
                opened = self.open(next) => opened,
            };
            let pause = match opened {
                Ok((session, round)) => {
                    let node = session.node.clone();
                    let Some(end) = self.supervise(session, &mut attempts).await else { return };
                    self.report_end(&end, &node, round, &mut attempts)
                }
                Err(failure) => self.report(&failure, &mut attempts),
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Opens a connection that is ready to publish, to the first node that accepts it. Returns it with the nodes that were
    /// not tried yet.
    async fn open(&mut self, next: Next) -> Result<(Session, Round), Failure> {
        let mut round = match next {
            Next::RestOf(round) => round,
            Next::Round => self.new_round().await?,
            Next::RoundWithout(lost, failure) => self.new_round().await?.without(lost, failure),
        };
        while let Some(node) = round.next().await {
            match self.connect(&node).await {
                Ok(session) => return Ok((session, round)),
                Err(failure) => {
                    tracing::debug!(node = node.name(), ?failure, "this node did not accept the connection");
                    round.failed(failure);
                }
            }
        }
        Err(round.into_failure())
    }

    /// A round of all nodes, with the settings as they are now.
    async fn new_round(&mut self) -> Result<Round, Failure> {
        if let Some(reread) = &self.settings.reread {
            let timed_out =
                || Err(format!("the files with the broker's settings were not read within {HANDSHAKE_TIMEOUT:?}"));
            let read = time::timeout(HANDSHAKE_TIMEOUT, reread.read()).await.unwrap_or_else(|_| timed_out());
            (self.broker, self.tls) = read.map_err(Failure::SettingsFile)?;
        }
        let broker = match self.settings.frame_max {
            Some(frame_max) => self.broker.clone().with_frame_max(frame_max),
            None => self.broker.clone(),
        };
        Ok(Round::new(&broker))
    }

    async fn connect(&self, node: &Candidate) -> Result<Session, Failure> {
        let connecting = node.url.uri().query.connection_timeout.map_or(HANDSHAKE_TIMEOUT, Duration::from_millis);
        let limit = connecting.saturating_add(HANDSHAKE_TIMEOUT);
        match time::timeout(limit, self.handshake(node)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err((error, step))) => Err(self.explain(&error, step, node)),
            Err(_) => Err(Failure::Transient(format!("{}: no answer within {limit:?}", node.name()))),
        }
    }

    async fn handshake(&self, node: &Candidate) -> Result<Session, (LinkError, Step)> {
        let settings = &*self.settings;
        let socket = SocketGuard::default();
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("file_watcher_{}", settings.instance_id).into())
            .with_client_property("instance_id".into(), settings.instance_id.as_str().into())
            .with_client_property("watched_directory".into(), settings.watched_directory.as_str().into());
        let at = |step| move |error: lapin::Error| (LinkError::Broker(error), step);
        let connection = socket.connect(node, &self.tls, properties).await.map_err(at(Step::Connect))?;
        let channel = channel_with_exchange(&connection, &settings.exchange).await.map_err(at(Step::Declare))?;
        // From here on: the refusal of a first declaration is no end of the connection.
        let events = connection.events_listener().boxed();
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(at(Step::Declare))?;
        let (give_up, reasons) = mpsc::unbounded_channel();
        let blocked = watch::Sender::new(connection.status().blocked());
        let link = Arc::new(Link::new(channel, settings, blocked.subscribe(), give_up));
        let node = node.clone();
        Ok(Session { _socket: socket, node, link, connection, events, given_up: reasons, blocked })
    }

    /// Hands the connection out for as long as it is good; returns how it ended. `None` if `closing` was cancelled.
    async fn supervise(
        &self,
        mut session: Session,
        Attempts { outage, log_connected, .. }: &mut Attempts,
    ) -> Option<End> {
        let (link, node) = (Arc::clone(&session.link), session.node.name());
        self.status.connected(&node);
        self.links.send_replace(Some(Arc::clone(&link)));
        let mut is_good = false;
        match *log_connected {
            LogConnected::AtOnce => self.log_connected(&node, outage.ended(Instant::now())),
            LogConnected::IfOutageLogged => {
                if let Some(lasted) = outage.ended(Instant::now()) {
                    self.log_connected(&node, Some(lasted));
                }
            }
            LogConnected::WhenAnswered => {}
        }
        let end = {
            let mut failure = pin!(session.failure(&self.status));
            let mut good = pin!(link.is_good(GOOD_AFTER));
            loop {
                tokio::select! {
                    biased;
                    () = self.closing.cancelled() => break None,
                    () = &mut good, if !is_good => {
                        is_good = true;
                        if *log_connected == LogConnected::WhenAnswered {
                            self.log_connected(&node, outage.ended(Instant::now()));
                        }
                    }
                    error = &mut failure => {
                        let is_message_refused = link.is_publishing() && self.refuses_message(&error);
                        break Some(End { error, was_good: is_good || link.is_answered(), is_message_refused });
                    }
                }
            }
        };
        if let Some(end) = &end {
            link.set_end(&end.error);
        }
        self.links.send_replace(None);
        if end.is_none() {
            // If the broker does not answer, nothing is lost: unconfirmed messages are published again later.
            let _ = time::timeout(CLOSE_TIMEOUT, session.connection.close(200, "the service stops".into())).await;
        }
        end
    }

    fn refuses_message(&self, error: &LinkError) -> bool {
        matches!(error, LinkError::Broker(error) if refusal::of_message(error, &self.broker).is_some())
    }

    fn explain(&self, error: &LinkError, step: Step, node: &Candidate) -> Failure {
        match error {
            LinkError::Broker(error) => refusal::explain(error, step, &node.url, &self.settings.exchange),
            LinkError::Unconfirmed(_) | LinkError::Cancelled | LinkError::Rejected | LinkError::Ended => {
                Failure::Transient(format!("{}: {error}", node.name()))
            }
        }
    }

    fn log_connected(&self, node: &str, outage: Option<Duration>) {
        let broker = &self.broker;
        match outage {
            None => tracing::info!(%broker, node, "connected to RabbitMQ"),
            Some(outage) => {
                tracing::info!(%broker, node, outage_secs = outage.as_secs(), "connected to RabbitMQ again");
            }
        }
    }

    /// Records how a connection ended, and decides which nodes are tried next; returns the pause before that.
    fn report_end(&self, end: &End, node: &Candidate, round: Round, attempts: &mut Attempts) -> Duration {
        let failure = self.explain(&end.error, Step::Publish, node);
        attempts.log_connected = LogConnected::IfOutageLogged;
        if end.is_message_refused {
            attempts.pauses = pauses();
            self.status.lost(failure.into_text());
            return AFTER_REFUSED_MESSAGE;
        }
        if matches!(end.error, LinkError::Rejected) {
            // This is no outage.
            return Duration::ZERO;
        }
        self.report_loss(&failure, &mut attempts.outage);
        if end.was_good {
            attempts.log_connected = LogConnected::AtOnce;
            attempts.pauses = pauses();
            attempts.next = Next::RoundWithout(node.address, failure);
        } else {
            attempts.log_connected = LogConnected::WhenAnswered;
            attempts.next = Next::RestOf(round.without(node.address, failure));
        }
        // Another node may be ready.
        Duration::ZERO
    }

    /// Records the loss of a connection in the status, and logs it if it is due.
    fn report_loss(&self, failure: &Failure, outage: &mut OutageLog) {
        let error = failure.clone().into_text();
        if matches!(failure, Failure::Transient(_)) && outage.should_log(failure, Instant::now()).is_some() {
            tracing::warn!(error, "the connection to RabbitMQ was lost; messages wait; connecting again");
        }
        self.status.lost(error);
    }

    /// Records the failure of a round in the status and logs it if it is due; returns the pause before the next round.
    fn report(&self, failure: &Failure, attempts: &mut Attempts) -> Duration {
        let Attempts { outage, pauses, .. } = attempts;
        let due = outage.should_log(failure, Instant::now()).map(|lasted| lasted.as_secs());
        match failure {
            Failure::Transient(error) => {
                self.status.failed(error.clone());
                if let Some(outage_secs) = due {
                    tracing::warn!(outage_secs, error, "no connection to RabbitMQ; messages wait; retrying");
                }
                pauses.next().unwrap_or(self.settings.refused_pause)
            }
            Failure::NeedsOperator(reason) => {
                self.status.refused(reason.clone());
                if let Some(outage_secs) = due {
                    tracing::error!(
                        outage_secs,
                        reason,
                        "RabbitMQ cannot be used as configured; messages wait; retrying slowly"
                    );
                }
                match self.settings.reread {
                    Some(_) => self.settings.refused_pause.min(FILE_PAUSE),
                    None => self.settings.refused_pause,
                }
            }
            Failure::SettingsFile(error) => {
                self.status.failed(error.clone());
                if let Some(outage_secs) = due {
                    tracing::error!(
                        outage_secs,
                        error,
                        "a file with RabbitMQ settings cannot be used; messages wait; reading it again soon"
                    );
                }
                self.settings.refused_pause.min(FILE_PAUSE)
            }
        }
    }
}

impl Session {
    /// Waits until the connection fails; returns why.
    async fn failure(&mut self, status: &DeliveryStatus) -> LinkError {
        let mut blocked = LogThrottle::default();
        // Most ends come as events. The check every second is for those that do not.
        let mut checks = time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        if blocked.should_log(Instant::now()).is_some() {
                            tracing::warn!(reason, "RabbitMQ is blocked and takes no messages; they wait");
                        }
                        self.blocked.send_replace(true);
                        status.blocked(reason);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        if let Some(lasted) = blocked.ended(Instant::now()) {
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
                _ = checks.tick() => {
                    if !self.connection.status().connected() || !self.link.is_open() {
                        return self.reason().await;
                    }
                }
            }
        }
    }

    /// Why the connection or its channel ended. lapin changes its status first and sends the reason a moment later. In
    /// between, a refusal by the broker must not be taken for a lost connection.
    async fn reason(&mut self) -> LinkError {
        let reason = async {
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
        time::timeout(REASON_TIMEOUT, reason).await.unwrap_or(LinkError::Ended)
    }
}

/// Pauses from 0.1 s to 15 s, doubled each time, with jitter: services that lost the same broker must not all come back
/// at the same moment.
pub fn pauses() -> ExponentialBackoff {
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
    fn a_refusal_is_logged_though_a_lost_connection_was_logged_just_before() {
        let (lost, refused) =
            (Failure::Transient("lost".into()), Failure::NeedsOperator("wrong user name or password".into()));
        let mut outage = OutageLog::default();
        let now = Instant::now();
        assert!(outage.should_log(&lost, now).is_some() && outage.should_log(&lost, now).is_none());
        assert!(outage.should_log(&refused, now).is_some() && outage.should_log(&refused, now).is_none());
        assert!(outage.should_log(&lost, now).is_none());
        assert!(outage.ended(now).is_some());
        assert!(outage.should_log(&refused, now).is_some() && outage.should_log(&lost, now).is_none());
    }
}
