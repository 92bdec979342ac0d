//! The parts of the message contract that the sink must keep.

use std::time::Instant;

use file_watcher::sink::Deliver;

use crate::support::consumer::{Consumer, KEYS, first_seen};
use crate::support::proxy::{Network, Proxy};
use crate::support::rabbit::Node;
use crate::support::{created, outgoing};
use crate::{LIMIT, QUIET, sink};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_with_all_its_properties() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_all_keys(&url).await;
    let mut sink = sink(&url);
    let batch: Vec<_> = ["created", "modified", "deleted", "moved", "renamed"]
        .into_iter()
        .zip(1..)
        .map(|(event_type, sequence)| outgoing(sequence, event_type))
        .collect();
    sink.deliver(&batch).await.unwrap();

    let received = consumer.expect(5, LIMIT).await;
    for ((sent, received), key) in batch.iter().zip(&received).zip(KEYS) {
        assert_eq!(received.exchange, "file_events");
        assert_eq!(received.routing_key, key);
        assert_eq!(serde_json::to_vec(&received.body).unwrap(), sent.body);
        let properties = &received.properties;
        let text = |property: &Option<lapin::types::ShortString>| property.as_ref().unwrap().to_string();
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(text(properties.content_type()), "application/json");
        assert_eq!(text(properties.content_encoding()), "utf-8");
        assert_eq!(text(properties.message_id()), sent.correlation_id);
        assert_eq!(text(properties.correlation_id()), sent.correlation_id);
        assert_eq!(*properties.timestamp(), Some(sent.timestamp));
        assert_eq!(text(properties.kind()), sent.event_type.as_str());
        assert_eq!(text(properties.app_id()), "file-watcher");
    }
    let status = sink.status();
    assert_eq!((status.delivered(), status.returned(), status.redelivered()), (5, 0, 0));
    assert_eq!(status.waiting_for(), None);
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_says_whose_it_is_and_is_closed_in_the_end() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut sink = sink(&node.url(&vhost));
    sink.connect().await.unwrap();
    let connections = || node.ctl(&["list_connections", "vhost", "client_properties"]);
    let listed = connections();
    let line = listed.lines().find(|line| line.contains(&vhost)).expect("our connection");
    assert!(line.contains("file_watcher_test-instance"), "{line}");
    assert!(line.contains(r#"{"instance_id","test-instance"}"#), "{line}");
    assert!(line.contains(r#"{"watched_directory","/music"}"#), "{line}");
    sink.close().await;
    assert!(!connections().contains(&vhost));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_batches_arrive_once_and_in_order() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_all_keys(&url).await;
    let mut sink = sink(&url);
    sink.connect().await.unwrap();
    let messages = created(1..=10_000);
    let begun = Instant::now();
    let deliver = async {
        for batch in messages.chunks(100) {
            sink.deliver(batch).await.unwrap();
        }
        begun.elapsed()
    };
    let (elapsed, received) = tokio::join!(deliver, consumer.expect(messages.len(), LIMIT));
    println!("{} messages a second", (messages.len() as f64 / elapsed.as_secs_f64()).round());
    assert_eq!(first_seen(&received), (1..=10_000).collect::<Vec<_>>());
    assert!(consumer.drain_until_quiet(QUIET).await.is_empty());
    assert_eq!(sink.status().redelivered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_broken_off_is_made_good_by_the_next() {
    let node = Node::shared();
    let vhost = node.vhost();
    let mut consumer = Consumer::of_all_keys(&node.url(&vhost)).await;
    let proxy = Proxy::to(node.port()).await;
    let mut sink = sink(&format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", proxy.port()));
    let messages = created(1..=300);
    sink.deliver(&messages[..100]).await.unwrap();
    // Dropped after its first step: messages are on their way and nobody waits for the answers, which cannot have come.
    proxy.set(Network::Silent);
    let broken_off = sink.deliver(&messages[100..200]);
    assert!(futures::FutureExt::now_or_never(broken_off).is_none());
    proxy.set(Network::Up);
    sink.deliver(&messages[100..200]).await.unwrap();
    sink.deliver(&messages[200..]).await.unwrap();
    let received = consumer.expect_different(300, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=300).collect::<Vec<_>>());
}
