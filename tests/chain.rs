//! The whole pipeline with a fake library, store and sink, on a paused clock.
//!
//! Each combinator is tested in its own file under `src/stream`. These tests are about `src/pipeline.rs`, which
//! combines them: which hints lead to a look and a commit, and which messages reach the sink.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use file_watcher::content::{Examined, Outcome};
use file_watcher::model::{Cause, EventType, Extensions, FsEvent, Guards, LibraryPath, Origin, Outgoing, Token};
use file_watcher::pipeline::{self, Chain};
use file_watcher::stream::{Leased, Leases, Pace, Settle};
use futures::{FutureExt, Stream, StreamExt, future, stream};
use proptest::prelude::*;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Some are audio, and some must be ignored.
const PATHS: [&str; 8] = ["a.mp3", "a/b.FLAC", "a/b.mp3.part", "c.ogg", "cover.jpg", "d.wma", "mp3", "e/f/g.Opus"];

/// How long `src/pipeline.rs` waits for a batch to fill, in milliseconds.
const LINGER: u64 = 20;

/// Longer than any of these pipelines takes. On a paused clock it costs no time.
const LIMIT: Duration = Duration::from_hours(1_000);

fn is_audio(path: &LibraryPath) -> bool {
    Extensions::default().matches(path)
}

fn chain(max_concurrent_files: usize, batch_size: usize, files_per_second: Option<NonZeroU32>) -> Chain {
    Chain {
        extensions: Extensions::default(),
        pace: Pace::new(Settle { debounce: milliseconds(50), settle: milliseconds(300) }),
        files_per_second,
        leases: Leases::new(),
        max_concurrent_files,
        batch_size,
    }
}

/// The hints, looks and commits so far.
#[derive(Default)]
struct Seen {
    /// Paths between the start of a look and the end of its commit.
    in_progress: HashSet<LibraryPath>,
    looking: usize,
    looks: usize,
    batches: usize,
    /// For each path, the newest hint that its last commit covers.
    committed: HashMap<LibraryPath, u32>,
    dropped: usize,
}

/// Shared by the fake library and the test.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Seen>>);

/// A token of a hint. It must not be dropped before the commit of a look that covers the hint.
struct Guard {
    path: LibraryPath,
    number: u32,
    world: World,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut seen = self.world.seen();
        seen.dropped += 1;
        let is_committed = seen.committed.get(&self.path).is_some_and(|&newest| newest >= self.number);
        drop(seen);
        assert!(is_committed || thread::panicking(), "hint {} for {} was lost", self.number, self.path);
    }
}

impl World {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hint with a number. Merged hints keep the highest one.
    fn hint(&self, number: u32, path: &str, quiet: Cause) -> FsEvent {
        let mut hint = FsEvent::new(path.into(), quiet, Origin::Watch);
        hint.retry.attempt = number;
        if is_audio(&hint.path) {
            hint.guards.walks.push(Token::new(Guard { path: hint.path.clone(), number, world: self.clone() }));
        }
        hint
    }

    /// A look that takes the time that `takes` has for its hint, in milliseconds.
    fn examine(
        &self,
        look: Leased<FsEvent>,
        chain: &Chain,
        takes: &[u64],
    ) -> impl Future<Output = Leased<Examined>> + use<> {
        let Leased { item, lease } = look;
        let mut seen = self.seen();
        assert!(is_audio(&item.path), "{} is no audio file", item.path);
        assert!(seen.in_progress.insert(item.path.clone()), "two looks at {}", item.path);
        assert!(
            seen.in_progress.len() <= chain.max_concurrent_files + 2 * chain.batch_size,
            "more in progress than is looked at and committed"
        );
        let older = seen.committed.get(&item.path);
        assert!(older.is_none_or(|&older| older < item.retry.attempt), "an old hint after a newer one");
        seen.looks += 1;
        drop(seen);
        let (world, most) = (self.clone(), chain.max_concurrent_files);
        let takes = takes.get(item.retry.attempt as usize).copied().unwrap_or_default();
        async move {
            world.seen().looking += 1;
            assert!(world.seen().looking <= most, "too many looks at once");
            sleep(milliseconds(takes)).await;
            world.seen().looking -= 1;
            let FsEvent { path, guards: Guards { walks, .. }, retry, .. } = item;
            // The fake look returns the number of its hint in the outcome.
            let mut again = FsEvent::new(path.clone(), Cause::Found, Origin::Watch);
            again.retry = retry;
            let outcome = Outcome::Again(again);
            Leased {
                item: Examined {
                    path,
                    outcome,
                    look_under: false,
                    tokens: walks,
                    left_in_doubt: false,
                    displaced: None,
                },
                lease,
            }
        }
    }

