//! Tells systemd how the service is, if it was started by a unit of `Type=notify`.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;

use super::reporter::Reporter;
use crate::http::Source as _;
use crate::status::Severity;

/// How often the status is told at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tells that the process is alive while it adds watches, which takes long in a large library. Never returns.
pub(super) async fn notify_of_start() -> Infallible {
    if !is_wanted() {
        return std::future::pending().await;
    }
    let interval = interval();
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(interval).await;
    }
}

/// Tells that the watch is up, then the status when it changes, and that the engine answers. Never returns.
pub(super) async fn notify(reporter: &Reporter) -> Infallible {
    if !is_wanted() {
        return std::future::pending().await;
    }
    let interval = interval();
    tell(&[NotifyState::Ready]);
    let mut told = String::new();
    loop {
        let status = status(reporter);
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
        if reporter.is_live() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(interval).await;
    }
}

/// Whether systemd listens.
fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Half of the time after which the watchdog acts, or less.
fn interval() -> Duration {
    let mut watchdog_us = 0;
    let has_watchdog = sd_notify::watchdog_enabled(false, &mut watchdog_us);
    if has_watchdog { INTERVAL.min(Duration::from_micros(watchdog_us) / 2) } else { INTERVAL }
}

/// Tells that the service is about to end.
pub(super) fn notify_end() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    // If systemd cannot be reached, its own limits apply.
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "systemd cannot be notified");
    }
}

/// What is not in order, in one line.
fn status(reporter: &Reporter) -> String {
    let reasons = reporter.readiness().reasons;
    let wrong: Vec<&str> = reasons
        .iter()
        .filter(|condition| condition.severity != Severity::Info)
        .map(|condition| condition.summary.as_str())
        .collect();
    match (wrong.is_empty(), reasons.first()) {
        (false, _) => wrong.join("; "),
        (true, Some(first)) => first.summary.clone(),
        (true, None) => "everything is in order".to_owned(),
    }
}
