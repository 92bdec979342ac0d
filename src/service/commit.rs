//! Looks at files, and the commits of what they found.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{LONGEST_WAIT, Service, retry_waits};
use crate::content::{Examined, Outcome};
use crate::library::Watcher;
use crate::model::{Cause, Change, FileStat, FsEvent, LibraryPath, Observation, Origin};
use crate::store::Committed;
use crate::stream::Leased;

/// How long a look at a file with a server may take before it is asked whether the server answers at all.
const LOOK_TIME: Duration = Duration::from_secs(3);

/// Paths whose failure is remembered, so that it is told once; beyond that it may be told again.
const FAILURES_REMEMBERED: usize = 10_000;

/// How soon everything is walked after a look found that a mount is gone.
const MOUNT_MISSED: Duration = Duration::from_millis(500);

/// How long it goes without saying that the outbox is full.
const FULL_SAID_AGAIN: Duration = Duration::from_mins(1);

impl Service {
    /// Looks at one path on a thread that may block. A panic there is an outcome of that path.
    ///
    /// Not on tokio's threads for that, which sleep and are woken for every file.
    pub(super) async fn examine(&self, look: Leased<FsEvent>) -> Leased<Examined> {
        let Leased { item, lease } = look;
        let examiner = Arc::clone(&self.examiner);
        let path = item.path.clone();
        let (why, attempt) = (item.cause, item.retry.attempt);
        let (tell, told) = oneshot::channel();
        let work = move || {
            // Where nobody waits any more, the program is about to end, or the look took too long.
            let _ = tell.send(examiner.examine(item));
        };
        let told = if self.root.has_server(&path) {
            // The look may never end: it must not take one of the readers with it.
            let _ = thread::Builder::new().name("remote look".into()).spawn(work);
            self.while_answered(&path, told).await
        } else {
            self.readers.spawn_fifo(work);
            told.await.map_err(|_| std::io::Error::other("the look panicked"))
        };
        let item = told.unwrap_or_else(|error| Examined::failed(path, error));
        tracing::trace!(path = %item.path, ?why, attempt, outcome = item.outcome.as_str(), "looked at");
        Leased { item, lease }
    }

    /// Waits for a look, for as long as the server answers that it depends on.
    async fn while_answered(
        &self,
        path: &LibraryPath,
        mut told: oneshot::Receiver<Examined>,
    ) -> Result<Examined, std::io::Error> {
        loop {
            tokio::select! {
                told = &mut told => return told.map_err(|_| std::io::Error::other("the look panicked")),
                () = tokio::time::sleep(LOOK_TIME) => {}
            }
            let root = Arc::clone(&self.root);
            let _ = tokio::task::spawn_blocking(move || root.ask_servers()).await;
            self.root.check_answered(path)?;
        }
    }