    /// A commit that takes this many milliseconds.
    async fn commit(&self, batch: Vec<Leased<Examined>>, chain: &Chain, takes: u64) {
        assert!((1..=chain.batch_size).contains(&batch.len()), "a batch of {}", batch.len());
        self.seen().batches += 1;
        sleep(milliseconds(takes)).await;
        for Leased { item, lease } in batch {
            let Outcome::Again(look) = item.outcome else { unreachable!("the fake look returns nothing else") };
            let mut seen = self.seen();
            assert!(seen.in_progress.remove(&item.path));
            seen.committed.insert(item.path, look.retry.attempt);
            drop(seen);
            drop((item.tokens, lease));
        }
    }
}

/// The gap before a hint in milliseconds, its path, and how long the path must be quiet.
type Hinted = (u64, usize, Cause);

fn hinted() -> impl Strategy<Value = Vec<Hinted>> {
    let quiet = prop_oneof![
        3 => Just(Cause::Found),
        2 => Just(Cause::Created),
        3 => Just(Cause::Closed),
        2 => Just(Cause::Renamed),
        2 => Just(Cause::Gone),
        1 => Just(Cause::Again(milliseconds(70))),
        // Only the end of the input ends this wait.
        1 => Just(Cause::Again(Duration::from_hours(20))),
    ];
    let gap = prop_oneof![2 => Just(0_u64), 2 => 0_u64..30, 1 => 0_u64..400];
    prop::collection::vec((gap, 0..PATHS.len(), quiet), 0..60)
}

proptest! {
    #[test]
    fn every_hinted_audio_path_is_looked_at_after_its_last_hint_and_committed_and_never_twice_at_once(
        hinted in hinted(),
        looks in prop::collection::vec(0_u64..200, 60),
        commits in 0_u64..200,
        max_concurrent_files in 1_usize..6,
        batch_size in 1_usize..8,
        files_per_second in prop::option::of(1_u32..200),
    ) {
        let world = World::default();
        let audio = hinted.iter().filter(|(_, path, _)| is_audio(&PATHS[*path].into())).count();
        let mut last = HashMap::new();
        let hints: Vec<(u64, FsEvent)> = (0..)
            .zip(&hinted)
            .map(|(number, &(gap, path, quiet))| {
                let hint = world.hint(number, PATHS[path], quiet);
                if is_audio(&hint.path) {
                    last.insert(hint.path.clone(), number);
                }
                (gap, hint)
            })
            .collect();
        let files_per_second = files_per_second.and_then(NonZeroU32::new);
        let chain = chain(max_concurrent_files, batch_size, files_per_second);
        let ended = Cell::new(None);
        let took = paused(async {
            let end = stream::once(async { ended.set(Some(Instant::now())) }).filter_map(|()| future::ready(None));
            let index = pipeline::index(
                schedule(hints).chain(end),
                &chain,
                |look| world.examine(look, &chain, &looks),
                |batch| world.commit(batch, &chain, commits),
            );
            timeout(LIMIT, index).await.expect("the chain ends with its input");
            ended.get().expect("the input ended").elapsed()
        });

        let seen = world.seen();
        prop_assert_eq!(&seen.committed, &last);
        prop_assert_eq!(seen.dropped, audio, "every token of a hint is dropped in the end");
        prop_assert!(seen.in_progress.is_empty() && chain.leases.held() == 0);
        // The end of the input flushes: the remaining paths are looked at and committed without settling first.
        let work: u64 = looks.iter().sum::<u64>() + seen.batches as u64 * (commits + LINGER);
        let limited = files_per_second.map_or(0, |rate| seen.looks as u64 * (1_000 / u64::from(rate.get()) + 2));
        prop_assert!(took <= milliseconds(work + limited), "{took:?} after the end, for {work} + {limited} ms of work");
    }

    #[test]
    fn looks_keep_to_the_rate(
        gaps in prop::collection::vec(0_u64..20, 1..60),
        rate in 1_u32..40,
    ) {
        let chain = chain(100, 100, NonZeroU32::new(rate));
        let looks = RefCell::new(Vec::new());
        paused(async {
            let hints = gaps.iter().enumerate().map(|(number, gap)| {
                (*gap, FsEvent::new(format!("{number}.mp3").as_str().into(), Cause::Found, Origin::Scan))
            });
            let examine = |look: Leased<FsEvent>| {
                looks.borrow_mut().push(Instant::now());
                async move { unchanged(look) }
            };
            let index = pipeline::index(schedule(hints.collect()), &chain, examine, |batch| async { drop(batch) });
            timeout(LIMIT, index).await.expect("the chain ends with its input");
        });
        let looks = looks.into_inner();
        prop_assert_eq!(looks.len(), gaps.len());
        // The burst is a tenth of a second's worth.
        let in_a_second = (rate + rate.div_ceil(10)) as usize;
        for window in looks.windows(in_a_second + 1) {
            prop_assert!(window[in_a_second] - window[0] >= Duration::from_secs(1));
        }
    }
}

