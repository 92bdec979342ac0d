//! The ratio of the time of a program to that of its neighbour. It is comparable between machines, even busy ones.
//!
//! The two run in turn, so that other work of the machine affects both alike. What criterion calls `time` is the ratio,
//! and the change since the last run is the change of the ratio.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};

use crate::testing::usage::cpu_of_children;

/// Criterion, measuring ratios.
pub(crate) fn settings() -> Criterion<Ratio> {
    super::settings().with_measurement(Ratio)
}

/// Measures `ours` against `neighbour`, both with `input`. Both must wait for the processes that they start.
pub(crate) fn compare<T>(
    group: &mut BenchmarkGroup<'_, Ratio>,
    name: &str,
    input: &LazyLock<T, impl FnOnce() -> T>,
    ours: impl Fn(&T),
    neighbour: impl Fn(&T),
) {
    let (mut our_cost, mut its_cost) = (Cost::default(), Cost::default());
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function(name, |bencher| {
        // The input is made only here, because only selected benches get here.
        let input = LazyLock::force(input);
        bencher.iter_custom(|rounds| {
            let mut ratio = 0.0;
            for _ in 0..rounds {
                let (ours, neighbour) = (Cost::of(|| ours(input)), Cost::of(|| neighbour(input)));
                ratio += ours.wall.as_secs_f64() / neighbour.wall.as_secs_f64();
                our_cost.add(ours);
                its_cost.add(neighbour);
            }
            ratio
        });
    });
    if our_cost.runs > 0 {
        let cpu = our_cost.cpu / its_cost.cpu.max(0.01);
        println!("  ours {our_cost}, neighbour {its_cost}, {cpu:.2} times the CPU");
    }
}

/// The cost of runs.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    runs: u32,
    wall: Duration,
    /// CPU seconds of the child processes.
    cpu: f64,
}

impl Cost {
    fn of(run: impl FnOnce()) -> Self {
        let (before, begun) = (cpu_of_children(), Instant::now());
        run();
        let wall = begun.elapsed();
        Self { runs: 1, wall, cpu: cpu_of_children() - before }
    }

    fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let runs = f64::from(self.runs);
        let (wall, cpu) = (self.wall.as_secs_f64() / runs, self.cpu / runs);
        write!(formatter, "{wall:.3} s with {cpu:.3} s of CPU")
    }
}

/// The measurement of [`compare`].
#[derive(Debug)]
pub(crate) struct Ratio;

impl Measurement for Ratio {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        unreachable!("a ratio is measured over two runs")
    }

    fn add(&self, one: &f64, other: &f64) -> f64 {
        one + other
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Times
    }
}

struct Times;

impl ValueFormatter for Times {
    fn scale_values(&self, _typical: f64, _values: &mut [f64]) -> &'static str {
        "times"
    }

    fn scale_throughputs(&self, _typical: f64, _throughput: &Throughput, _values: &mut [f64]) -> &'static str {
        "times"
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "times"
    }
}
