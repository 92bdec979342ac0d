//! Lists and releases held deletes.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{Service, ServiceError, scan};
use crate::disk::{Disk as _, Entry};
use crate::engine::Released;
use crate::model::{LibraryPath, MountId, Origin, printable};
use crate::sink::Sink;
use crate::status::HeldList;

/// How long an approval waits for the full scan that carries it out. In a large library that takes longer.
const APPROVAL_WAIT: Duration = Duration::from_mins(1);

/// How long a list waits for the first full scan. Before that it is not known which deletes are held.
const FIRST_WALK_WAIT: Duration = Duration::from_secs(20);

/// The number of new files whose inodes are kept, to tell moved files from deleted ones.
const MOST_APPEARED: usize = 1_000_000;

/// Finds the held deletes by a full scan that publishes nothing.
///
/// # Errors
///
/// [`ServiceError::Walk`] if the scan failed.
pub async fn held(service: &Service) -> Result<HeldList, ServiceError> {
    service.find_held().await?;
    Ok(service.held_under(&LibraryPath::root()))
}

/// Publishes the held deletes at or under `under`, by a scan of the library. Calls `say` with the held deletes before
/// the scan and with the result after it.
///
/// # Errors
///
/// If the scan failed, or the messages cannot be delivered.
pub async fn approve(
    service: &Service,
    under: LibraryPath,
    sink: &mut Sink,
    shutdown: CancellationToken,
    say: impl Fn(&str),
) -> Result<(), ServiceError> {
    service.find_held().await?;
    let engine = service.inbox.engine();
    if !engine.with(|engine| engine.approve(&under)) {
        say(&nothing_held(&service.place_text(&under)));
        return Ok(());
    }
    if !under.is_root() {
        say(HeldList::AT_PATH);
    }
    say(&service.held_under(&under).to_string());
    scan(service, sink, shutdown).await?;
    let outcome = engine.with(|engine| engine.approval_outcome());
    say(&outcome_text(outcome, true, &service.place_text(&under)));
    Ok(())
}

impl Service {
    /// The held deletes at or under a path, as the last full scan of a running service found them; `None` before the
    /// first one.
    pub(super) async fn list_held(&self, under: &LibraryPath) -> Option<HeldList> {
        let walked = self.inbox.wait_until(|engine| engine.full_walks() > 0);
        tokio::time::timeout(FIRST_WALK_WAIT, walked).await.ok()?;
        Some(self.held_under(under))
    }

    /// Releases the held deletes at or under a path; returns the result, which may be a partial one after a minute.
    pub(super) async fn approve(&self, under: LibraryPath) -> String {
        let _one_at_a_time = self.approving.lock().await;
        let place = self.place_text(&under);
        let engine = self.inbox.engine();
        if !engine.with(|engine| engine.approve(&under)) {
            return nothing_held(&place);
        }
        self.inbox.mark(LibraryPath::root(), Duration::ZERO);
        let over = self.inbox.wait_until(|engine| engine.is_approval_over());
        let is_done = tokio::time::timeout(APPROVAL_WAIT, over).await.is_ok();
        outcome_text(engine.with(|engine| engine.approval_outcome()), is_done, &place)
    }

    fn held_under(&self, under: &LibraryPath) -> HeldList {
        let held = self.inbox.engine().with(|engine| engine.held_deletes_under(under));
        HeldList::new(&held, self.root.path())
    }

    /// ` at or under` the path; empty for the whole library.
    fn place_text(&self, under: &LibraryPath) -> String {
        if under.is_root() {
            String::new()
        } else {
            format!(" at or under {}", printable(&under.to_absolute(self.root.path()).to_string_lossy()))
        }
    }

    /// Fills the register of held deletes by a full scan that publishes and commits nothing.
    async fn find_held(&self) -> Result<(), ServiceError> {
        let (hints, report) = self.scanner.walk(vec![LibraryPath::root()], Origin::Scan);
        let mut appeared: HashSet<(MountId, u64)> = HashSet::new();
        let mut chunks = std::pin::pin!(hints.ready_chunks(512));
        while let Some(chunk) = chunks.next().await {
            let root = Arc::clone(&self.root);
            let stats = tokio::task::spawn_blocking(move || {
                let stat = |path: &LibraryPath| match root.entry(path) {
                    Ok(Entry::File(stat)) if stat.has_stable_inode() => Some((stat.mount, stat.inode)),
                    _ => None,
                };
                chunk.iter().filter_map(|hint| stat(&hint.path)).collect::<Vec<_>>()
            });
            let left = MOST_APPEARED.saturating_sub(appeared.len());
            appeared.extend(stats.await.unwrap_or_default().into_iter().take(left));
        }
        let interrupted = || ServiceError::Walk("it was interrupted".to_owned());
        let mut report = report.await.map_err(|_| interrupted())?;
        if let Some(failure) = report.failure {
            return Err(ServiceError::Walk(failure));
        }
        for (path, error) in &report.unreadable {
            if path.is_root() {
                return Err(ServiceError::Walk(error.clone()));
            }
            tracing::warn!(path = %path.to_absolute(self.root.path()).display(), error, "cannot be read; held deletes there are not known");
        }
        let replaced = report.replaced.iter().filter(|replaced| replaced.now.has_stable_inode());
        appeared.extend(replaced.map(|replaced| (replaced.now.mount, replaced.now.inode)));
        let scanner = self.scanner.clone();
        let judging = tokio::task::spawn_blocking(move || {
            // A file with a new name is not deleted.
            scanner.remove_found_elsewhere(&mut report, |row| appeared.contains(&(row.stat.mount, row.stat.inode)));
            scanner.deletions(report, true);
        });
        judging.await.map_err(|_| interrupted())
    }
}

fn nothing_held(place: &str) -> String {
    format!("no delete is held{place}; nothing was changed")
}

/// The result of an approval, in a sentence.
fn outcome_text(outcome: Option<Released>, is_done: bool, place: &str) -> String {
    let Some(Released { found, published, still_held }) = outcome else {
        return if is_done {
            "the library could not be scanned, so nothing was released; run approve again when it can be read"
                .to_owned()
        } else {
            format!("the scan is still running; the held deletes{place} will be released when it is done")
        };
    };
    let mut text = match (found, is_done) {
        (0, _) => format!("no held delete was left{place}"),
        (_, true) => format!("{published} published as deleted"),
        (_, false) => format!("{published} of {found} published as deleted so far; the others follow"),
    };
    let others = found - published;
    if is_done && others > 0 {
        let _ = write!(text, ", {others} not: the files are back, or could not be examined");
    }
    let _ = write!(text, "; {still_held} still held{place}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_an_approval_has_only_what_is_known() {
        let text = |found, published, still_held, is_done| {
            outcome_text(Some(Released { found, published, still_held }), is_done, "")
        };
        assert_eq!(text(5, 5, 0, true), "5 published as deleted; 0 still held");
        assert_eq!(
            text(5, 3, 7, true),
            "3 published as deleted, 2 not: the files are back, or could not be examined; 7 still held"
        );
        assert_eq!(text(5, 3, 0, false), "3 of 5 published as deleted so far; the others follow; 0 still held");
        assert_eq!(text(0, 0, 2, true), "no held delete was left; 2 still held");
        assert!(outcome_text(None, true, "").contains("nothing was released"));
        assert!(outcome_text(None, false, "").contains("still running"));
    }
}
