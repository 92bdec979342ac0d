//! Messages that can never be delivered are parked, and a person can retry or drop them.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::program::Program;
use crate::support::consumer::first_seen;
use crate::support::eventually;
use crate::support::process::tail;
use crate::support::rabbit::Node;
use crate::{LIMIT, QUIET};

/// The largest message that the node takes, in bytes: a usual one, but not one with the long path.
const MOST: u32 = 2_048;

/// The same after its administrator raised the limit.
const ENOUGH: u32 = 1024 * 1024;

/// A path that makes its message too large, also without any metadata.
fn long_path() -> String {
    format!("{}b.mp3", format!("{}/", "long".repeat(50)).repeat(10))
}

/// The program with a library of three files, the second of which has a message that the node refuses.
async fn with_a_poisonous_file(node: &Node) -> Program {
    node.set_max_message_size(MOST);
    let program = Program::on(node).await;
    for name in ["a.mp3", &long_path(), "z.mp3"] {
        program.write(name, name);
    }
    program
}

async fn listed(program: &Program) -> Vec<Value> {
    let list = program.run(&["parked", "--json"]).await;
    assert_eq!(list.code, Some(0));
    list.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_parked_listed_and_retried_while_the_service_runs() {
    let node = Node::start();
    let program = with_a_poisonous_file(&node).await;
    let mut consumer = program.consumer().await;
    let mut watching = program.watch().await;
    let before = consumer.expect_different(2, LIMIT, QUIET).await;
    program.write("later.mp3", "later");
    let later = consumer.expect(1, LIMIT).await;
    watching.wait_for_log("is parked").await;
    eventually("it is parked", LIMIT, || program.count("parked") == 1 && program.count("outbox") == 0).await;

    let parked = listed(&program).await;
    let [only] = &parked[..] else { panic!("one is parked: {parked:?}") };
    let sequence = only["sequence"].as_u64().unwrap();
    assert!(only["path"].as_str().unwrap().ends_with(&long_path()), "{only}");
    assert!(only["reason"].as_str().unwrap().contains("406"), "{only}");
    assert!(only["size"].as_u64().unwrap() > u64::from(MOST), "{only}");
    let list = program.run(&["parked"]).await;
    let table = list.stdout;
    assert_eq!((list.code, table.lines().count()), (Some(0), 2));
    assert!(table.contains(&format!("{sequence}  created")) && table.contains("b.mp3"), "{table}");

    // A message that is not parked can be neither retried nor dropped, and the command does nothing then.
    for flag in ["--retry", "--drop"] {
        let refused = program.run(&["parked", flag, &sequence.to_string(), "99"]).await;
        assert_eq!(refused.code, Some(2), "{}", refused.log);
        assert!(refused.log.contains("99 is not the sequence number of a parked message"), "{}", refused.log);
    }
    // The limit is still the same, so the message is refused and parked again.
    let retried = program.run(&["parked", "--retry", &sequence.to_string()]).await;
    assert_eq!(retried.code, Some(0), "{}", retried.log);
    assert!(retried.log.contains("1 parked message to be delivered again now"), "{}", retried.log);
    eventually("it is parked again", LIMIT, || watching.log().matches("is parked; later ones").count() == 2).await;
    eventually("it is parked again", LIMIT, || program.count("parked WHERE retry IS NULL") == 1).await;

    // With another limit it arrives, late, as the same event.
    node.set_max_message_size(ENOUGH);
    program.proxy.cut();
    assert_eq!(program.run(&["parked", "--retry"]).await.code, Some(0));
    let retried = consumer.expect_different(1, LIMIT, QUIET).await;
    assert_eq!(first_seen(&retried), [sequence]);
    assert_eq!(retried[0].message_id(), retried[0].body["correlation_id"].as_str().unwrap());
    let mut all: Vec<u64> = first_seen(&[before, later, retried].concat());
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4]);
    eventually("nothing is parked", LIMIT, || program.count("parked") == 0).await;
    assert!(listed(&program).await.is_empty());
    let list = program.run(&["parked"]).await;
    assert_eq!((list.code, list.stdout.as_str()), (Some(0), "no message is parked\n"));
    let ended = watching.stop().await;
    let errors = ended.log.lines().filter(|line| line.contains(r#""level":"ERROR""#));
    assert!(errors.clone().all(|line| line.contains("b.mp3")) && errors.count() == 2, "{}", tail(&ended.log));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_survives_and_can_be_retried_and_dropped_without_a_service() {
    let node = Node::start();
    let program = with_a_poisonous_file(&node).await;
    let mut consumer = program.consumer().await;
    // A parked message does not fail the scan.
    program.scan().await;
    assert_eq!(consumer.expect_different(2, LIMIT, QUIET).await.len(), 2);
    let sequence = listed(&program).await[0]["sequence"].as_u64().unwrap();
    assert_eq!(program.run(&["parked", "--retry", "99"]).await.code, Some(2));

    // No broker is needed.
    let retried = program.run(&["parked", "--retry"]).await;
    assert_eq!(retried.code, Some(0), "{}", retried.log);
    assert!(retried.log.contains("to be delivered again by the next watch or scan"), "{}", retried.log);
    assert!(listed(&program).await.is_empty());
    let scanned = program.run(&["scan"]).await;
    assert_eq!((scanned.code, scanned.log.matches("is parked; later").count()), (Some(0), 1), "{}", scanned.log);
    assert_eq!(listed(&program).await[0]["sequence"], sequence);

    // A new index keeps it and logs that it does.
    let rebuilt = program.run(&["scan", "--rebuild-index"]).await;
    assert_eq!(rebuilt.code, Some(0), "{}", tail(&rebuilt.log));
    assert!(rebuilt.log.contains("messages are parked"), "{}", tail(&rebuilt.log));
    assert_eq!(listed(&program).await[0]["sequence"], sequence);
    consumer.drain_until_quiet(Duration::from_secs(1)).await;

    let dropped = program.run(&["parked", "--drop", &sequence.to_string()]).await;
    assert_eq!(dropped.code, Some(0), "{}", dropped.log);
    assert!(dropped.log.contains("b.mp3") && dropped.log.contains("1 parked message dropped"), "{}", dropped.log);
    let left: Vec<Value> = listed(&program).await;
    assert!(left.iter().all(|message| message["sequence"] != sequence), "{left:?}");
    // Drops all that are left, because the new index has published the file again.
    assert_eq!(program.run(&["parked", "--drop"]).await.code, Some(0));
    let nothing = program.run(&["parked", "--drop"]).await;
    assert_eq!((nothing.code, nothing.log.contains("no message is parked")), (Some(0), true), "{}", nothing.log);
    assert!(consumer.drain_until_quiet(QUIET).await.is_empty(), "a dropped message is not delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_that_is_replaced_needs_no_restart_and_one_that_is_wrong_ends_only_a_start() {
    let node = Node::shared();
    let mut program = Program::new().await;
    let vhost = program.vhost();
    let user = format!("service-{vhost}");
    node.add_user(&user, "old-secret");
    node.permit(&user, &vhost, ".*");
    let password = program.place("password");
    fs::write(&password, "old-secret\n").unwrap();
    let url = format!("amqp://{user}@127.0.0.1:{}/{vhost}", program.proxy.port());
    program.set("RABBITMQ_URL", &url).set("RABBITMQ_PASS_FILE", "password");
    program.write("a.mp3", "a");
    let mut consumer = program.consumer().await;
    let mut watching = program.watch().await;
    consumer.expect(1, LIMIT).await;

    fs::remove_file(&password).unwrap();
    node.change_password(&user, "new-secret");
    program.proxy.cut();
    watching.wait_for_log("RABBITMQ_PASS_FILE: names a file that does not exist").await;
    program.write("b.mp3", "b");
    fs::write(&password, "new-secret\n").unwrap();
    consumer.expect(1, LIMIT).await;
    let ended = watching.stop().await;
    assert!(!ended.log.contains("-secret"), "{}", tail(&ended.log));

    fs::remove_file(&password).unwrap();
    let refused = program.run(&["watch"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.log);
    assert!(refused.log.contains("RABBITMQ_PASS_FILE"), "{}", refused.log);
}