#[test]
fn a_commit_that_is_stuck_keeps_few_leases_and_loses_nothing() {
    paused(async {
        let world = World::default();
        let chain = chain(3, 2, None);
        let (hint, hints) = mpsc::unbounded_channel();
        let (free, freed) = oneshot::channel::<()>();
        let stuck = freed.shared();
        let index = pipeline::index(
            UnboundedReceiverStream::new(hints),
            &chain,
            |look| world.examine(look, &chain, &[]),
            |batch| {
                let stuck = stuck.clone();
                let (world, chain) = (&world, &chain);
                async move {
                    let _ = stuck.await;
                    world.commit(batch, chain, 0).await;
                }
            },
        );
        let mut index = pin!(index);
        for (number, path) in ["a.mp3", "b.mp3"].into_iter().enumerate() {
            hint.send(world.hint(u32::try_from(number).unwrap(), path, Cause::Found)).unwrap();
        }
        assert!(timeout(Duration::from_secs(1), &mut index).await.is_err());
        assert_eq!(chain.leases.held(), 2);

        for round in 1..=10 {
            for number in 0..26_u8 {
                let path = format!("{}.mp3", char::from(b'a' + number));
                hint.send(world.hint(round * 100 + u32::from(number), &path, Cause::Closed)).unwrap();
            }
            assert!(timeout(Duration::from_mins(1), &mut index).await.is_err());
        }
        assert!(chain.leases.held() <= 2 * chain.batch_size + chain.max_concurrent_files, "{}", chain.leases.held());
        assert_eq!(world.seen().committed.len(), 0);

        free.send(()).unwrap();
        drop(hint);
        timeout(LIMIT, index).await.expect("it goes on where it was");
        let seen = world.seen();
        assert_eq!(seen.committed.len(), 26);
        for (number, path) in ('a'..='z').enumerate() {
            let newest = seen.committed[&LibraryPath::from(format!("{path}.mp3").as_str())];
            assert_eq!(newest as usize, 1000 + number);
        }
        assert_eq!((seen.dropped, chain.leases.held()), (262, 0));
    });
}

#[test]
fn a_look_that_never_ends_blocks_no_other_path() {
    paused(async {
        let chain = chain(2, 100, None);
        let committed = RefCell::new(HashSet::new());
        let (hint, hints) = mpsc::unbounded_channel();
        for number in 0..50 {
            hint.send(FsEvent::new(format!("{number}.mp3").as_str().into(), Cause::Found, Origin::Scan)).unwrap();
        }
        let index = pipeline::index(
            UnboundedReceiverStream::new(hints),
            &chain,
            |look| async move {
                if look.item.path == "0.mp3".into() {
                    future::pending::<()>().await;
                }
                unchanged(look)
            },
            |batch| {
                committed.borrow_mut().extend(batch.into_iter().map(|looked| looked.item.path));
                async {}
            },
        );
        assert!(timeout(Duration::from_mins(1), index).await.is_err());
        assert_eq!(committed.borrow().len(), 49);
    });
}

fn unchanged(look: Leased<FsEvent>) -> Leased<Examined> {
    let Leased { item, lease } = look;
    let outcome = Outcome::Unchanged;
    Leased {
        item: Examined {
            path: item.path,
            outcome,
            look_under: false,
            tokens: item.guards.walks,
            left_in_doubt: false,
            displaced: None,
        },
        lease,
    }
}

fn outgoing(sequence: u64) -> Outgoing {
    let event_type = EventType::Created;
    Outgoing { sequence, event_type, correlation_id: sequence.to_string(), timestamp: 0, body: Vec::new() }
}

