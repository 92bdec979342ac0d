//! The whole program, as a container runs it, with consumers that compare its messages with the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::types::FieldTable;
use serde_json::Value;

use crate::QUIET;
use crate::support::consumer::{Consumer, KEYS, Received, declare, declare_exchange};
use crate::support::disk::fixtures;
use crate::support::eventually;
use crate::support::oracle::{Again, Oracle};
use crate::support::process::LIMIT;
use crate::support::program::Program;
use crate::support::rabbit::Node;

/// Gives messages to an oracle, each of which must be new.
fn replay(oracle: &mut Oracle, received: &[Received]) {
    static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        jsonschema::validator_for(&serde_json::from_str(&file_watcher::message::schema()).unwrap()).unwrap()
    });
    for message in received {
        assert!(message.replay(oracle), "{message:?}");
        SCHEMA.validate(&message.body).unwrap_or_else(|error| panic!("{error}: {message:?}"));
    }
}

fn keys(received: &[Received]) -> Vec<&str> {
    received.iter().map(|message| message.routing_key.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_a_real_library_gives_one_right_message_a_file_and_a_second_scan_none() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let program = Program::new(&url);
    let mut consumer = Consumer::of_all_keys(&url).await;
    let expected: BTreeMap<String, Value> =
        serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    for fixture in expected.keys() {
        program.add(fixture, fixture);
    }

    let scan = program.run(&["scan"]).await;
    assert_eq!(scan.code, Some(0), "{scan:?}");
    assert_eq!(scan.stdout, "");
    assert!(scan.log.contains(&format!("changed       {0} ({0} created)", expected.len())), "{scan:?}");
    let received = consumer.expect(expected.len(), LIMIT).await;
    let mut sequences = Vec::new();
    for Received { body, routing_key, .. } in &received {
        assert_eq!(routing_key, "file.created");
        let path = Path::new(body["file_path"].as_str().unwrap());
        let fixture = path.strip_prefix(program.root()).unwrap().to_str().unwrap();
        let expected = &expected[fixture];
        assert_eq!(body["sha256_hash"], expected["sha256"], "{fixture}");
        assert_eq!(body["xxh128_hash"], expected["xxh128"], "{fixture}");
        assert_eq!(body["size_bytes"], expected["size"], "{fixture}");
        assert_eq!(body["metadata"]["format"], expected["format"], "{fixture}");
        sequences.push(body["sequence"].as_u64().unwrap());
    }
    assert_eq!(sequences, (1..=expected.len() as u64).collect::<Vec<_>>());

    let again = program.run(&["scan"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.log.contains("hashed        0 B"), "{again:?}");
    assert_eq!(keys(&consumer.drain_until_quiet(QUIET).await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_five_events_are_published_live_and_by_the_next_scan() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let program = Program::new(&url);
    let mut consumer = Consumer::of_all_keys(&url).await;
    let mut known = program.oracle();
    program.add("mp3/tagged-id3v24.mp3", "a/one.mp3");
    program.add("flac/tagged-flac.flac", "a/two.flac");

    // Live, each after the other.
    let watching = program.start(&["watch"]);
    let mut next = async |known: &mut Oracle| {
        let received = consumer.expect(1, LIMIT).await;
        replay(known, &received);
        received[0].routing_key.clone()
    };
    assert_eq!(next(&mut known).await, "file.created");
    assert_eq!(next(&mut known).await, "file.created");
    fs::copy(fixtures().join("mp3/tagged-id3v23.mp3"), program.path("a/one.mp3")).unwrap();
    assert_eq!(next(&mut known).await, "file.modified");
    fs::rename(program.path("a/one.mp3"), program.path("a/three.mp3")).unwrap();
    assert_eq!(next(&mut known).await, "file.renamed");
    fs::create_dir(program.path("b")).unwrap();
    fs::rename(program.path("a/three.mp3"), program.path("b/three.mp3")).unwrap();
    assert_eq!(next(&mut known).await, "file.moved");
    fs::remove_file(program.path("a/two.flac")).unwrap();
    assert_eq!(next(&mut known).await, "file.deleted");
    assert_eq!(known.files, program.files());
    let stopped = watching.stop().await;
    assert_eq!(stopped.stdout, "", "{stopped:?}");

    // The same while the program does not run, found by the next start.
    program.add("ogg/tagged-oggenc.ogg", "c/four.ogg");
    program.add("wma/tagged-wmav2.wma", "c/five.wma");
    program.add("opus/tagged-opusenc.opus", "c/six.opus");
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    replay(&mut known, &consumer.expect(3, LIMIT).await);
    fs::rename(program.path("b/three.mp3"), program.path("b/seven.mp3")).unwrap();
    fs::rename(program.path("c/four.ogg"), program.path("a/four.ogg")).unwrap();
    fs::remove_file(program.path("c/five.wma")).unwrap();
    program.add("opus/tagged-ffmpeg.opus", "c/six.opus");
    program.add("m4a/tagged-aac.m4a", "d/eight.m4a");
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    let received = consumer.expect(5, LIMIT).await;
    replay(&mut known, &received);
    assert_eq!(known.files, program.files());
    let mut kinds = keys(&received);
    kinds.sort_unstable();
    assert_eq!(kinds, ["file.created", "file.deleted", "file.modified", "file.moved", "file.renamed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_scan_and_watch_index_and_deliver_when_it_comes() {
    let node = Node::absent();
    // No vhost can be made without a broker. No other test uses this node meanwhile.
    let url = node.url("/");
    let program = Program::new(&url);
    program.add("mp3/tagged-id3v24.mp3", "one.mp3");
    let scanning = program.start(&["scan"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    tokio::task::block_in_place(|| node.start_again());
    declare(&url, "all", &KEYS, FieldTable::default()).await;
    let mut consumer = Consumer::of_queue(&url, "all").await;
    assert_eq!(keys(&consumer.expect(1, LIMIT).await), ["file.created"]);
    let scanned = scanning.ended().await;
    assert_eq!(scanned.code, Some(0), "{scanned:?}");
    assert_eq!(scanned.log.matches(r#""level":"WARN""#).count(), 1, "logged once: {scanned:?}");

    tokio::task::block_in_place(|| node.stop());
    let watching = program.start(&["watch"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    program.add("flac/tagged-flac.flac", "two.flac");
    tokio::time::sleep(Duration::from_secs(1)).await;
    tokio::task::block_in_place(|| node.start_again());
    // The queue outlives the node. A new one could be bound after the message has come to the old one.
    let mut consumer = Consumer::of_queue(&url, "all").await;
    assert_eq!(keys(&consumer.expect(1, LIMIT).await), ["file.created"]);
    watching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_is_refused_names_the_setting_and_ends_with_two() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut program = Program::new(&node.url_as("guest", "wrong-secret", &vhost));
    program.add("mp3/tagged-id3v24.mp3", "one.mp3");
    let refused = program.run(&["scan"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.log.contains("RABBITMQ_PASS") && !refused.log.contains("wrong-secret"), "{refused:?}");

    let url = node.url(&vhost);
    program.set("RABBITMQ_URL", &url);
    declare_exchange(&url, ExchangeKind::Fanout, FieldTable::default()).await;
    let refused = program.run(&["scan"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.log.contains("file_events"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_publishes_everything_again_alone_or_by_the_running_service() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let program = Program::new(&url);
    let mut consumer = Consumer::of_all_keys(&url).await;
    program.add("mp3/tagged-id3v24.mp3", "a/one.mp3");
    program.add("flac/tagged-flac.flac", "b/two.flac");
    assert_eq!(program.run(&["scan"]).await.code, Some(0));
    consumer.expect(2, LIMIT).await;

    let replayed = program.run(&["replay"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    // It came after the scan, so that its first messages are replayed ones.
    let mut rebuilt = program.oracle().that_missed(2).expecting(Again::Everything);
    let received = consumer.expect(2, LIMIT).await;
    assert!(received.iter().all(|message| message.body["origin"] == "replay"));
    replay(&mut rebuilt, &received);
    assert_eq!(rebuilt.files, program.files());

    let watching = program.start(&["watch"]);
    eventually("the control socket", LIMIT, || program.place("state/control.sock").exists()).await;
    let asked = program.run(&["replay"]).await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert!(asked.log.contains("2 files to be published again"), "{asked:?}");
    replay(&mut rebuilt, &consumer.expect(2, LIMIT).await);
    assert_eq!(rebuilt.files, program.files());
    watching.stop().await;
}

/// Needs to be root, for a table of hosts of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_gets_its_address_later_is_found() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let mut program = Program::new(&format!("amqp://guest:guest@broker.test:{}/{vhost}", node.port()));
    program.add("mp3/tagged-cover.mp3", "a.mp3");
    let hosts = program.has_hosts("127.0.0.1 localhost\n");
    let scanning = program.start(&["scan"]);
    assert!(consumer.drain_until_quiet(Duration::from_secs(2)).await.is_empty(), "it has no address yet");
    fs::write(&hosts, "127.0.0.1 localhost broker.test\n").unwrap();
    consumer.expect(1, LIMIT).await;
    let ended = scanning.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.log.contains("no connection"), "{ended:?}");
}
