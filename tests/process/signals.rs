//! How the program ends: after one signal, after two, and after its grace time.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use crate::LIMIT;
use crate::known::Known;
use crate::program::Program;
use crate::support::eventually;
use crate::support::process::tail;
use crate::support::proxy::Network;

/// Enough for several batches.
const FILES: usize = 450;

/// How much longer than its grace time a process may need to end on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// Docker kills a container ten seconds after it asks it to stop, which is two after the default grace time.
const UNTIL_KILLED: Duration = Duration::from_secs(2);

/// Reads the queue until it stays empty. It must have given all files, each with one message.
async fn everything_is_delivered(program: &Program) {
    assert_eq!(Known::read_all(program, FILES).await.sequence(), FILES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_delivered_within_the_grace_and_the_end_is_zero() {
    for signal in [Signal::TERM, Signal::INT] {
        let program = Program::new().await;
        program.fill(FILES);
        // About two seconds for all of them.
        program.proxy.set(Network::Slow(200_000));
        let mut watching = program.watch().await;
        assert!(program.waiting() > 0, "nothing is in flight");
        watching.signal(signal);
        watching.wait_for_log("stopping").await;
        let ended = watching.ended().await;
        assert_eq!(ended.code, Some(0), "{}", tail(&ended.log));
        assert!(ended.took < Duration::from_secs(10) && !ended.log.contains("the grace time is over"), "{ended:?}");
        assert_eq!(program.waiting(), 0);
        everything_is_delivered(&program).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_grace_ends_it_with_zero_and_the_next_start_delivers_what_it_left() {
    for (signal, network) in [(Signal::TERM, Network::Down), (Signal::INT, Network::Silent)] {
        let mut program = Program::new().await;
        program.set("SHUTDOWN_GRACE_SECS", "1").fill(FILES);
        program.proxy.set(network);
        let watching = program.watch().await;
        watching.signal(signal);
        let ended = watching.ended().await;
        assert_eq!(ended.code, Some(0), "{}", tail(&ended.log));
        assert!(ended.log.contains("the grace time is over"), "{}", tail(&ended.log));
        assert!(ended.took > Duration::from_millis(900) && ended.took < Duration::from_secs(1) + SLACK, "{ended:?}");
        assert_eq!((program.waiting(), program.count("files")), (FILES, FILES));

        program.proxy.set(Network::Up);
        let watching = program.watch().await;
        everything_is_delivered(&program).await;
        watching.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_and_a_collector_that_hang_do_not_delay_the_end_until_docker_kills() {
    // Accepts connections, and never answers.
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut program = Program::new().await;
    program.set("SHUTDOWN_GRACE_SECS", "1");
    program.set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.local_addr().unwrap()));
    program.fill(FILES);
    let mut watching = program.watch().await;
    watching.wait_for_log("connected to RabbitMQ").await;
    eventually("everything is delivered", LIMIT, || program.count("files") == FILES && program.waiting() == 0).await;
    program.proxy.set(Network::Silent);
    program.write("new.mp3", "a song");
    eventually("the new file is indexed", LIMIT, || program.waiting() == 1).await;
    watching.signal(Signal::TERM);
    let ended = watching.ended().await;
    assert!(ended.code == Some(0) && ended.log.contains("the grace time is over"), "{}", tail(&ended.log));
    assert!(ended.took < Duration::from_secs(1) + UNTIL_KILLED, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_and_loses_nothing() {
    let cases = [
        (Signal::TERM, Signal::TERM, Network::Down),
        (Signal::INT, Signal::INT, Network::Silent),
        (Signal::TERM, Signal::INT, Network::Slow(20_000)),
    ];
    for (first, second, network) in cases {
        let mut program = Program::new().await;
        program.set("SHUTDOWN_GRACE_SECS", "3600");
        let mut watching = program.watch().await;
        watching.wait_for_log("connected to RabbitMQ").await;
        program.proxy.set(network);
        program.fill(FILES);
        eventually("everything is indexed", LIMIT, || program.count("files") == FILES).await;
        watching.signal(first);
        watching.wait_for_log("stopping").await;
        sleep(Duration::from_millis(300)).await;
        assert!(watching.is_running(), "there is much to deliver, and an hour for it");
        watching.signal(second);
        let ended = watching.ended().await;
        assert_eq!(ended.code, Some(0), "{}", tail(&ended.log));
        assert!(ended.took < SLACK, "{ended:?}");
        assert!(program.waiting() > 0);

        program.proxy.set(Network::Up);
        let watching = program.watch().await;
        everything_is_delivered(&program).await;
        watching.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_is_interrupted_ends_with_one_and_the_next_goes_on_where_it_stopped() {
    // Once: the grace is waited for. Twice: it is not.
    for (signals, grace) in [(1, "1"), (2, "3600")] {
        let mut program = Program::new().await;
        program.set("SHUTDOWN_GRACE_SECS", grace).fill(FILES);
        program.proxy.set(Network::Down);
        let mut scanning = program.start(&["scan"]);
        scanning.wait_for_log("everything is indexed; delivering").await;
        scanning.signal(Signal::INT);
        scanning.wait_for_log("stopping").await;
        assert!(scanning.is_running());
        if signals == 2 {
            scanning.signal(Signal::INT);
        }
        let ended = scanning.ended().await;
        assert_eq!(ended.code, Some(1), "{}", tail(&ended.log));
        assert!(ended.took < Duration::from_secs(1) + SLACK, "{ended:?}");
        assert!(ended.log.contains("interrupted"), "{}", tail(&ended.log));

        program.proxy.set(Network::Up);
        let scanned = program.run(&["scan"]).await;
        assert_eq!(scanned.code, Some(0), "{}", tail(&scanned.log));
        assert!(scanned.log.contains("hashed        0 B"), "{}", tail(&scanned.log));
        everything_is_delivered(&program).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_is_interrupted_while_it_looks_commits_what_it_has_and_ends_with_one() {
    let mut program = Program::new().await;
    program.set("MAX_FILES_PER_SECOND", "100").fill(FILES);
    let mut scanning = program.start(&["scan"]);
    scanning.wait_for_log(r#""committed""#).await;
    scanning.signal(Signal::TERM);
    let ended = scanning.ended().await;
    assert_eq!(ended.code, Some(1), "{}", tail(&ended.log));
    let known = program.count("files");
    assert!((1..FILES).contains(&known) && program.waiting() == 0, "{known} of {FILES}\n{}", tail(&ended.log));

    program.set("MAX_FILES_PER_SECOND", "unlimited");
    program.scan().await;
    everything_is_delivered(&program).await;
}
