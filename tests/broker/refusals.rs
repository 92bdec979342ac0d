//! Refusals that a person must correct: named clearly, without secrets, and tried again.

use std::thread;
use std::time::Duration;

use file_watcher::sink::{Amqp, BrokerState, Deliver};
use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable};
use tokio::runtime::Runtime;
use tokio::time;

use crate::support::consumer::{Consumer, bind_queue, declare_exchange, delete_exchange};
use crate::support::created;
use crate::support::rabbit::Node;
use crate::{LIMIT, log, sink};

/// What the sink says when it is refused.
pub(crate) async fn refusal(sink: &Amqp) -> String {
    let mut state = sink.status().state();
    let refused = |state: &BrokerState| matches!(state, BrokerState::Refused { .. });
    let state = time::timeout(LIMIT, state.wait_for(refused)).await.expect("a refusal").unwrap().clone();
    match state {
        BrokerState::Refused { reason, .. } => reason,
        state => panic!("{state:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_names_the_settings_and_works_once_it_is_right() {
    let node = Node::shared();
    let vhost = node.vhost();
    node.add_user("alice", "opensesame");
    let sink = sink(&node.url_as("alice", "hunter2", &vhost));
    let reason = refusal(&sink).await;
    assert!(reason.contains("RABBITMQ_USER") && reason.contains("RABBITMQ_PASS"), "{reason}");
    assert!(!reason.contains("hunter2"), "{reason}");
    assert!(!format!("{sink:?}").contains("hunter2"));

    node.change_password("alice", "hunter2");
    node.permit("alice", &vhost, ".*");
    connected(sink).await;
}

async fn connected(mut sink: Amqp) {
    time::timeout(LIMIT, sink.connect()).await.expect("a connection").unwrap();
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_vhost_names_the_setting() {
    let node = Node::shared();
    let reason = refusal(&sink(&node.url("nowhere"))).await;
    assert!(reason.contains("RABBITMQ_URL") && reason.contains("nowhere"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_port_that_speaks_none_names_the_settings() {
    let node = Node::shared();
    let reason = refusal(&sink(&node.url("/").replace("amqp://", "amqps://"))).await;
    assert!(reason.contains("TLS") && reason.contains("RABBITMQ_CA_FILE"), "{reason}");
}

/// All on one thread, whose log has all of it.
#[tokio::test]
async fn the_log_says_it_once_however_often_it_is_tried_and_keeps_the_secret() {
    let node = Node::shared();
    let vhost = node.vhost();
    node.add_user("bob", "s3cret");
    node.permit("bob", &vhost, "");
    // Another thread is the first to log a connection, as any of the other tests may be.
    let url = node.url(&vhost);
    thread::spawn(move || Runtime::new().unwrap().block_on(async { connected(sink(&url)).await })).join().unwrap();

    // He may log in and declare, and not write: each time it looks well until the first message.
    let mut bob = sink(&node.url_as("bob", "s3cret", &vhost));
    let mut carol = sink(&node.url_as("carol", "s3cret", &vhost));
    let batch = created(1..=1);
    let tries = async { tokio::join!(bob.deliver(&batch), carol.deliver(&batch)) };
    assert!(time::timeout(Duration::from_secs(4), tries).await.is_err());
    assert!(bob.status().connections() > 2, "it was tried again and again");

    let reason = refusal(&bob).await;
    assert!(reason.contains("write") && reason.contains("bob"), "{reason}");
    let log = log::of_this_thread();
    assert!(!log.contains("s3cret"), "{log}");
    let ours: Vec<_> = log.lines().filter(|line| line.contains("file_watcher")).collect();
    assert_eq!(ours.iter().filter(|line| line.contains("ERROR")).count(), 2, "{ours:#?}");
    assert_eq!(ours.len(), 3, "both refusals and bob's first connection: {ours:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_of_the_wrong_type_is_named_and_waited_for() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    declare_exchange(&url, ExchangeKind::Fanout, FieldTable::default()).await;
    let mut sink = sink(&url);
    let reason = refusal(&sink).await;
    assert!(reason.contains("file_events") && reason.contains("topic"), "{reason}");

    delete_exchange(&url).await;
    let mut consumer = Consumer::of_all_keys(&url).await;
    time::timeout(LIMIT, sink.deliver(&created(1..=3))).await.expect("delivered").unwrap();
    assert_eq!(consumer.expect(3, LIMIT).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_with_arguments_is_used_as_it_is() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString("amq.fanout".into()));
    declare_exchange(&url, ExchangeKind::Topic, arguments).await;
    bind_queue(&url, "everything", "file.#").await;
    let mut sink = sink(&url);
    assert_eq!(sink.deliver(&created(1..2)).await.unwrap(), [], "none is refused");
    assert_eq!(Consumer::of_queue(&url, "everything").await.expect(1, LIMIT).await.len(), 1);
    sink.close().await;
}
