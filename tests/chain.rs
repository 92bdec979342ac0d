//! The chain with a library, a store and a sink that are made up, on a clock that jumps.
//!
//! What the combinators promise one by one, each shows in its own file under `src/stream`. Here it is
//! what `src/pipeline.rs` makes of them: which hints come to a look and a commit, and which messages to
//! the sink.

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

/// Some are audio, and some are nobody's business.
const PATHS: [&str; 8] = ["a.mp3", "a/b.FLAC", "a/b.mp3.part", "c.ogg", "cover.jpg", "d.wma", "mp3", "e/f/g.Opus"];

/// How long a batch may wait for company, by `src/pipeline.rs`.
const LINGER: u64 = 20;

/// Longer than any of these chains takes, and no time at all on such a clock.
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

/// What has been seen of hints, looks and commits, and the laws that hold at each step.
#[derive(Default)]
struct Seen {
    /// From the begin of a look until the end of its commit.
    in_hand: HashSet<LibraryPath>,
    looking: usize,
    looks: usize,
    batches: usize,
    /// The newest hint that the last commit of a path knew.
    committed: HashMap<LibraryPath, u32>,
    let_go: usize,
}

/// Shared by the made-up library and whoever looks on.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Seen>>);

/// Rides on a hint, and must not be let go of before a commit of a look that knew of the hint.
struct Rider {
    path: LibraryPath,
    number: u32,
    world: World,
}

impl Drop for Rider {
    fn drop(&mut self) {
        let mut seen = self.world.seen();
        seen.let_go += 1;
        let is_committed = seen.committed.get(&self.path).is_some_and(|&newest| newest >= self.number);
        drop(seen);
        assert!(is_committed || thread::panicking(), "hint {} for {} was lost", self.number, self.path);
    }
}

impl World {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hint that knows its number: a merged one is left with the highest.
    fn hint(&self, number: u32, path: &str, quiet: Cause) -> FsEvent {
        let mut hint = FsEvent::new(path.into(), quiet, Origin::Watch);
        hint.retry.attempt = number;
        if is_audio(&hint.path) {
            hint.guards.walks.push(Token::new(Rider { path: hint.path.clone(), number, world: self.clone() }));
        }
        hint
    }

    /// A look that takes `takes` by the number of its hint.
    fn examine(
        &self,
        look: Leased<FsEvent>,
        chain: &Chain,
        takes: &[u64],
    ) -> impl Future<Output = Leased<Examined>> + use<> {
        let Leased { item, lease } = look;
        let mut seen = self.seen();
        assert!(is_audio(&item.path), "{} is no audio file", item.path);
        assert!(seen.in_hand.insert(item.path.clone()), "two looks at {}", item.path);
        assert!(
            seen.in_hand.len() <= chain.max_concurrent_files + chain.batch_size,
            "more in hand than is looked at and committed"
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
            // Where the made-up look keeps which hint it knows.
            let mut again = FsEvent::new(path.clone(), Cause::Found, Origin::Watch);
            again.retry = retry;
            let outcome = Outcome::Again(again);
            Leased { item: Examined { path, outcome, look_under: false, tokens: walks, displaced: None }, lease }
        }
    }

    /// A commit that takes so long.
    async fn commit(&self, batch: Vec<Leased<Examined>>, chain: &Chain, takes: u64) {
        assert!((1..=chain.batch_size).contains(&batch.len()), "a batch of {}", batch.len());
        self.seen().batches += 1;
        sleep(milliseconds(takes)).await;
        for Leased { item, lease } in batch {
            let Outcome::Again(look) = item.outcome else { unreachable!("made up above") };
            let mut seen = self.seen();
            assert!(seen.in_hand.remove(&item.path));
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
        // Only the end of the input makes an end of this.
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
        prop_assert_eq!(seen.let_go, audio, "what rides on a hint is let go of in the end");
        prop_assert!(seen.in_hand.is_empty() && chain.leases.held() == 0);
        // The end flushes: what is left takes its looks and commits, and waits for no quiet.
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
        // A tenth of a second's worth may come at once.
        let in_a_second = (rate + rate.div_ceil(10)) as usize;
        for window in looks.windows(in_a_second + 1) {
            prop_assert!(window[in_a_second] - window[0] >= Duration::from_secs(1));
        }
    }
}

#[test]
fn a_commit_that_is_stuck_holds_what_is_in_it_and_little_more_and_loses_nothing() {
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
        assert!(chain.leases.held() <= chain.batch_size + chain.max_concurrent_files, "{}", chain.leases.held());
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
        assert_eq!((seen.let_go, chain.leases.held()), (262, 0));
    });
}

#[test]
fn a_look_that_takes_for_ever_stops_no_other_path() {
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
        item: Examined { path: item.path, outcome, look_under: false, tokens: item.guards.walks, displaced: None },
        lease,
    }
}

fn outgoing(sequence: u64) -> Outgoing {
    let event_type = EventType::Created;
    Outgoing { sequence, event_type, correlation_id: sequence.to_string(), timestamp: 0, body: Vec::new() }
}

/// Takes batches as the sinks do: what fails is tried again inside, from where it failed.
#[derive(Default)]
struct Taker {
    /// How many messages each attempt gets through with before it fails; then every one succeeds.
    failures: Vec<usize>,
    /// Every message as often as it was sent.
    sent: Vec<u64>,
    /// Batches that were taken to the end.
    delivered: Vec<Vec<u64>>,
}

impl Taker {
    async fn deliver(&mut self, batch: &[Outgoing]) {
        let mut rest = batch;
        while let Some(gets_through) = self.failures.pop() {
            let gone = gets_through.min(rest.len());
            self.sent.extend(rest[..gone].iter().map(|message| message.sequence));
            sleep(milliseconds(gets_through as u64 * 10)).await;
            // Of the last one nobody knows whether it arrived.
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
        // Who drops what was seen before sees each message once and in order.
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

/// Runs `test` on a clock that stands still while there is work and jumps to the next timer when there is none.
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
