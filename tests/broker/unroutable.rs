//! Messages for which no queue is bound.

use std::time::Duration;

use file_watcher::model::Unroutable;
use file_watcher::sink::{Deliver, Stall};
use tokio::time;

use crate::support::consumer::{Consumer, first_seen};
use crate::support::rabbit::Node;
use crate::support::{created, outgoing};
use crate::{LIMIT, QUIET, sink_with};

/// Long enough for a message to be returned and tried again a few times.
const A_WHILE: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread")]
async fn auto_waits_for_the_first_consumer() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut sink = sink_with(&url, Unroutable::Auto);
    let status = sink.status();
    let batch = created(1..=100);
    let mut delivery = Box::pin(sink.deliver(&batch));
    assert!(time::timeout(A_WHILE, &mut delivery).await.is_err(), "nobody is there to deliver to");
    assert!(
        matches!(&*status.stall().borrow(), Some(Stall::Unroutable { routing_key, .. }) if routing_key == "file.created")
    );
    assert_eq!(status.waiting_for().unwrap(), "a queue bound for file.created");

    let mut consumer = Consumer::of_all_keys(&url).await;
    time::timeout(LIMIT, delivery).await.expect("the consumer is there").unwrap();
    assert_eq!(first_seen(&consumer.expect(100, LIMIT).await), (1..=100).collect::<Vec<_>>());
    assert_eq!((status.delivered(), status.dropped()), (100, 0));
    assert_eq!(status.waiting_for(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_lets_go_what_a_consumer_that_is_there_does_not_want() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_keys(&url, &["file.created"]).await;
    let mut sink = sink_with(&url, Unroutable::Auto);
    // The first is one that nobody wants: that consumers are there is known by the second key.
    let batch: Vec<_> =
        (1..=20).map(|sequence| outgoing(sequence, if sequence % 2 == 0 { "created" } else { "deleted" })).collect();
    time::timeout(LIMIT, sink.deliver(&batch)).await.expect("not to wait for ever").unwrap();
    let received = consumer.expect_different(10, LIMIT, QUIET).await;
    assert_eq!(first_seen(&received), (1..=10).map(|half| half * 2).collect::<Vec<_>>());
    let status = sink.status();
    assert_eq!((status.delivered(), status.dropped()), (10, 10));

    // From then on they are discarded at once.
    let begun = time::Instant::now();
    sink.deliver(&[outgoing(21, "moved"), outgoing(22, "deleted")]).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert_eq!(status.dropped(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_keeps_even_what_no_consumer_wants_yet() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut creations = Consumer::of_keys(&url, &["file.created"]).await;
    let mut sink = sink_with(&url, Unroutable::Hold);
    let status = sink.status();
    let batch = [outgoing(1, "created"), outgoing(2, "deleted"), outgoing(3, "created")];
    let mut delivery = Box::pin(sink.deliver(&batch));
    assert!(time::timeout(A_WHILE * 3, &mut delivery).await.is_err());
    let mut deletions = Consumer::of_keys(&url, &["file.deleted"]).await;
    time::timeout(LIMIT, delivery).await.unwrap().unwrap();
    assert_eq!(first_seen(&creations.expect_different(2, LIMIT, QUIET).await), [1, 3]);
    assert_eq!(first_seen(&deletions.expect_different(1, LIMIT, QUIET).await), [2]);
    assert_eq!((status.delivered(), status.dropped()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_lets_go_at_once() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut sink = sink_with(&url, Unroutable::Drop);
    sink.deliver(&created(1..=250)).await.unwrap();
    let mut consumer = Consumer::of_keys(&url, &["file.deleted"]).await;
    let mixed: Vec<_> = (251..=350)
        .map(|sequence| outgoing(sequence, if sequence % 10 == 0 { "deleted" } else { "created" }))
        .collect();
    sink.deliver(&mixed).await.unwrap();
    assert_eq!(first_seen(&consumer.expect(10, LIMIT).await), (26..=35).map(|ten| ten * 10).collect::<Vec<_>>());
    let status = sink.status();
    assert_eq!((status.delivered(), status.dropped(), status.returned()), (10, 340, 340));
}
