//! What the log says at the start and after the first scan, for people who read it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::reporter::watches;
use super::watch_limit::watches_allowed;
use super::{Service, memory};
use crate::config::SinkKind;
use crate::engine::Coverage;
use crate::model::{Index as _, WatchMode};
use crate::status::{Condition, ConditionKind};

impl Service {
    /// Logs what runs, how changes are found, and which settings are not the defaults.
    pub(super) fn announce(&self) {
        let (mode, reason) = self.mode();
        let index = self.store.index();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            root = %self.root.path().display(),
            mode,
            reason,
            directories = watches(),
            watches_allowed = watches_allowed(),
            files = index.len().ok(),
            store_id = index.store_id().ok().map(|id| id.to_string()),
            little_memory = memory::is_little(&self.settings).then_some(true),
            settings = self.settings.changed.join(" "),
            "watching"
        );
        // Each kind of sink has its own index, so another one shows that STATE_DIR was kept.
        let has_other = [SinkKind::Amqp, SinkKind::Stdout]
            .into_iter()
            .filter(|sink| *sink != self.settings.sink)
            .any(|sink| self.settings.store_file_of(sink).exists());
        if self.is_index_new && self.store.last_sequence() == 0 && !has_other {
            tracing::warn!(
                state_dir = %self.settings.state_dir.display(),
                "the index is new: every file is published as created, and sequence begins at 1 with a new store_id; if \
                 this is not the first start, STATE_DIR was not kept"
            );
        }
    }

    /// How changes are found, and why not by events alone.
    fn mode(&self) -> (&'static str, Option<String>) {
        let is_fanotify = self.settings.watch_mode == WatchMode::Fanotify;
        let mode = match self.inbox.engine().with(|engine| engine.coverage()) {
            Coverage::Full if is_fanotify => "fanotify",
            Coverage::Full => "inotify",
            Coverage::Partial if is_fanotify => "fanotify and scans",
            Coverage::Partial => "inotify and scans",
            Coverage::None | Coverage::Polled => "scans",
        };
        let kinds = [ConditionKind::Polled, ConditionKind::NotWatched, ConditionKind::PartlyWatched];
        let reason = self.conditions.list().into_iter().find(|active| kinds.contains(&active.condition.kind()));
        (mode, reason.map(|active| active.condition.details()))
    }

    /// Logs the figures of the first scan.
    pub(super) fn announce_first_scan(&self, took: Duration) {
        // A run with other settings may have been before.
        let events = self.observed.events.now().since(&self.events_before);
        let unreadable = self.inbox.engine().with(|engine| engine.unreadable_count() as u64);
        tracing::info!(
            files = self.scanner.tally.seen.load(Ordering::Relaxed),
            created = events.created,
            modified = events.modified,
            deleted = events.deleted,
            moved = events.moved + events.renamed,
            failed = self.counters.failed.load(Ordering::Relaxed) + unreadable,
            waiting = self.store.outbox_length(),
            took_s = took.as_secs_f64(),
            "the first scan is done"
        );
    }

    /// Keeps the condition that there is no audio file. Returns whether it is in effect.
    pub(super) fn note_emptiness(&self) -> bool {
        let is_scanned = self.scanner.tally.last_scan().is_some();
        // A part of a library may have no directory.
        let is_part = !self.settings.rules.partition().is_whole();
        let may_be_empty = || is_part && !self.root.is_bare().unwrap_or(true);
        let is_empty = is_scanned && self.store.index().is_empty().unwrap_or(false) && !may_be_empty();
        let unreadable = self.inbox.engine().with(|engine| engine.unreadable_count() + engine.failed_count());
        let condition = || Condition::LibraryEmpty { root: self.root.path().display().to_string(), unreadable };
        self.conditions.set_or_clear(ConditionKind::LibraryEmpty, is_empty.then(condition));
        is_empty
    }
}
