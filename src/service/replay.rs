//! Publishes files again, for a consumer that lost its data.

use std::convert::Infallible;

use tokio_util::sync::CancellationToken;

use super::scan::run_and_deliver;
use super::{Service, ServiceError};
use crate::model::{LibraryPath, with_causes};
use crate::sink::Sink;
use crate::status::Summary;
use crate::store::StoreError;

/// The number of files that are put into the outbox at once. Live changes are committed in between.
const CHUNK: u64 = 200;

/// A replay pauses while more messages wait. More would only delay live changes.
const MOST_WAITING: u64 = 1_000;

/// Publishes the files at or under `under` again, and waits until the messages are delivered.
///
/// # Errors
///
/// [`ServiceError::NothingKnown`] if there are none; [`ServiceError::Interrupted`] after `shutdown`.
pub async fn replay(
    service: &Service,
    under: LibraryPath,
    sink: &mut Sink,
    shutdown: CancellationToken,
) -> Result<Option<Summary>, ServiceError> {
    let files = service.begin_replay(under).await?;
    tracing::info!(files, "replay begins");
    let work = async {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                more = service.replay_some() => if !more? { break },
            }
        }
        Ok(())
    };
    run_and_deliver(service, work, sink, &shutdown).await?;
    Ok(None)
}

impl Service {
    /// Begins a replay, which continues after a restart; returns the number of files.
    pub(super) async fn begin_replay(&self, under: LibraryPath) -> Result<u64, ServiceError> {
        let files = self.store.begin_replay(under.clone()).await?;
        if files == 0 && !under.is_root() {
            return Err(ServiceError::NothingKnown(under.to_absolute(self.root.path())));
        }
        self.replay_begun.notify_one();
        Ok(files)
    }

    /// Carries out replays, those of earlier processes first, until `shutdown`. The next start continues with the rest.
    /// Never returns, so that a shutdown does not wait for replays.
    pub(super) async fn replay_for_good(&self, shutdown: &CancellationToken) -> Infallible {
        let replays = async {
            loop {
                match self.or_wait_if_corrupt(self.replay_some()).await {
                    Ok(true) => {}
                    Ok(false) => self.replay_begun.notified().await,
                    Err(error) => {
                        tracing::error!(error = with_causes(&error), "the replay cannot continue; retrying");
                        tokio::time::sleep(super::MAX_RETRY_WAIT).await;
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = replays => {}
        }
        std::future::pending().await
    }

    /// Puts the next chunk into the outbox, once there is room. A full outbox is left to live changes.
    async fn replay_some(&self) -> Result<bool, StoreError> {
        let share = self.resume_threshold();
        let chunk = CHUNK.min(share / 2).max(1);
        self.store.room(MOST_WAITING.min(share - chunk).max(1)).await?;
        self.store.replay_some(usize::try_from(chunk).unwrap_or(1)).await
    }
}
