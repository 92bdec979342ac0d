//! A replay publishes everything that is known again: completely, beside live changes, and in order.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::known::Known;
use crate::program::Program;
use crate::support::consumer::Consumer;
use crate::support::eventually;
use crate::support::process::{Recorded, tail};
use crate::support::proxy::Network;
use crate::{LIMIT, QUIET};

/// Ten chunks of a replay, and more messages than a replay adds to the outbox at once.
const FILES: usize = 2_000;

/// A library that is known and delivered, and what a consumer knows of it.
async fn known_library() -> (Program, Consumer, Known) {
    let program = Program::new().await;
    program.fill(FILES);
    program.scan().await;
    let mut consumer = program.consumer().await;
    let mut known = Known::of(&program);
    known.take_all(&consumer.expect(FILES, LIMIT).await);
    assert_eq!(known.files, program.files());
    (program, consumer, known)
}

/// Takes messages until everything was published again.
async fn until_all_is_replayed(consumer: &mut Consumer, known: &mut Known) {
    while known.replayed.len() < FILES {
        let message = consumer.next(LIMIT).await.unwrap_or_else(|| panic!("{} published again", known.replayed.len()));
        known.take(&message);
    }
}

/// Waits until a replay has added as many messages to the outbox as it may.
async fn until_the_replay_waits(program: &Program) {
    eventually("the replay fills the outbox", LIMIT, || program.waiting() >= 1_000).await;
}

fn each_path_once(known: &Known) {
    let paths: BTreeSet<&PathBuf> = known.replayed.iter().collect();
    assert_eq!(paths, known.files.keys().collect());
    assert_eq!(known.replayed.len(), paths.len(), "some were published again twice");
}

