//! The broker is there and cannot take everything.

use std::time::Duration;

use file_watcher::sink::{BrokerState, Deliver, Stall};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time;

use crate::support::consumer::{Consumer, KEYS, declare, first_seen};
use crate::support::rabbit::Node;
use crate::support::{created, eventually};
use crate::{LIMIT, QUIET, sink};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_that_rejects_is_waited_for() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(50));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    declare(&url, "small", &KEYS, arguments).await;
    let mut sink = sink(&url);
    let status = sink.status();
    let messages = created(1..=200);
    let delivery = tokio::spawn(async move { sink.deliver(&messages).await });
    eventually("the queue is full", LIMIT, || status.rejected() > 1).await;
    assert!(matches!(&*status.stall().borrow(), Some(Stall::Rejected { .. })));
    assert!(status.is_connected());

    let mut consumer = Consumer::of_queue(&url, "small").await;
    let (received, delivered) =
        tokio::join!(consumer.expect_different(200, LIMIT, QUIET), time::timeout(LIMIT, delivery));
    delivered.expect("all delivered").unwrap().unwrap();
    assert_eq!(first_seen(&received), (1..=200).collect::<Vec<_>>());
    assert_eq!(status.waiting_for(), None);
    assert_eq!(status.connections(), 1, "a rejection is no reason to leave");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_is_waited_out() {
    let limit = "set_vm_memory_high_watermark";
    an_alarm_is_waited_out("memory", &[limit, "0"], &[limit, "0.9"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_alarm_is_waited_out() {
    let limit = "set_disk_free_limit";
    an_alarm_is_waited_out("disk", &[limit, "1000000GB"], &[limit, "1MB"]).await;
}

/// `begin` and `end` are the arguments for `rabbitmqctl`.
async fn an_alarm_is_waited_out(what: &str, begin: &[&str], end: &[&str]) {
    let node = Node::start();
    let url = node.url(&node.vhost());
    let mut consumer = Consumer::of_all_keys(&url).await;
    // Two heartbeats go by while the broker is blocked: they must not end the connection, nor must
    // the missing confirms.
    let mut settings = crate::settings(&format!("{url}?heartbeat=1"));
    settings.confirm_timeout = Duration::from_secs(1);
    let mut sink = file_watcher::sink::Amqp::new(settings);
    let status = sink.status();
    sink.deliver(&created(1..=10)).await.unwrap();

    node.ctl(begin);
    let batch = created(11..=110);
    let mut delivery = Box::pin(sink.deliver(&batch));
    assert!(time::timeout(Duration::from_secs(4), &mut delivery).await.is_err());
    let state = status.state().borrow().clone();
    let BrokerState::Blocked { reason, .. } = &state else { panic!("{state:?}") };
    assert!(reason.contains(what), "{reason}");

    node.ctl(end);
    time::timeout(LIMIT, delivery).await.expect("all delivered").unwrap();
    assert_eq!(first_seen(&consumer.expect_different(110, LIMIT, QUIET).await), (1..=110).collect::<Vec<_>>());
    assert_eq!(status.connections(), 1, "an alarm is no reason to leave");
    assert!(status.is_connected());
}
