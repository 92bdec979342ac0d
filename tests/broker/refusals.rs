//! What a person must put right: said clearly, without secrets, and tried again.

use file_watcher::sink::{Amqp, BrokerState, Deliver};
use lapin::ExchangeKind;
use tokio::time;

use crate::support::consumer::{Consumer, declare_exchange, delete_exchange};
use crate::support::created;
use crate::support::rabbit::Node;
use crate::{LIMIT, sink};

/// What the sink says when it is refused.
async fn refusal(sink: &Amqp) -> String {
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
    node.eval(r#"rabbit_auth_backend_internal:add_user(<<"alice">>, <<"opensesame">>, <<"test">>)."#);
    let mut sink = sink(&node.url_as("alice", "hunter2", &vhost));
    let reason = refusal(&sink).await;
    assert!(reason.contains("RABBITMQ_USER") && reason.contains("RABBITMQ_PASS"), "{reason}");
    assert!(!reason.contains("hunter2"), "{reason}");
    assert!(!format!("{sink:?}").contains("hunter2"));

    node.eval(r#"rabbit_auth_backend_internal:change_password(<<"alice">>, <<"hunter2">>, <<"test">>)."#);
    node.eval(&format!(
        "rabbit_auth_backend_internal:set_permissions(<<\"alice\">>, <<\"{vhost}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>)."
    ));
    time::timeout(LIMIT, sink.connect()).await.expect("let in").unwrap();
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_vhost_names_the_setting() {
    let node = Node::shared();
    let reason = refusal(&sink(&node.url("nowhere"))).await;
    assert!(reason.contains("RABBITMQ_URL") && reason.contains("nowhere"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_write_is_told_so() {
    let node = Node::shared();
    let vhost = node.vhost();
    node.eval(r#"rabbit_auth_backend_internal:add_user(<<"bob">>, <<"s3cret">>, <<"test">>)."#);
    node.eval(&format!(
        "rabbit_auth_backend_internal:set_permissions(<<\"bob\">>, <<\"{vhost}\">>, <<\".*\">>, <<>>, <<\".*\">>, <<\"test\">>)."
    ));
    let mut sink = sink(&node.url_as("bob", "s3cret", &vhost));
    let batch = created(1..=1);
    let delivery = sink.status();
    let (reason, _) = tokio::join!(
        async {
            let mut state = delivery.state();
            let refused = |state: &BrokerState| matches!(state, BrokerState::Refused { .. });
            time::timeout(LIMIT, state.wait_for(refused)).await.expect("a refusal").unwrap().to_string()
        },
        time::timeout(std::time::Duration::from_secs(2), sink.deliver(&batch))
    );
    assert!(reason.contains("write") && reason.contains("bob") && !reason.contains("s3cret"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_of_the_wrong_type_is_named_and_waited_for() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    declare_exchange(&url, ExchangeKind::Fanout).await;
    let mut sink = sink(&url);
    let reason = refusal(&sink).await;
    assert!(reason.contains("file_events") && reason.contains("topic"), "{reason}");

    delete_exchange(&url).await;
    let mut consumer = Consumer::of_all_keys(&url).await;
    time::timeout(LIMIT, sink.deliver(&created(1..=3))).await.expect("delivered").unwrap();
    assert_eq!(consumer.expect(3, LIMIT).await.len(), 3);
}