/// Starts the service with a broker that answers, until every path was published again once.
async fn the_next_service_finishes_it(program: &Program, consumer: &mut Consumer, known: &mut Known) {
    program.proxy.set(Network::Up);
    let watching = program.watch().await;
    until_all_is_replayed(consumer, known).await;
    each_path_once(known);
    watching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_by_the_service_goes_on_where_it_was_after_every_kind_of_end() {
    let (mut program, mut consumer, mut known) = known_library().await;
    program.set("SHUTDOWN_GRACE_SECS", "1");
    program.proxy.set(Network::Down);
    let watching = program.watch().await;
    let asked = program.run(&["replay"]).await;
    assert_eq!(asked.code, Some(0), "{}", asked.log);
    assert!(asked.log.contains("2000 files to be published again"), "{}", asked.log);
    until_the_replay_waits(&program).await;
    watching.kill().await;

    // Killed once more while messages are on their way.
    program.proxy.set(Network::Slow(100_000));
    let watching = program.start(&["watch"]);
    known.take_all(&consumer.expect(150, LIMIT).await);
    watching.kill().await;

    // Then it ends by SIGTERM, though the broker does not answer.
    program.proxy.set(Network::Silent);
    let watching = program.watch().await;
    watching.stop().await;
    assert!(program.count("replays") == 1 && known.replayed.len() < FILES);

    program.proxy.set(Network::Up);
    let watching = program.watch().await;
    until_all_is_replayed(&mut consumer, &mut known).await;
    each_path_once(&known);
    eventually("it is known to be done", LIMIT, || program.count("replays") == 0).await;
    for message in consumer.drain_until_quiet(QUIET).await {
        assert!(!known.take(&message), "{message:?}");
    }
    watching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_without_a_service_is_gone_on_with_by_the_next_service() {
    let (program, mut consumer, mut known) = known_library().await;
    program.proxy.set(Network::Slow(100_000));
    let replaying = program.start(&["replay"]);
    known.take_all(&consumer.expect(150, LIMIT).await);
    replaying.kill().await;
    assert_eq!(program.count("replays"), 1);
    the_next_service_finishes_it(&program, &mut consumer, &mut known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_asked_for_again_begins_anew_and_is_not_done_twice() {
    let (program, mut consumer, mut known) = known_library().await;
    program.proxy.set(Network::Down);
    let replaying = program.start(&["replay"]);
    until_the_replay_waits(&program).await;
    replaying.kill().await;
    let first = program.waiting();
    assert!(first < FILES);

    // A consumer that asks again may have lost the messages of the first replay.
    program.proxy.set(Network::Up);
    let replayed = program.run(&["replay"]).await;
    assert_eq!(replayed.code, Some(0), "{}", tail(&replayed.log));
    known.take_all(&consumer.expect_different(first + FILES, LIMIT, QUIET).await);
    assert_eq!(known.replayed.len(), first + FILES);
    known.replayed.drain(..first);
    each_path_once(&known);
    assert_eq!((program.count("replays"), program.waiting()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_no_reason_to_end_late() {
    let (program, mut consumer, mut known) = known_library().await;
    // The messages that may wait take about two seconds, all messages more than four.
    program.proxy.set(Network::Slow(400_000));
    let watching = program.watch().await;
    program.run(&["replay"]).await;
    known.take_all(&consumer.expect(50, LIMIT).await);
    let ended = watching.stop().await;
    assert!(!ended.log.contains("the grace time is over"), "{}", tail(&ended.log));
    assert_eq!((program.waiting(), program.count("replays")), (0, 1));

    the_next_service_finishes_it(&program, &mut consumer, &mut known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_without_a_service_that_is_interrupted_ends_with_one() {
    use rustix::process::Signal;

    let (mut program, mut consumer, mut known) = known_library().await;
    for (signals, grace) in [(1, "1"), (2, "3600")] {
        program.set("SHUTDOWN_GRACE_SECS", grace);
        program.proxy.set(Network::Down);
        let mut replaying = program.start(&["replay"]);
        until_the_replay_waits(&program).await;
        replaying.signal(Signal::INT);
        replaying.wait_for_log("stopping").await;
        if signals == 2 {
            replaying.signal(Signal::TERM);
        }
        let ended = replaying.ended().await;
        assert_eq!(ended.code, Some(1), "{}", tail(&ended.log));
        assert!(ended.took < Duration::from_secs(6) && ended.log.contains("interrupted"), "{}", tail(&ended.log));

        the_next_service_finishes_it(&program, &mut consumer, &mut known).await;
        known.replayed.clear();
    }
}

/// Waits until a change is in the outbox, which fixes its sequence number.
async fn committed(watching: &mut Recorded, name: &str) {
    watching.wait_for_log(&format!(r#""path":"{name}""#)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_changes_pass_between_the_chunks_of_a_replay() {
    // With a small outbox as well: the replay must leave room.
    for most in ["1000000", "300"] {
        let (mut program, mut consumer, mut known) = known_library().await;
        program.set("OUTBOX_MAX_EVENTS", most);
        program.proxy.set(Network::Down);
        let mut watching = program.watch().await;
        program.run(&["replay"]).await;
        let enough = if most == "300" { 50 } else { 1_000 };
        eventually("the replay fills its share", LIMIT, || program.waiting() >= enough).await;
        program.write("new.mp3", "new");
        committed(&mut watching, "new.mp3").await;
        let ahead = program.waiting();
        assert!(ahead < FILES - 500, "{ahead} messages wait, and the replay must not have published all yet");

        program.proxy.set(Network::Up);
        until_all_is_replayed(&mut consumer, &mut known).await;
        assert_eq!(known.files, program.files());
        assert_eq!(known.sequence(), 2 * FILES as u64 + 1);
        watching.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_overtaken_by_its_older_replay() {
    let (program, mut consumer, mut known) = known_library().await;
    program.proxy.set(Network::Slow(300_000));
    let watching = program.watch().await;
    program.run(&["replay"]).await;
    let library = &program;
    let mut round = 0;
    // Before, at and after the place that the replay has reached.
    while known.replayed.len() < FILES - 500 {
        for directory in (0..20).filter(|directory| (directory + round) % 3 == 0) {
            let name = |file: usize| format!("{directory:04}/{file:02}.mp3");
            library.write(name(10), format!("changed in round {round}"));
            library.write(name(11), format!("changed in round {round}"));
            let elsewhere = library.path(format!("{:04}/moved-{directory}-{round}.mp3", 19 - directory));
            let _ = fs::rename(library.path(name(20 + round % 60)), elsewhere);
            let _ = fs::remove_file(library.path(name(30 + round % 60)));
            library.write(name(99), format!("for round {round} only"));
        }
        round += 1;
        known.take_all(&consumer.expect(100, LIMIT).await);
    }
    program.proxy.set(Network::Up);
    let disk = library.files();
    // `Known` checks that each replayed message has the content that was published last.
    while known.files != disk || program.count("replays") > 0 {
        let message = consumer.next(LIMIT).await.expect("more messages, until all changes are published");
        known.take(&message);
    }
    assert!(round > 3 && known.replayed.len() >= FILES - 500);
    watching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_a_path_and_not_the_begin_of_one() {
    let program = Program::new().await;
    let inside = ["prefix/a.mp3", "prefix/sub/b.mp3", "prefix/sub/c.mp3"];
    let outside = ["prefix.mp3", "prefix2/a.mp3", "prefix-/a.mp3", "prefix0.mp3", "a/prefix/a.mp3"];
    for name in inside.iter().chain(&outside) {
        program.write(name, name);
    }
    program.scan().await;
    let mut consumer = program.consumer().await;
    let mut known = Known::of(&program);
    let take = async |known: &mut Known, consumer: &mut Consumer, messages: usize| {
        known.replayed.clear();
        known.take_all(&consumer.expect_different(messages, LIMIT, QUIET).await);
    };
    take(&mut known, &mut consumer, inside.len() + outside.len()).await;

    let absolute = program.path("prefix").to_str().unwrap().to_owned();
    let nothing_there = program.path("prefi").to_str().unwrap().to_owned();
    for by_service in [false, true] {
        let watching = if by_service { Some(program.watch().await) } else { None };
        for (prefix, expected) in [
            ("prefix", &inside[..]),
            ("prefix/", &inside),
            (absolute.as_str(), &inside),
            ("./prefix/sub", &inside[1..]),
            ("prefix.mp3", &outside[..1]),
        ] {
            let replayed = program.run(&["replay", "--path", prefix]).await;
            assert_eq!(replayed.code, Some(0), "{}", tail(&replayed.log));
            take(&mut known, &mut consumer, expected.len()).await;
            assert!(known.replayed.iter().eq(expected.iter().map(Path::new)), "{prefix}: {:?}", known.replayed);
        }
        // Invalid usage.
        for (prefix, why) in [
            ("prefi", "nothing is known at or under"),
            ("prefix/sub/b", "nothing is known at or under"),
            (nothing_there.as_str(), "nothing is known at or under"),
            ("/elsewhere", "is not in the library"),
            ("../music2", "is not in the library"),
        ] {
            let refused = program.run(&["replay", "--path", prefix]).await;
            assert_eq!(refused.code, Some(2), "{prefix}: {}", tail(&refused.log));
            assert!(refused.log.contains(why), "{prefix}: {}", tail(&refused.log));
            assert_eq!(program.count("replays"), 0);
        }
        assert_eq!(consumer.drain_until_quiet(QUIET).await.len(), 0);
        if let Some(watching) = watching {
            watching.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_was_never_scanned_is_not_replayed() {
    let program = Program::new().await;
    let refused = program.run(&["replay"]).await;
    assert!(refused.code == Some(2) && refused.log.contains("scan the library first"), "{refused:?}");
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    assert_eq!(program.run(&["replay"]).await.code, Some(0), "it is empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_the_broker_refuses_says_so_and_ends_with_two() {
    let mut program = Program::new().await;
    program.write("a.mp3", "a");
    program.scan().await;
    let wrong = format!("amqp://guest:wrong-secret@127.0.0.1:{}/%2f", program.proxy.port());
    program.set("RABBITMQ_URL", &wrong);
    let refused = program.run(&["replay"]).await;
    assert_eq!(refused.code, Some(2), "{}", tail(&refused.log));
    assert!(refused.log.contains("RABBITMQ_PASS") && !refused.log.contains("wrong-secret"), "{}", tail(&refused.log));
}
