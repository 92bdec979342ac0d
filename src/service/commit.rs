//! Runs looks at files, and commits their results.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{MAX_RETRY_WAIT, Service, retry_waits};
use crate::config::{Command, SinkKind};
use crate::content::{Examined, Outcome};
use crate::library::Watcher;
use crate::model::{Cause, Change, FileStat, FsEvent, LibraryPath, Observation, Origin};
use crate::status::{Condition, ConditionKind, LoggedEvent};
use crate::store::Committed;
use crate::stream::Leased;

/// How long a look at a file on a network filesystem may take before its server is checked.
const SERVER_CHECK_WAIT: Duration = Duration::from_secs(3);

impl Service {
    /// Looks at one path on a thread that may block. A panic becomes a failure of that path.
    ///
    /// The threads are not tokio's blocking threads, because these are put to sleep and woken for every file.
    pub(super) async fn examine(&self, look: Leased<FsEvent>) -> Leased<Examined> {
        let Leased { item, lease } = look;
        let examiner = Arc::clone(&self.examiner);
        let path = item.path.clone();
        let (why, attempt) = (item.cause, item.retry.attempt);
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            // The receiver is dropped if the program is stopping or the look took too long.
            let _ = sender.send(examiner.examine(item));
        };
        let result = if self.root.has_server(&path) {
            // The look may block forever, so it must not occupy one of the readers.
            let _ = thread::Builder::new().name("remote look".into()).spawn(work);
            self.while_server_answers(&path, receiver).await
        } else {
            self.readers.spawn(work);
            receiver.await.map_err(|_| std::io::Error::other("the look panicked"))
        };
        let item = result.unwrap_or_else(|error| Examined::failed(path, error));
        tracing::trace!(path = %item.path, ?why, attempt, outcome = item.outcome.as_str(), "looked at");
        Leased { item, lease }
    }

    /// Waits for the result of a look, as long as the server of its file answers.
    async fn while_server_answers(
        &self,
        path: &LibraryPath,
        mut receiver: oneshot::Receiver<Examined>,
    ) -> Result<Examined, std::io::Error> {
        loop {
            tokio::select! {
                examined = &mut receiver => {
                    return examined.map_err(|_| std::io::Error::other("the look panicked"));
                }
                () = tokio::time::sleep(SERVER_CHECK_WAIT) => {}
            }
            let root = Arc::clone(&self.root);
            let _ = tokio::task::spawn_blocking(move || root.ask_servers()).await;
            self.root.check_answered(path)?;
        }
    }

    /// Commits the results of a batch of looks, and pushes hints for paths that have to be looked at again. Releases the
    /// leases at the end. If `is_ending`, whatever needs further looks is left to the next start.
    pub(super) async fn commit(&self, batch: Vec<Leased<Examined>>, is_ending: bool) {
        self.counters.looks.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut leases = Vec::with_capacity(batch.len());
        let left_in_doubt = batch.iter().any(|look| look.item.left_in_doubt);
        let mut outcomes = Vec::with_capacity(batch.len());
        for Leased { item, lease } in batch {
            leases.push((lease, item.tokens));
            if item.look_under {
                self.inbox.mark(item.path.clone(), Duration::ZERO);
            }
            match &item.outcome {
                Outcome::Unchanged => {
                    self.counters.unchanged.fetch_add(1, Ordering::Relaxed);
                    self.chain.pace.unchanged(&item.path);
                }
                Outcome::Failed(error) => self.failed(&item.path, error),
                Outcome::Held => self.inbox.with(|engine, now| engine.look_was_held(now.instant)),
                _ => {}
            }
            outcomes.push((item.outcome, item.displaced));
        }
        let (observations, mut looks_again) = self.confirm(outcomes, is_ending, left_in_doubt).await;
        if let Some(origin) = observations.first().map(|(observation, _)| observation.origin) {
            let (observations, instead): (Vec<Observation>, Vec<FsEvent>) = observations.into_iter().unzip();
            let begun = Instant::now();
            let observations: Arc<[Observation]> = observations.into();
            let committed = self.commit_to_store(&observations).await;
            self.observed.metrics.observe_commit(begun.elapsed());
            self.count(&observations, &committed);
            self.follow(&instead, &committed);
            let Committed { changes, again, other_names, .. } = committed;
            let examiner = Arc::clone(&self.examiner);
            let paths: Vec<LibraryPath> = observations.iter().map(|observation| observation.path.clone()).collect();
            let look = move || examiner.overtaken(&observations, &changes);
            // Paths that cannot be checked now are looked at again.
            let overtaken = self.unless_server_is_silent(&paths, look).await.unwrap_or(paths);
            // They are read this time: the conclusion from their stats alone was wrong.
            let again: HashSet<LibraryPath> = again.into_iter().collect();
            let again = instead.into_iter().filter(|look| again.contains(&look.path));
            looks_again.extend(again.map(FsEvent::written));
            for path in overtaken {
                looks_again.push(FsEvent::new(path, Cause::Found, origin));
            }
            for path in other_names {
                self.inbox.with(|engine, now| engine.push_other_name(path, origin, now.instant));
            }
        }
        for look in looks_again {
            self.inbox.push(look);
        }
        drop(leases);
        self.inbox.looks_ended();
    }

    /// Divides these outcomes into observations that may be committed and hints for paths to look at again. Each observation
    /// comes with the hint that replaces it if the commit rejects it. `left_in_doubt` as in [`Examined::left_in_doubt`].
    async fn confirm(
        &self,
        outcomes: Vec<(Outcome, Option<FileStat>)>,
        is_ending: bool,
        left_in_doubt: bool,
    ) -> (Vec<(Observation, FsEvent)>, Vec<FsEvent>) {
        let (examiner, watcher) = (Arc::clone(&self.examiner), Arc::clone(&self.watcher));
        let catch_up = move || {
            let watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
            watcher.as_ref().is_some_and(Watcher::barrier)
        };
        let observed = |(outcome, _): &(Outcome, Option<FileStat>)| match outcome {
            Outcome::New(it, _) | Outcome::Observed(it, _) | Outcome::Trusted(it, _) => {
                Some((it.path.clone(), it.origin))
            }
            _ => None,
        };
        let (paths, origins): (Vec<LibraryPath>, Vec<Origin>) = outcomes.iter().filter_map(observed).unzip();
        let confirm = move || {
            if left_in_doubt {
                catch_up();
            }
            examiner.confirm(outcomes, is_ending, catch_up)
        };
        let confirmed = self.unless_server_is_silent(&paths, confirm).await;
        confirmed.unwrap_or_else(|| {
            let looks = paths.into_iter().zip(origins);
            (Vec::new(), looks.map(|(path, origin)| FsEvent::new(path, Cause::Found, origin)).collect())
        })
    }

    /// Does `work` that accesses these paths, on a thread that may block. Returns `None` if it takes long and a server of
    /// these paths does not answer.
    async fn unless_server_is_silent<T: Send + 'static>(
        &self,
        paths: &[LibraryPath],
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let mut working = tokio::task::spawn_blocking(work);
        loop {
            tokio::select! {
                done = &mut working => {
                    return Some(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
                }
                () = tokio::time::sleep(SERVER_CHECK_WAIT), if paths.iter().any(|path| self.root.has_server(path)) => {}
            }
            let root = Arc::clone(&self.root);
            let _ = tokio::task::spawn_blocking(move || root.ask_servers()).await;
            if paths.iter().any(|path| self.root.check_answered(path).is_err()) {
                return None;
            }
        }
    }

    /// Commits, and retries until it succeeds. A full disk only stops the intake.
    async fn commit_to_store(&self, observations: &Arc<[Observation]>) -> Committed {
        self.wait_for_room().await;
        let mut waits = retry_waits();
        loop {
            match self.or_wait_if_corrupt(self.store.commit(Arc::clone(observations))).await {
                Ok(committed) => {
                    self.conditions.clear(ConditionKind::StoreFails);
                    return committed;
                }
                Err(error) => {
                    let error = crate::model::with_causes(&error);
                    let wait = waits.next().unwrap_or(MAX_RETRY_WAIT);
                    self.conditions.set(&Condition::StoreFails { error: error.clone() });
                    tracing::error!(
                        error,
                        retry_in_s = wait.as_secs_f64(),
                        "the index cannot be written; intake waits"
                    );
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Waits while the outbox is full. Hints for the same path are merged meanwhile, and nothing is lost.
    async fn wait_for_room(&self) {
        let max_events = self.settings.outbox_max_events;
        if self.store.outbox_length() >= max_events {
            self.conditions.set(&Condition::OutboxFull { max_events });
            // If the store has stopped, the commit fails.
            let _ = self.store.room(self.resume_threshold()).await;
            self.conditions.clear(ConditionKind::OutboxFull);
        }
    }

    /// The length of the outbox below which intake continues after the outbox was full.
    pub(super) fn resume_threshold(&self) -> u64 {
        (self.settings.outbox_max_events / 2).max(1)
    }

    /// Logs the new events for people, and begins to time the messages that follow from events of the kernel.
    fn follow(&self, looks: &[FsEvent], committed: &Committed) {
        let first = committed.last_sequence - committed.changes.len() as u64 + 1;
        let (is_kept, is_shown) = (self.settings.http_addr.is_some(), self.shows_events());
        if !committed.changes.is_empty() && (is_kept || is_shown) {
            let time = format!("{:.0}", jiff::Timestamp::now());
            for (sequence, event) in (first..).zip(&committed.changes) {
                let logged = LoggedEvent::new(sequence, event, time.clone());
                if is_shown {
                    // The bar of the first scan ends with its next frame, which may be later.
                    self.screen.clear_progress();
                    self.screen.print(&logged.to_string());
                }
                if is_kept {
                    self.observed.event_log.add(logged);
                }
            }
        }
        let first_event = |look: &FsEvent| Some((look.path.clone(), look.evidence.first_event?));
        let first_events: HashMap<LibraryPath, Instant> = looks.iter().filter_map(first_event).collect();
        if first_events.is_empty() {
            return;
        }
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for (sequence, event) in (first..).zip(&committed.changes) {
            let first_event = first_events.get(event.change.path());
            if let Some(took) = first_event.and_then(|first_event| latencies.committed(sequence, *first_event)) {
                self.observed.observe_latency(took);
            }
        }
    }

    /// Whether each event is shown to somebody at a terminal. During the first scan there is a progress bar instead.
    fn shows_events(&self) -> bool {
        self.screen.is_terminal()
            && self.settings.command == Command::Watch
            && self.settings.sink == SinkKind::Amqp
            && self.scanner.tally.last_scan().is_some()
    }

    fn count(&self, observations: &[Observation], committed: &Committed) {
        let mut changed = HashSet::new();
        for event in &committed.changes {
            let event_type = event.change.event_type();
            self.observed.events.count(event_type);
            self.observed.metrics.count_event(event_type, event.origin);
            changed.insert(event.change.path());
            if matches!(event.change, Change::Created(_) | Change::Modified(_)) {
                self.chain.pace.published(event.change.path());
            }
            tracing::debug!(%event_type, path = %event.change.path(), origin = event.origin.as_str(), "committed");
        }
        for observation in observations.iter().filter(|observation| !changed.contains(&observation.path)) {
            self.counters.unchanged.fetch_add(1, Ordering::Relaxed);
            self.chain.pace.unchanged(&observation.path);
        }
        self.inbox.engine().with(|engine| {
            for observation in observations {
                engine.looked_at(&observation.path);
            }
            for event in &committed.changes {
                if let Change::Deleted(path) = &event.change {
                    engine.deleted(path);
                }
            }
        });
    }

    pub(super) fn failed(&self, path: &LibraryPath, error: &std::io::Error) {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        let is_new = self.inbox.engine().with(|engine| engine.look_failed(path, &error.to_string()));
        let path = path.to_absolute(self.root.path());
        if is_new {
            tracing::warn!(path = %path.display(), %error, "cannot be read; the next walk retries it");
        } else {
            tracing::debug!(path = %path.display(), %error, "still cannot be read");
        }
    }
}
