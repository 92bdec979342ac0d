//! The chain, and nothing else.
//!
//! It is in two halves, cut at the outbox, so that indexing goes on while the broker is away:
//!
//! ```text
//! watcher ─┐
//!          ├─ audio files ─ debounce ─ rate limit ─ one at a time ─ examine ×N ─ batches ─ together ─ commit
//! scan   ──┘                                                                                     index + outbox
//!                                                                                                     │
//!                                                                     forget ─ confirm ─ publish ─ batches
//! ```

use std::future::Future;
use std::num::NonZeroU32;
use std::time::Duration;

use futures::{Sink, Stream, StreamExt};

use crate::content::Examined;
use crate::model::{Extensions, FsEvent, Outgoing};
use crate::stream::{HintStreamExt, Leased, Leases, Pace};

/// How long a batch waits for company that is known to be on its way.
const LINGER: Duration = Duration::from_millis(20);

/// How the first half is tuned.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Which files matter.
    pub extensions: Extensions,
    /// How long paths must be quiet.
    pub pace: Pace,
    /// Looks a second; unlimited where there is none.
    pub files_per_second: Option<NonZeroU32>,
    /// Which paths are being looked at.
    pub leases: Leases,
    /// Looks at once.
    pub max_concurrent_files: usize,
    /// Looks committed in one transaction.
    pub batch_size: usize,
}

/// From hints to rows and messages, until the hints end and everything on its way is committed.
pub async fn index<Look, Commit>(
    hints: impl Stream<Item = FsEvent>,
    chain: &Chain,
    examine: impl Fn(Leased<FsEvent>) -> Look,
    commit: impl Fn(Vec<Leased<Examined>>) -> Commit,
) where
    Look: Future<Output = Leased<Examined>>,
    Commit: Future<Output = ()>,
{
    hints
        .audio_files(&chain.extensions)
        .debounce(chain.pace.clone())
        .rate_limit(chain.files_per_second)
        .one_at_a_time(chain.leases.clone())
        .map(examine)
        .buffer_unordered(chain.max_concurrent_files)
        .in_batches(chain.batch_size, LINGER)
        .together()
        .for_each(commit)
        .await;
}

/// From the outbox to the sink, for as long as there is an outbox and the sink takes batches.
pub async fn deliver<E>(
    outbox: impl Stream<Item = Result<Outgoing, E>>,
    batch_size: usize,
    sink: impl Sink<Vec<Outgoing>, Error = E>,
) -> Result<(), E> {
    outbox
        .in_batches(batch_size, LINGER)
        .map(|batch| batch.into_iter().collect::<Result<Vec<_>, E>>())
        .forward(sink)
        .await
}
