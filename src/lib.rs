//! `file-watcher` keeps every consumer of a topic exchange in step with a music library on disk.
//!
//! # Terms
//!
//! | term | meaning |
//! |---|---|
//! | event | what the kernel reports of a path ([`engine::KernelEvent`]) |
//! | hint | a request to look at a path, never a fact about it ([`model::FsEvent`]) |
//! | look | one examination of a path: stat, hash, metadata ([`content::Examiner`]) |
//! | settle | to wait until a file stops changing |
//! | lease | the exclusive right to look at a path ([`stream::Leases`]) |
//! | index | what was last published for each path |
//! | row | the entry of one path in the index ([`model::Row`]) |
//! | walk | listing directories and comparing them with the index ([`library::Walk`], [`library::Reconcile`]) |
//! | round | a walk and all looks that it asked for ([`engine::Round`]) |
//! | scan | a walk of everything; also the command that makes one and ends |
//! | watch | the kernel's registration of a directory (inotify) or a filesystem (fanotify); also the command that follows the library |
//! | coverage | how much of the library is watched ([`engine::Coverage`]) |
//! | outbox | messages that were committed with the index and are not confirmed yet |
//! | publish | to send a message to the broker |
//! | confirm | the broker's word that it has a message |
//! | held delete | a delete that waits for proof, or for the approval of an operator |
//! | condition | a state that an operator should know ([`status::Condition`]) |
//!
//! The map, floor by floor. A module uses lower floors only, and modules of one floor
//! do not use each other; `tests/house.rs` holds both rules.
//!
//! | floor | module | what it is | what it never does |
//! |---|---|---|---|
//! | 0 | [`model`] | the nouns: hints, observations, rows, file events | IO |
//! | 0 | [`failpoint`] | where a test may end the process or the watcher | anything else |
//! | 1 | [`classify`] | rows and observations in, file events and row updates out | IO, clocks |
//! | 1 | [`engine`] | every decision about what to look at, walk, hold and trust | IO, clocks, locks |
//! | 1 | [`screen`] | standard error: lines and a progress bar | read |
//! | 1 | [`metrics`] | the figures for Prometheus | have a label that depends on a file |
//! | 1 | [`message`] | a file event as the bytes that consumers read | decide anything |
//! | 1 | [`stream`] | the combinators, one a file, behind one extension trait | IO |
//! | 1 | [`disk`] | the library root: stat, list and open under it | follow a link out of it that is not in its table |
//! | 2 | [`library`] | the disk as a stream of hints: watch, walk, reconcile | say what happened |
//! | 2 | [`content`] | one path as an observation: settle, hash, read the tags | write anything |
//! | 2 | [`store`] | SQLite: the index and the outbox in one transaction | talk to a broker |
//! | 2 | [`sink`] | where messages go: RabbitMQ or standard output | forget a message unasked |
//! | 2 | [`status`] | counters, progress, the summary, the condition register | steer |
//! | 3 | [`pipeline`] | the chain, on one screen | anything else |
//! | 4 | [`config`], [`telemetry`], [`traces`], [`control`], [`http`] | the settings, the logs, the traces, the control socket, the HTTP server | work |
//! | 5 | [`service`] | the parts assembled: one scan, or watching for good | decide |
//! | 6 | [`cli`] | the thin shell around all of it | work |

//!
//! # The face of the library
//!
//! [`stream`] is what other programs could use: combinators for streams of hints about keys, over the nouns of [`model`].
//! The rest serves the binary, its tests and its benches. It is hidden from the documentation and may change at any time.
//!
//! ```
//! use std::time::Duration;
//!
//! use file_watcher::model::{Cause, FsEvent, Origin};
//! use file_watcher::stream::{HintStreamExt, Leases, Pace, Settle};
//! use futures::StreamExt;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! // A file is created, written and closed. That makes one look, when the path has been quiet for long enough.
//! let hint = |cause| FsEvent::new("a.mp3".into(), cause, Origin::Watch);
//! let hints = futures::stream::iter([hint(Cause::Created), hint(Cause::Closed)]);
//! let settle = Settle { debounce: Duration::from_millis(50), settle: Duration::from_secs(2) };
//! let looks = hints.debounce(Pace::new(settle)).one_at_a_time(Leases::new()).map(|leased| leased.item.path);
//! assert_eq!(looks.collect::<Vec<_>>().await, ["a.mp3".into()]);
//! # }
//! ```

pub mod model;
pub mod stream;

#[doc(hidden)]
pub mod classify;
#[doc(hidden)]
pub mod disk;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod failpoint;
#[doc(hidden)]
pub mod message;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod screen;

#[doc(hidden)]
pub mod content;
#[doc(hidden)]
pub mod library;
#[doc(hidden)]
pub mod sink;
#[doc(hidden)]
pub mod status;
#[doc(hidden)]
pub mod store;

#[doc(hidden)]
pub mod pipeline;

#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod telemetry;
#[doc(hidden)]
pub mod traces;

#[doc(hidden)]
pub mod service;

#[doc(hidden)]
pub mod cli;
