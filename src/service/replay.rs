//! Publishing what is known again, for a consumer that lost its memory.

use tokio_util::sync::CancellationToken;

use super::scan::to_its_end;
use super::{Service, ServiceError};
use crate::model::LibraryPath;
use crate::sink::Sink;
use crate::status::Summary;
use crate::store::StoreError;

/// Files put into the outbox at once. Between two such chunks live changes get their turn.
const CHUNK: u64 = 200;

/// Messages that may wait while a replay goes on: more would only make live changes wait longer.
const MOST_WAITING: u64 = 1_000;

/// Publishes what is known at or beneath `under` again, and waits until that is delivered.
pub async fn replay(
    service: &Service,
    under: LibraryPath,
    sink: &mut Sink,
    shutdown: CancellationToken,
) -> Result<Option<Summary>, ServiceError> {
    let files = service.begin_replay(under).await?;
    tracing::info!(files, "publishing again");
    let work = async {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                more = service.replay_some() => if !more? { break },
            }
        }
        Ok(())
    };
    to_its_end(service, work, sink, &shutdown).await?;
    Ok(None)
}

impl Service {
    /// Begins a replay, which outlives this process; says how many files it is about.
    pub(super) async fn begin_replay(&self, under: LibraryPath) -> Result<u64, ServiceError> {
        let files = self.store.begin_replay(under.clone()).await?;
        if files == 0 && !under.is_root() {
            return Err(ServiceError::NothingKnown(under.to_absolute(self.root.path())));
        }
        self.replay_begun.notify_one();
        Ok(files)
    }

    /// Carries out every replay, those of earlier processes first, until `shutdown`. It never returns: what
    /// is left then is for the next start, and whoever waits for the outbox to be empty does not wait for it.
    pub(super) async fn replay_for_good(&self, shutdown: &CancellationToken) {
        let replays = async {
            loop {
                match self.to_be_tried_again(self.replay_some()).await {
                    Ok(true) => {}
                    Ok(false) => self.replay_begun.notified().await,
                    Err(error) => {
                        tracing::error!(%error, "the replay waits");
                        tokio::time::sleep(super::LONGEST_WAIT).await;
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = replays => {}
        }
        std::future::pending::<()>().await;
    }

    /// The next chunk, as soon as there is room for it. A full outbox is left to live changes.
    async fn replay_some(&self) -> Result<bool, StoreError> {
        let share = self.goes_on_below();
        let chunk = CHUNK.min(share / 2).max(1);
        self.store.room(MOST_WAITING.min(share - chunk).max(1)).await?;
        self.store.replay_some(usize::try_from(chunk).unwrap_or(1)).await
    }
}
