//! A full outbox: the program stops looking at files until messages are confirmed.

use std::fs;
use std::time::Duration;

use crate::known::Known;
use crate::program::Program;
use crate::support::process::tail;
use crate::support::proxy::Network;
use crate::{LIMIT, QUIET, support};

const FILES: usize = 3_000;

/// How many messages the outbox may hold, and how many more one batch may add.
const MOST: usize = 500;
const BATCH: usize = 100;

const FULL: &str = "the outbox is full";
const ROOM: &str = "the outbox has room";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_full_outbox_looks_at_nothing_and_goes_on_when_the_broker_comes() {
    let mut program = Program::new().await;
    program.set("OUTBOX_MAX_EVENTS", &MOST.to_string()).fill(FILES);
    program.proxy.set(Network::Down);
    let mut watching = program.start(&["watch"]);
    watching.wait_for_log(FULL).await;
    // Changes come while the program looks at nothing: to files that are published, and to files that are not yet.
    let library = &program;
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

    program.proxy.set(Network::Up);
    let disk = program.files();
    let mut consumer = program.consumer().await;
    let mut known = Known::of(&program);
    while known.files != disk {
        let message = consumer.next(LIMIT).await.unwrap_or_else(|| panic!("{}", tail(&watching.log())));
        known.take(&message);
    }
    watching.wait_for_log(ROOM).await;
    assert!(consumer.drain_until_quiet(QUIET).await.iter().all(|message| !known.take(message)));
    // It was full several times, and logs that rarely after the first time.
    assert_eq!(watching.log().matches(FULL).count(), 1, "{}", tail(&watching.log()));
    watching.stop().await;
    assert_eq!(program.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_with_a_full_outbox_waits_for_the_broker_and_ends_well() {
    for most in ["500", "1"] {
        let mut program = Program::new().await;
        program.set("OUTBOX_MAX_EVENTS", most).fill(FILES / 2);
        program.proxy.set(Network::Down);
        let mut scanning = program.start(&["scan"]);
        scanning.wait_for_log(FULL).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(scanning.is_running() && program.waiting() < MOST + BATCH);
        program.proxy.set(Network::Up);
        let ended = scanning.ended().await;
        assert_eq!(ended.code, Some(0), "{}", tail(&ended.log));
        Known::read_all(&program, FILES / 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_with_a_full_outbox_publishes_everything_after_its_next_start() {
    let mut program = Program::new().await;
    program.set("OUTBOX_MAX_EVENTS", &MOST.to_string()).fill(FILES / 2);
    program.proxy.set(Network::Down);
    let mut watching = program.start(&["watch"]);
    watching.wait_for_log(FULL).await;
    watching.kill().await;
    // A start with a full outbox is no different.
    let mut watching = program.start(&["watch"]);
    watching.wait_for_log(FULL).await;
    support::eventually("it is full", LIMIT, || program.waiting() >= MOST).await;
    program.proxy.set(Network::Up);
    Known::read_all(&program, FILES / 2).await;
    watching.stop().await;
}
