//! Many histories side by side, and what is to be learnt from one that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::history::{self, Failure, Figures, World};
use crate::names::NAMES_PERCENT;
use crate::operation::{Operation, is_about_names, operations};
use crate::root::{Kind, Root};

/// Agreement that takes longer is reported.
const SLOW: Duration = Duration::from_secs(8);

/// What to run, as the environment says. `CHAOS_PROGRAM` runs another build of the program, and
/// `CHAOS_PATIENCE_SECS` gives it that long to agree with the disk. `CHAOS_FANOTIFY=1` watches with fanotify wherever that
/// is possible, and 0 nowhere; otherwise the seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Campaign {
    /// `CHAOS_SEED`: the first seed.
    pub(crate) first_seed: u64,
    /// `CHAOS_SEEDS`: how many seeds.
    pub(crate) seeds: u64,
    /// `CHAOS_OPS`: operations in each.
    pub(crate) operations: usize,
    /// `CHAOS_NAMES_PERCENT`: how many of a hundred histories are about names.
    pub(crate) names_percent: usize,
    /// `CHAOS_ROOT`: the filesystem of every library (`ext4`, `xfs`, `btrfs`, `tmpfs`, `bind`, `overlay` or `plain`).
    pub(crate) root: Option<Kind>,
    /// `CHAOS_JOBS`: histories at once. They mostly wait.
    pub(crate) jobs: usize,
    /// `CHAOS_KEEP`: the operations to run, all others left out; of one seed.
    pub(crate) keep: Option<BTreeSet<usize>>,
    /// `CHAOS_SHRINK_SECS`: how long to look for a shorter sequence that still fails.
    pub(crate) shrink_for: Duration,
    /// `CHAOS_STORIES`: a folder for the story of each failure.
    pub(crate) stories: Option<PathBuf>,
    pub(crate) with_broker: bool,
}

impl Campaign {
    /// The campaign that the environment describes, with `seeds` unless it says how many.
    pub(crate) fn from_env(seeds: u64, operations: usize, jobs: usize, with_broker: bool) -> Self {
        let keep: Option<String> = std::env::var("CHAOS_KEEP").ok();
        let keep = keep.map(|keep| keep.split(',').filter_map(|number| number.trim().parse().ok()).collect());
        Self {
            first_seed: number("CHAOS_SEED", 1),
            seeds: number("CHAOS_SEEDS", if std::env::var_os("CHAOS_SEED").is_some() { 1 } else { seeds }),
            operations: usize::try_from(number("CHAOS_OPS", operations as u64)).unwrap(),
            names_percent: usize::try_from(number("CHAOS_NAMES_PERCENT", NAMES_PERCENT)).unwrap(),
            root: std::env::var("CHAOS_ROOT").ok().map(|kind| Kind::named(&kind)),
            jobs: usize::try_from(number("CHAOS_JOBS", jobs as u64)).unwrap(),
            keep,
            shrink_for: Duration::from_secs(number("CHAOS_SHRINK_SECS", 120)),
            stories: std::env::var_os("CHAOS_STORIES").map(PathBuf::from),
            with_broker,
        }
    }