/// Delivers batches as the sinks do: it retries internally from the message that failed.
#[derive(Default)]
struct Taker {
    /// How many messages each attempt sends before it fails. After these, every attempt succeeds.
    failures: Vec<usize>,
    /// Every message, as often as it was sent.
    sent: Vec<u64>,
    /// Batches that were delivered completely.
    delivered: Vec<Vec<u64>>,
}

impl Taker {
    async fn deliver(&mut self, batch: &[Outgoing]) {
        let mut rest = batch;
        while let Some(gets_through) = self.failures.pop() {
            let gone = gets_through.min(rest.len());
            self.sent.extend(rest[..gone].iter().map(|message| message.sequence));
            sleep(milliseconds(gets_through as u64 * 10)).await;
            // It is not known whether the last one arrived, so it is sent again.
            rest = &rest[gone.saturating_sub(1)..];
            if gone < gets_through {
                break;
            }
        }
        sleep(milliseconds(1)).await;
        self.sent.extend(rest.iter().map(|message| message.sequence));
        self.delivered.push(batch.iter().map(|message| message.sequence).collect());
    }
}

proptest! {
    #[test]
    fn the_outbox_goes_to_the_sink_in_order_and_ends_with_its_own_error(
        gaps in prop::collection::vec(prop_oneof![2 => Just(0_u64), 1 => 0_u64..60], 0..80),
        failures in prop::collection::vec(0_usize..20, 0..10),
        batch_size in 1_usize..12,
        fails_after in prop::option::of(0_usize..80),
    ) {
        let messages = gaps.len();
        let mut outbox: Vec<(u64, Result<Outgoing, &str>)> =
            gaps.into_iter().zip((1..).map(|sequence| Ok(outgoing(sequence)))).collect();
        if let Some(at) = fails_after {
            outbox.insert(at.min(messages), (5, Err("the disk is gone")));
        }
        let mut taker = Taker { failures, ..Taker::default() };
        let outcome = paused(async {
            let sink = futures::sink::unfold(&mut taker, |taker: &mut Taker, batch: Vec<Outgoing>| async move {
                taker.deliver(&batch).await;
                Ok(taker)
            });
            timeout(LIMIT, pipeline::deliver(schedule(outbox), batch_size, pin!(sink))).await.expect("it ends")
        });

        prop_assert_eq!(outcome, if fails_after.is_some() { Err("the disk is gone") } else { Ok(()) });
        prop_assert!(taker.delivered.iter().all(|batch| (1..=batch_size).contains(&batch.len())));
        let delivered: Vec<u64> = taker.delivered.concat();
        prop_assert_eq!(&delivered, &(1..=delivered.len() as u64).collect::<Vec<_>>(), "in order, without gaps");
        match fails_after {
            None => prop_assert_eq!(delivered.len(), messages),
            // The batch that the sink was busy with, and the one that the error came into, stay in the outbox.
            Some(at) => {
                let before = at.min(messages);
                prop_assert!(delivered.len() <= before && before < delivered.len() + 2 * batch_size);
            }
        }
        // A consumer that drops redeliveries gets each message once and in order.
        let mut seen = 0;
        for sequence in taker.sent {
            prop_assert!(sequence <= seen + 1);
            seen = seen.max(sequence);
        }
        prop_assert!(seen >= delivered.len() as u64);
    }
}

#[test]
fn a_sink_that_cannot_go_on_ends_the_delivery_with_its_error_and_takes_nothing_more() {
    paused(async {
        let outbox = schedule((1..=10).map(|sequence| (0, Ok(outgoing(sequence)))).collect());
        let mut batches = 0;
        let sink = futures::sink::unfold(&mut batches, |batches: &mut usize, _: Vec<Outgoing>| async move {
            *batches += 1;
            if *batches == 2 { Err("closed") } else { Ok(batches) }
        });
        assert_eq!(pipeline::deliver(outbox, 3, pin!(sink)).await, Err("closed"));
        assert_eq!(batches, 2);
    });
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Runs `test` on a paused clock, which jumps to the next timer when there is no work.
fn paused<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

/// The items, each that many milliseconds after the one before.
fn schedule<T>(items: Vec<(u64, T)>) -> impl Stream<Item = T> {
    stream::unfold(items.into_iter(), async |mut items| {
        let (gap, item) = items.next()?;
        if gap > 0 {
            sleep(milliseconds(gap)).await;
        }
        Some((item, items))
    })
}
