//! Publishing what is known again, for a consumer that lost its memory.

use tokio_util::sync::CancellationToken;

use super::{Service, ServiceError};
use crate::model::LibraryPath;
use crate::sink::Sink;
use crate::status::Summary;
use crate::store::StoreError;

/// Files put into the outbox at once. Between two such chunks live changes get their turn.
const CHUNK: usize = 200;

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
        while service.replay_some().await? {}
        service.store.drained().await?;
        Ok(())
    };
    tokio::select! {
        done = work => done,
        failed = service.deliver(sink) => failed,
        () = shutdown.cancelled() => Err(ServiceError::Interrupted),
    }?;
    Ok(None)
}

impl Service {
    /// Begins a replay, which outlives this process; says how many files it is about.
    pub(super) async fn begin_replay(&self, under: LibraryPath) -> Result<u64, StoreError> {
        let files = self.store.begin_replay(under).await?;
        self.replay_begun.notify_one();
        Ok(files)
    }

    /// Carries out every replay, those of earlier processes first, for ever.
    pub(super) async fn replay_for_good(&self) -> Result<(), ServiceError> {
        loop {
            match self.replay_some().await {
                Ok(true) => {}
                Ok(false) => self.replay_begun.notified().await,
                Err(error) => {
                    tracing::error!(%error, "the replay waits");
                    tokio::time::sleep(super::LONGEST_WAIT).await;
                }
            }
        }
    }

    /// The next chunk, as soon as there is room for it.
    async fn replay_some(&self) -> Result<bool, StoreError> {
        self.store.room(MOST_WAITING).await?;
        self.store.replay_some(CHUNK).await
    }
}