    /// Runs every seed. If one fails, panics with the shortest failing sequence that was found.
    pub(crate) fn run<W: World>(&self, world: impl Fn() -> W + Sync) -> Figures {
        let next = AtomicU64::new(0);
        let figures = Mutex::new(Figures::default());
        let by_kind: Mutex<BTreeMap<Kind, Figures>> = Mutex::default();
        let failures: Mutex<Vec<(u64, Failure)>> = Mutex::default();
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    let mut world = world();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds {
                            break;
                        }
                        let seed = self.first_seed + number;
                        match history::run(&self.sequence(seed), self.root_of(seed), &mut world) {
                            Ok(more) => {
                                if more.slowest > SLOW {
                                    println!("seed {seed} took {:?} to agree", more.slowest);
                                }
                                *lock(&figures) += more;
                                *lock(&by_kind).entry(self.root_of(seed).kind).or_default() += more;
                            }
                            Err(failure) => {
                                println!("seed {seed} ({:?}) fails: {}", self.root_of(seed), failure.what);
                                self.report(seed, &failure);
                                lock(&failures).push((seed, failure));
                            }
                        }
                        let done = lock(&figures).histories;
                        if done.is_multiple_of(25) {
                            println!("{done} histories: {:?}", lock(&figures));
                        }
                    }
                });
            }
        });
        let figures = *lock(&figures);
        for (kind, figures) in lock(&by_kind).iter() {
            println!("{kind:?}: {figures:?}");
        }
        println!("{figures:?}, {:.2} messages for each change", figures.messages as f64 / figures.effects as f64);
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((seed, failure)) = failures.first() {
            let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
            println!("seeds that fail: {seeds:?}; the shortest sequence for {seed} is being looked for");
            let (kept, failure) = self.shrink(*seed, failure.clone(), &world);
            let all = self.all(*seed);
            let numbers: Vec<String> = kept.iter().map(ToString::to_string).collect();
            for number in &kept {
                println!("{number}: {:?}", all[*number]);
            }
            self.report(*seed, &failure);
            println!("{:?}\n{}", self.root_of(*seed), failure.story);
            panic!(
                "seed {seed}: {}\nagain: CHAOS_SEED={seed} CHAOS_OPS={} CHAOS_KEEP={} cargo test --test convergence",
                failure.what,
                self.operations,
                numbers.join(",")
            );
        }
        figures
    }

    fn all(&self, seed: u64) -> Vec<Operation> {
        let is_about_names = is_about_names(seed, self.names_percent);
        operations(seed, self.operations, self.with_broker, is_about_names, self.root_of(seed).can_go())
    }

    fn root_of(&self, seed: u64) -> Root {
        Root::of(seed, self.root, is_about_names(seed, self.names_percent))
    }

    fn sequence(&self, seed: u64) -> Vec<Operation> {
        let all = self.all(seed);
        let kept =
            |(number, operation)| self.keep.as_ref().is_none_or(|keep| keep.contains(&number)).then_some(operation);
        all.into_iter().enumerate().filter_map(kept).collect()
    }

    /// Leaves out operations as long as what is left still fails: the halves first, then ever smaller pieces.
    fn shrink<W: World>(
        &self,
        seed: u64,
        mut failure: Failure,
        world: &(impl Fn() -> W + Sync),
    ) -> (Vec<usize>, Failure) {
        let all = self.all(seed);
        let mut kept: Vec<usize> = match &self.keep {
            Some(keep) => keep.iter().copied().collect(),
            None => (0..all.len()).collect(),
        };
        let end = Instant::now() + self.shrink_for;
        let mut size = kept.len().div_ceil(2);
        while size > 0 && Instant::now() < end {
            let candidates: Vec<Vec<usize>> = (0..kept.len())
                .step_by(size)
                .map(|from| {
                    kept.iter()
                        .enumerate()
                        .filter(|(at, _)| !(from..from + size).contains(at))
                        .map(|(_, kept)| *kept)
                        .collect()
                })
                .collect();
            if let Some((shorter, fails)) = self.first_failing(seed, &candidates, end, world) {
                kept = shorter;
                failure = fails;
                size = size.min(kept.len().div_ceil(2));
                println!("{} operations: {}", kept.len(), failure.what);
            } else {
                size /= 2;
            }
        }
        (kept, failure)
    }

    /// One of the sequences that fails, tried side by side, each twice: not every race is lost every time.
    fn first_failing<W: World>(
        &self,
        seed: u64,
        candidates: &[Vec<usize>],
        end: Instant,
        world: &(impl Fn() -> W + Sync),
    ) -> Option<(Vec<usize>, Failure)> {
        let (all, root) = (self.all(seed), self.root_of(seed));
        let next = AtomicUsize::new(0);
        let found = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    let mut world = world();
                    while lock(&found).is_none() && Instant::now() < end {
                        let Some(candidate) = candidates.get(next.fetch_add(1, Ordering::Relaxed) / 2) else { break };
                        let sequence: Vec<Operation> = candidate.iter().map(|number| all[*number].clone()).collect();
                        if let Err(failure) = history::run(&sequence, root, &mut world) {
                            *lock(&found) = Some((candidate.clone(), failure));
                        }
                    }
                });
            }
        });
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, seed: u64, failure: &Failure) {
        if let Some(folder) = &self.stories {
            let _ = std::fs::create_dir_all(folder);
            let _ = std::fs::write(folder.join(format!("{seed}.txt")), format!("{}\n{}", failure.what, failure.story));
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