    /// Commits what a batch of looks found, and asks for what must be looked at again. Leases are
    /// released when this is done. If the program `is_ending`, what depends on further looks is left to the next start.
    pub(super) async fn commit(&self, batch: Vec<Leased<Examined>>, is_ending: bool) {
        let mut leases = Vec::with_capacity(batch.len());
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
                Outcome::Held => {
                    self.is_mount_missed.store(true, Ordering::Relaxed);
                    // Only that fills the register of what is held.
                    self.inbox.mark(LibraryPath::root(), MOUNT_MISSED);
                }
                _ => {}
            }
            outcomes.push((item.outcome, item.displaced));
        }
        let (observations, mut looks_again) = self.confirm(outcomes, is_ending).await;
        if let Some(origin) = observations.first().map(|(observation, _)| observation.origin) {
            let (observations, instead): (Vec<Observation>, Vec<FsEvent>) = observations.into_iter().unzip();
            let observations: Arc<[Observation]> = observations.into();
            let committed = self.commit_to_store(&observations).await;
            self.count(&observations, &committed);
            let Committed { changes, again, other_names } = committed;
            let examiner = Arc::clone(&self.examiner);
            let paths: Vec<LibraryPath> = observations.iter().map(|observation| observation.path.clone()).collect();
            let look = move || examiner.overtaken(&observations, &changes);
            // What cannot be asked now is looked at again.
            let overtaken = self.unless_silent(&paths, look).await.unwrap_or(paths);
            // They are read this time: what they were taken for without that, from their stats, did not hold.
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

    /// What may be committed of these outcomes, and what is to be looked at again.
    async fn confirm(
        &self,
        outcomes: Vec<(Outcome, Option<FileStat>)>,
        is_ending: bool,
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
        let confirmed = self.unless_silent(&paths, move || examiner.confirm(outcomes, is_ending, catch_up)).await;
        confirmed.unwrap_or_else(|| {
            let looks = paths.into_iter().zip(origins);
            (Vec::new(), looks.map(|(path, origin)| FsEvent::new(path, Cause::Found, origin)).collect())
        })
    }

    /// Does work that looks at these paths, on a thread that may block; `None` if it takes so long that a server was
    /// asked whether it answers, and did not.
    async fn unless_silent<T: Send + 'static>(
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
                () = tokio::time::sleep(LOOK_TIME), if paths.iter().any(|path| self.root.has_server(path)) => {}
            }
            let root = Arc::clone(&self.root);
            let _ = tokio::task::spawn_blocking(move || root.ask_servers()).await;
            if paths.iter().any(|path| self.root.check_answered(path).is_err()) {
                return None;
            }
        }
    }

    /// Commits until it succeeds: a full disk stops the intake, and nothing else.
    async fn commit_to_store(&self, observations: &Arc<[Observation]>) -> Committed {
        self.wait_for_room().await;
        let mut waits = retry_waits();
        loop {
            match self.to_be_tried_again(self.store.commit(Arc::clone(observations))).await {
                Ok(committed) => return committed,
                Err(error) => {
                    let wait = waits.next().unwrap_or(LONGEST_WAIT);
                    tracing::error!(
                        error = crate::model::with_causes(&error),
                        retry_in_s = wait.as_secs_f64(),
                        "the index cannot be written; intake waits"
                    );
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Waits while the outbox is full: hints collapse meanwhile, and nothing is lost. A broker that is only
    /// slow has it full all the time, so that is said rarely.
    async fn wait_for_room(&self) {
        let outbox_max_events = self.settings.outbox_max_events;
        if self.store.outbox_length() < outbox_max_events {
            return;
        }
        let begun = Instant::now();
        let last_said = || self.full_said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = std::pin::pin!(self.store.room(self.goes_on_below()));
        let mut said = false;
        loop {
            let silence = last_said().map_or(Duration::ZERO, |last| FULL_SAID_AGAIN.saturating_sub(last.elapsed()));
            tokio::select! {
                biased;
                _ = &mut room => break,
                () = tokio::time::sleep(silence) => {
                    let lasted_s = begun.elapsed().as_secs();
                    tracing::warn!(outbox_max_events, lasted_s, "the outbox is full; intake waits for the broker");
                    *last_said() = Some(Instant::now());
                    said = true;
                }
            }
        }
        if said {
            tracing::info!("the outbox has room; intake goes on");
        }
    }

    /// How few messages must wait for intake to go on after the outbox was full.
    pub(super) fn goes_on_below(&self) -> u64 {
        (self.settings.outbox_max_events / 2).max(1)
    }

    fn count(&self, observations: &[Observation], committed: &Committed) {
        let mut told = HashSet::new();
        for event in &committed.changes {
            let event_type = event.change.event_type();
            self.counters.events.count(event_type);
            told.insert(event.change.path());
            if let Change::Deleted(path) = &event.change {
                self.scanner.held.deleted(path);
            }
            if matches!(event.change, Change::Created(_) | Change::Modified(_)) {
                self.chain.pace.published(event.change.path());
            }
            tracing::debug!(%event_type, path = %event.change.path(), origin = event.origin.as_str(), "committed");
        }
        for observation in observations.iter().filter(|observation| !told.contains(&observation.path)) {
            self.counters.unchanged.fetch_add(1, Ordering::Relaxed);
            self.chain.pace.unchanged(&observation.path);
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.is_empty() {
            for observation in observations {
                failures.remove(&observation.path);
            }
        }
    }

    pub(super) fn failed(&self, path: &LibraryPath, error: &std::io::Error) {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = !failures.contains_key(path);
        // Where there is no room to remember it, all is in doubt.
        let remembered = if failures.len() < FAILURES_REMEMBERED { path.clone() } else { LibraryPath::root() };
        failures.entry(remembered).or_insert_with_key(|path| self.inbox.trust(|trust| trust.doubt(path)));
        drop(failures);
        let path = path.to_absolute(self.root.path());
        if is_news {
            tracing::warn!(path = %path.display(), %error, "cannot be read; the next walk tries again");
        } else {
            tracing::debug!(path = %path.display(), %error, "still cannot be read");
        }
    }
}
