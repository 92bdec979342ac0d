//! The chain of stream combinators.
//!
//! The outbox separates its two halves, so that indexing continues while the broker is unreachable:
//!
//! ```text
//! watcher ─┐
//!          ├─ audio files ─ debounce ─ rate limit ─ one at a time ─ examine ×N ─ batches ─ together ─ commit in turn
//! scan   ──┘                                                                                     index + outbox
//!                                                                                                     │
//!                                                                     remove ─ confirm ─ publish ─ batches
//! ```

use std::future::Future;
use std::num::NonZeroU32;
use std::time::Duration;

use futures::{Sink, Stream, StreamExt};

use crate::content::Examined;
use crate::model::{Extensions, FsEvent, Outgoing};
use crate::stream::{HintStreamExt, Leased, Leases, Pace};

/// How long an incomplete batch waits for further items.
const LINGER: Duration = Duration::from_millis(20);

/// The parameters of the first half.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The extensions of audio files.
    pub extensions: Extensions,
    /// How long paths must be quiet.
    pub pace: Pace,
    /// The most looks per second. `None` is unlimited.
    pub files_per_second: Option<NonZeroU32>,
    /// The leases of the paths that are being looked at.
    pub leases: Leases,
    /// The most looks at once.
    pub max_concurrent_files: usize,
    /// The most looks in one transaction.
    pub batch_size: usize,
}

/// Takes hints to rows and messages, until the hints end and everything in flight is committed.
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
        .in_turn(commit)
        .await;
}

/// Sends messages from the outbox to the sink, until the outbox ends.
///
/// # Errors
/// The first error of the outbox or the sink.
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
