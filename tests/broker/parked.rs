//! Messages that the broker refuses for what they are, and secrets that change while the sink runs.

use std::fs;
use std::time::Duration;

use file_watcher::model::{Outgoing, Refused, Unroutable};
use file_watcher::sink::{Amqp, AmqpSettings, Deliver, Reread, Tls};
use lapin::types::FieldTable;
use serde_json::json;
use tokio::time::timeout;

use crate::refusals::refusal;
use crate::support::consumer::{Consumer, KEYS, declare, first_seen};
use crate::support::rabbit::{Node, Private};
use crate::support::{created, eventually, outgoing};
use crate::{LIMIT, QUIET, settings, sink};

/// What the node takes at most.
const MOST: u32 = 4_096;

/// A node of the test's own that takes small messages only.
fn strict_node() -> Private {
    let node = Node::start();
    node.set_max_message_size(MOST);
    node
}

/// The same message with so many bytes more in its metadata, or in a field that must stay.
fn larger(message: &Outgoing, field: &str, bytes: usize) -> Outgoing {
    let mut body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
    body[field] = match field {
        "metadata" => json!({"tags": {"title": "t".repeat(bytes)}}),
        _ => json!("p".repeat(bytes)),
    };
    Outgoing { body: serde_json::to_vec(&body).unwrap(), ..message.clone() }
}

fn sequences(refused: &[Refused]) -> Vec<u64> {
    refused.iter().map(|refused| refused.sequence).collect()
}

