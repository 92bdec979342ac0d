//! Memory grows neither with the length of an outage nor with the messages that wait for its end.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::LIMIT;
use crate::known::Known;
use crate::program::Program;
use crate::support::process::{Recorded, tail};
use crate::support::proxy::Network;

/// The promise holds for 100,000 files, which takes too long for a test: `BOUNDED_FILES=100000` tests it.
const FILES: usize = 12_000;

/// The most resident memory, in kB, for any library and any outage.
const MOST: u64 = 100_000;

/// How much memory each file of the second half may add, in kB. Its message alone is twice as long.
const A_FILE: f64 = 1.0;

/// Waits until `holds` is true for the number of messages in the outbox. Returns the peak memory until then, in kB.
async fn peak_memory_when(program: &Program, running: &Recorded, holds: impl Fn(usize) -> bool) -> u64 {
    let begun = Instant::now();
    loop {
        let waiting = program.waiting();
        if holds(waiting) {
            println!("{waiting:7} messages wait: {:6} kB, {:?}", running.peak_memory(), begun.elapsed());
            return running.peak_memory();
        }
        assert!(begun.elapsed() < LIMIT * 5, "{waiting} messages wait\n{}", tail(&running.log()));
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_library_while_the_broker_is_away_for_the_whole_of_a_scan() {
    let files = std::env::var("BOUNDED_FILES").map_or(FILES, |files| files.parse().unwrap());
    let mut program = Program::new().await;
    program.set("LOG_LEVEL", "info");
    program.proxy.set(Network::Down);
    // The paths are so long that keeping them or their messages in memory would show.
    let deep = ["d".repeat(250), "e".repeat(250), "f".repeat(250)].join("/");
    for number in 0..files {
        let name = format!("{deep}/{:04}/{:02}-{}.mp3", number / 100, number % 100, "n".repeat(200));
        program.write(&name, format!("content {number}"));
    }
    let mut watching = program.start(&["watch"]);
    watching.wait_for_log("watching").await;
    let mut peaks = Vec::new();
    for tenth in 1..=10 {
        peaks.push(peak_memory_when(&program, &watching, |waiting| waiting >= files * tenth / 10).await);
    }
    program.proxy.set(Network::Up);
    watching.wait_for_log("connected to RabbitMQ").await;
    peaks.push(peak_memory_when(&program, &watching, |waiting| waiting == 0).await);
    let last = peaks[10];
    assert!(last < MOST, "{last} kB\n{}", tail(&watching.log()));
    let growth = (peaks[9] - peaks[4]) as f64 / (files / 2) as f64;
    assert!(growth < A_FILE, "{growth} kB a file: {peaks:?}");
    watching.stop().await;

    let mut known = Known::of(&program);
    let mut consumer = program.consumer().await;
    while known.sequence() < files as u64 {
        known.take(&consumer.next(LIMIT).await.expect("more messages"));
    }
    assert_eq!(known.files, program.files());
}
