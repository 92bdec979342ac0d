//! A hundred messages of 800 bytes to a RabbitMQ of the bench's own, each confirmed. Neighbour: the same with the
//! client library alone, without handling of returned messages and without retries.

use std::sync::LazyLock;

use criterion::{Criterion, SamplingMode, Throughput};
use file_watcher::model::Outgoing;
use file_watcher::sink::{Amqp, AmqpSettings, Deliver};
use futures::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use crate::support;
use crate::testing::consumer::{EXCHANGE, KEYS, channel, declare};
use crate::testing::created;
use crate::testing::rabbit::Node;

const BATCH: u64 = 100;

pub(crate) fn deliver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sink");
    group.sample_size(20).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(BATCH));
    let runtime = support::runtime();
    let messages = created(1..=BATCH);

    let url = LazyLock::new(|| queue(&runtime));

    let mut sink = LazyLock::new(|| {
        let url = &*url;
        runtime.block_on(async {
            let mut sink = Amqp::new(AmqpSettings::new(url.parse().unwrap(), "bench", support::ROOT));
            sink.connect().await.unwrap();
            sink
        })
    });
    group.bench_function("deliver", |bencher| {
        let sink = LazyLock::force_mut(&mut sink);
        bencher.iter(|| runtime.block_on(sink.deliver(&messages)).unwrap());
    });
    let plain = LazyLock::new(|| {
        let url = &*url;
        runtime.block_on(async {
            let (connection, channel) = channel(url).await;
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        })
    });
    group.bench_function("neighbour: publish and await", |bencher| {
        let (_connection, channel) = &*plain;
        bencher.iter(|| runtime.block_on(publish(channel, &messages)));
    });
    group.finish();
}

/// A vhost with a queue that keeps only the newest messages, because nobody consumes them.
fn queue(runtime: &tokio::runtime::Runtime) -> String {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1000));
    runtime.block_on(declare(&url, "bench", &KEYS, arguments));
    url
}

async fn publish(channel: &Channel, messages: &[Outgoing]) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut confirms = Vec::with_capacity(messages.len());
    for message in messages {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(message.correlation_id.as_str().into())
            .with_content_type("application/json".into());
        let key = message.routing_key();
        let confirm =
            channel.basic_publish(EXCHANGE.into(), key.into(), options, &message.body, properties).await.unwrap();
        confirms.push(confirm);
    }
    assert!(try_join_all(confirms).await.unwrap().iter().all(lapin::Confirmation::is_ack));
}