async fn deliver(sink: &mut Amqp, batch: &[Outgoing]) -> Vec<Refused> {
    timeout(LIMIT, sink.deliver(batch)).await.expect("those behind go on").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_handed_back_and_those_behind_it_arrive_in_order() {
    let node = strict_node();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_all_keys(&url).await;
    let mut sink = sink(&url);
    let mut batch = created(1..=100);
    for poisonous in [1, 40, 41, 100] {
        batch[poisonous - 1] = larger(&batch[poisonous - 1], "padding", 10_000);
    }
    let refused = deliver(&mut sink, &batch).await;
    assert_eq!(sequences(&refused), [1, 40, 41, 100]);
    assert!(refused.iter().all(|it| it.reason.contains("406") && it.reason.contains("size")), "{refused:?}");
    assert_eq!(deliver(&mut sink, &created(101..=200)).await, []);

    let received = consumer.expect_different(196, LIMIT, QUIET).await;
    let expected: Vec<u64> = (1..=200).filter(|it| ![1, 40, 41, 100].contains(it)).collect();
    assert_eq!(first_seen(&received), expected);
    let status = sink.status();
    assert_eq!((status.refused_messages(), status.delivered()), (4, 196));
    assert!(status.is_connected());
    // Two refusals each, one for each batch that held some, and not one more.
    assert!(status.connections() <= 1 + 4 * 3, "{} connections", status.connections());
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_tags_are_too_large_arrives_without_its_metadata() {
    let node = strict_node();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_all_keys(&url).await;
    let mut sink = sink(&url);
    let mut batch = created(1..=20);
    batch[6] = larger(&batch[6], "metadata", 10_000);
    batch[7] = larger(&larger(&batch[7], "metadata", 10_000), "padding", 10_000);
    let refused = deliver(&mut sink, &batch).await;
    assert_eq!(sequences(&refused), [8]);
    let received = consumer.expect_different(19, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=20).filter(|it| *it != 8).collect::<Vec<_>>());
    let reduced = received.iter().find(|it| it.sequence() == 7).unwrap();
    assert_eq!(reduced.message_id(), batch[6].correlation_id);
    assert!(reduced.body["metadata"]["error"].as_str().unwrap().contains("too large"), "{}", reduced.body);
    assert_eq!(reduced.body["metadata"]["tags"], json!({}));
    assert_eq!(reduced.body["file_path"], "/music/album/00000007.flac");
    sink.close().await;
}

/// In `auto` the sink waits for a first consumer and tries one message of each key meanwhile: one of those may be the
/// one that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_does_not_keep_the_sink_from_finding_its_consumers() {
    let node = strict_node();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_keys(&url, &["file.moved"]).await;
    let mut sink = Amqp::new(AmqpSettings { unroutable: Unroutable::Auto, ..settings(&url) });
    let batch = [
        outgoing(1, "deleted"),
        larger(&outgoing(2, "created"), "padding", 10_000),
        outgoing(3, "moved"),
        outgoing(4, "renamed"),
    ];
    assert_eq!(sequences(&deliver(&mut sink, &batch).await), [2]);
    let received = consumer.expect_different(1, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), [3]);
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_never_count_against_a_message() {
    let node = Node::start();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    declare(&url, "all", &KEYS, FieldTable::default()).await;
    let mut sink = sink(&url);
    let status = sink.status();
    let delivery = tokio::spawn(async move {
        let mut sequence = 0;
        // One message a batch, so that each that is lost was alone.
        while sink.status().connections() < 5 {
            sequence += 1;
            assert_eq!(deliver(&mut sink, &created([sequence])).await, []);
        }
        sink.close().await;
        sequence
    });
    let killer = tokio::task::spawn_blocking(move || {
        while status.connections() < 5 {
            node.ctl(&["close_all_connections", "--vhost", &vhost, "rotated"]);
        }
        (node, status)
    });
    let last = delivery.await.unwrap();
    let (_node, status) = killer.await.unwrap();
    assert_eq!(status.refused_messages(), 0);
    let received = Consumer::of_queue(&url, "all").await.drain_until_quiet(QUIET).await;
    assert_eq!(first_seen(&received), (1..=last).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_broken_off_over_a_refused_message_finds_it_the_next_time() {
    let node = strict_node();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_all_keys(&url).await;
    let mut sink = sink(&url);
    let mut batch = created(1..=30);
    batch[15] = larger(&batch[15], "padding", 10_000);
    for milliseconds in [1, 20, 60, 150, 300] {
        let _ = timeout(Duration::from_millis(milliseconds), sink.deliver(&batch)).await;
    }
    // Perhaps it was done with before, and is found again.
    assert_eq!(sequences(&deliver(&mut sink, &batch).await), [16]);
    let received = consumer.expect_different(29, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=30).filter(|it| *it != 16).collect::<Vec<_>>());
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_is_read_again_and_a_file_that_is_wrong_for_a_while_is_waited_for() {
    let node = Node::shared();
    let vhost = node.vhost();
    let user = format!("rotated-{vhost}");
    node.add_user(&user, "old-secret");
    node.permit(&user, &vhost, ".*");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "old-secret").unwrap();
    declare(&node.url(&vhost), "rotated", &KEYS, FieldTable::default()).await;
    let url = node.url_as(&user, "old-secret", &vhost);
    let reread = Reread::new({
        let (file, url) = (file.clone(), url.clone());
        move || {
            let password =
                fs::read_to_string(&file).map_err(|_| "X_FILE: names a file that does not exist".to_owned())?;
            Ok((url.replace("old-secret", &password).parse().unwrap(), Tls::default()))
        }
    });
    let mut sink = Amqp::new(AmqpSettings { reread: Some(reread), ..settings(&url) });
    assert_eq!(deliver(&mut sink, &created(1..=3)).await, []);

    // The file goes first, then the broker has another password, then the file has it too.
    fs::remove_file(&file).unwrap();
    node.change_password(&user, "new-secret");
    node.ctl(&["close_all_connections", "--vhost", &vhost, "rotated"]);
    let status = sink.status();
    eventually("it says what is wrong", LIMIT, || status.waiting_for().is_some_and(|it| it.contains("X_FILE"))).await;
    fs::write(&file, "old-secret").unwrap();
    let reason = refusal(&sink).await;
    assert!(reason.contains("RABBITMQ_PASS") && !reason.contains("secret"), "{reason}");
    fs::write(&file, "new-secret").unwrap();
    assert_eq!(deliver(&mut sink, &created(4..=6)).await, []);
    let mut consumer = Consumer::of_queue(&node.url(&vhost), "rotated").await;
    assert_eq!(first_seen(&consumer.expect_different(6, LIMIT, QUIET).await), [1, 2, 3, 4, 5, 6]);
    sink.close().await;
}
