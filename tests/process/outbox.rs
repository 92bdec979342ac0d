//! The outbox at its bound: looking at files pauses, and goes on by itself.

use std::fs;
use std::time::Duration;

use crate::library::Known;
use crate::program::{Program, tail};
use crate::support::proxy::Weather;
use crate::{LIMIT, QUIET, support};

const FILES: usize = 3_000;

/// What the outbox may hold, and one batch beyond it.
const MOST: usize = 500;
const BATCH: usize = 100;

const FULL: &str = "the outbox is full";
const ROOM: &str = "the outbox has room";

async fn everything_is_told(program: &Program, messages: usize) {
    let mut known = Known::default();
    for message in program.consumer().await.expect_different(messages, LIMIT, QUIET).await {
        known.take(&message);
    }
    assert_eq!(known.files, program.library.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_full_outbox_looks_at_nothing_and_goes_on_when_the_broker_comes() {
    let mut program = Program::new().await;
    program.set("OUTBOX_MAX_EVENTS", &MOST.to_string()).library.fill(FILES);
    program.proxy.set(Weather::Down);
    let mut watching = program.start(&["watch"]);
    watching.says(FULL).await;
    // Live changes come while nobody looks: to files that were told of, and to those that were not yet.
    let library = &program.library;
    library.write("0000/00.mp3", "changed");
    library.write("0001/new.mp3", "new");
    library.write("0029/99.mp3", "changed");
    fs::remove_file(library.path("0001/01.mp3")).unwrap();
    fs::remove_file(library.path("0029/01.mp3")).unwrap();
    fs::rename(library.path("0002/02.mp3"), library.path("0028/moved.mp3")).unwrap();
    fs::rename(library.path("0028"), library.path("0000/moved")).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waiting = program.waiting();
    assert!((MOST..MOST + BATCH).contains(&waiting), "{waiting} messages wait");
    assert_eq!(watching.log().matches(FULL).count(), 1);

    program.proxy.set(Weather::Fine);
    let disk = program.library.files();
    let mut consumer = program.consumer().await;
    let mut known = Known::default();
    while known.files != disk {
        let message = consumer.next(LIMIT).await.unwrap_or_else(|| panic!("{}", tail(&watching.log())));
        known.take(&message);
    }
    watching.says(ROOM).await;
    assert!(consumer.drain_until_quiet(QUIET).await.iter().all(|message| !known.take(message)));
    // However often it was full: said once, and then rarely.
    assert_eq!(watching.log().matches(FULL).count(), 1, "{}", tail(&watching.log()));
    watching.stop().await;
    assert_eq!(program.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_with_a_full_outbox_waits_for_the_broker_and_ends_well() {
    for most in ["500", "1"] {
        let mut program = Program::new().await;
        program.set("OUTBOX_MAX_EVENTS", most).library.fill(FILES / 2);
        program.proxy.set(Weather::Down);
        let mut scanning = program.start(&["scan"]);
        scanning.says(FULL).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(scanning.is_running() && program.waiting() < MOST + BATCH);
        program.proxy.set(Weather::Fine);
        let ended = scanning.ended().await;
        assert_eq!(ended.code, Some(0), "{}", tail(&ended.log));
        everything_is_told(&program, FILES / 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_with_a_full_outbox_tells_everything_after_its_next_start() {
    let mut program = Program::new().await;
    program.set("OUTBOX_MAX_EVENTS", &MOST.to_string()).library.fill(FILES / 2);
    program.proxy.set(Weather::Down);
    let mut watching = program.start(&["watch"]);
    watching.says(FULL).await;
    watching.kill().await;
    // A start with a full outbox is no different.
    let mut watching = program.start(&["watch"]);
    watching.says(FULL).await;
    support::eventually("it is full", LIMIT, || program.waiting() >= MOST).await;
    program.proxy.set(Weather::Fine);
    everything_is_told(&program, FILES / 2).await;
    watching.stop().await;
}
