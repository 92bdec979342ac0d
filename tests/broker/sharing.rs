//! What docs/scaling.md says about consumers that share the work, and about a stream as a log.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeBindOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use tokio::time::timeout;

use crate::support::consumer::{Consumer, EXCHANGE, Received, channel, declare_on};
use crate::support::disk::Files;
use crate::support::oracle::Oracle;
use crate::support::process::LIMIT;
use crate::support::program::Program;
use crate::support::rabbit::{Node, Private};
use crate::{QUIET, sink};
use file_watcher::sink::Deliver;

const PARTITIONS: &str = "file_events.partitions";

/// The artists of the library.
const ARTISTS: [&str; 12] =
    ["Abba", "Bj\u{f6}rk", "Can", "Devo", "Eels", "Fugazi", "Gong", "Hole", "Iggy", "Joy", "Kraftwerk", "Low"];

fn node() -> Private {
    Node::with_plugins(&["rabbitmq_consistent_hash_exchange", "rabbitmq_stream"])
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Declares a durable queue with these arguments.
async fn declare_queue(channel: &Channel, queue: &str, arguments: FieldTable) {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.unwrap();
}

/// Binds queues that are there to an exchange that distributes the messages by their partition key.
async fn share(channel: &Channel, queues: &[String]) {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let (topic, hash) = (ExchangeKind::Topic, ExchangeKind::Custom("x-consistent-hash".into()));
    let by_key = table([("hash-header", text("partition_key"))]);
    channel.exchange_declare(EXCHANGE.into(), topic, durable, FieldTable::default()).await.unwrap();
    channel.exchange_declare(PARTITIONS.into(), hash, durable, by_key).await.unwrap();
    for queue in queues {
        let (queue, options) = (queue.as_str().into(), QueueBindOptions::default());
        channel.queue_bind(queue, PARTITIONS.into(), "1".into(), options, FieldTable::default()).await.unwrap();
    }
    let (options, no_arguments) = (ExchangeBindOptions::default(), FieldTable::default());
    channel.exchange_bind(PARTITIONS.into(), EXCHANGE.into(), "file.#".into(), options, no_arguments).await.unwrap();
}

/// Publishes a library, and then changes of every kind, some of them from one artist to another.
async fn publish_changes(program: &Program) {
    for (number, artist) in ARTISTS.iter().enumerate() {
        for track in 0..5 {
            program.write(format!("{artist}/{track}.mp3"), format!("{artist} {track} {number}"));
        }
    }
    program.write("in the root.mp3", "in the root");
    program.scan().await;
    for round in 0..4 {
        for (number, artist) in ARTISTS.iter().enumerate() {
            let path = |name: &str| program.path(format!("{artist}/{name}"));
            let next = ARTISTS[(number + round + 1) % ARTISTS.len()];
            program.write(format!("{artist}/0.mp3"), format!("{artist}, version {round}"));
            // There and, in a later round, on to the next one.
            let passed = format!("passed {number}.mp3");
            let from = if round == 0 { path("1.mp3") } else { owner(program, &passed) };
            fs::rename(from, program.path(format!("{next}/{passed}"))).unwrap();
            let (from, to) = if round % 2 == 0 { ("2.mp3", "two.mp3") } else { ("two.mp3", "2.mp3") };
            fs::rename(path(from), path(to)).unwrap();
        }
        fs::remove_file(program.path(format!("{}/4.mp3", ARTISTS[round]))).unwrap();
        program.scan().await;
    }
}

/// The path of the file with this name, in whichever directory.
fn owner(program: &Program, name: &str) -> PathBuf {
    let of = |artist: &&str| program.path(format!("{artist}/{name}"));
    ARTISTS.iter().map(of).find(|path| path.exists()).unwrap()
}

/// The database that the consumers of all partitions share: the content of each path, and the highest sequence number
/// that was applied to it, also of paths that are gone.
#[derive(Default)]
struct Shared(HashMap<String, (u64, Option<String>)>);

impl Shared {
    /// Applies a message as docs/scaling.md says.
    fn apply(&mut self, message: &Received) {
        let body = &message.body;
        let field = |name: &str| body[name].as_str().map(ToOwned::to_owned);
        let sequence = message.sequence();
        if let Some(old_path) = field("old_path") {
            self.set(old_path, sequence, None);
        }
        self.set(field("file_path").unwrap(), sequence, field("sha256_hash"));
    }

    fn set(&mut self, path: String, sequence: u64, content: Option<String>) {
        let row = self.0.entry(path).or_default();
        if row.0 < sequence {
            *row = (sequence, content);
        }
    }

    fn files(&self, root: &Path) -> Files {
        let known = self.0.iter().filter_map(|(path, (_, content))| Some((path, content.clone()?)));
        known.map(|(path, content)| (Path::new(path).strip_prefix(root).unwrap().to_owned(), content)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_share_the_work_by_partition_key_get_the_messages_of_a_path_in_order() {
    let node = node();
    let url = node.url(&node.vhost());
    let queues = ["catalog.1", "catalog.2", "catalog.3"].map(ToOwned::to_owned);
    let (connection, channel) = channel(&url).await;
    for queue in &queues {
        let single = table([("x-single-active-consumer", AMQPValue::Boolean(true))]);
        declare_queue(&channel, queue, single).await;
    }
    share(&channel, &queues).await;
    connection.close(200, "done".into()).await.unwrap();
    let program = Program::new(&url);
    publish_changes(&program).await;

    let mut partitions = Vec::new();
    for queue in &queues {
        partitions.push(Consumer::of_queue(&url, queue).await.drain_until_quiet(QUIET).await);
    }
    // Each directory has one queue, and each queue has the messages of its directories in order.
    let mut of_key: BTreeMap<String, usize> = BTreeMap::new();
    for (number, received) in partitions.iter().enumerate() {
        assert!(!received.is_empty(), "each queue has some of the work");
        assert!(received.is_sorted_by(|one, next| one.sequence() < next.sequence()));
        for message in received {
            let key = message.header("partition_key").unwrap();
            assert_eq!(*of_key.entry(key).or_insert(number), number, "{message:?}");
        }
    }
    assert_eq!(of_key.len(), ARTISTS.len() + 1);
    let crossing = |message: &&Received| message.header("old_partition_key").is_some();
    assert!(partitions.iter().flatten().filter(crossing).count() >= ARTISTS.len(), "moves between directories");
    let mut sequences: Vec<u64> = partitions.iter().flatten().map(Received::sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>(), "each message came once");

    // Whichever partition is ahead of the others, the result is the same.
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut shared = Shared::default();
        order.iter().flat_map(|number| &partitions[*number]).for_each(|message| shared.apply(message));
        assert_eq!(shared.files(&program.root()), program.files());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_consumers_of_a_queue_one_is_active_and_another_goes_on_where_it_ended() {
    let node = Node::shared();
    let url = node.url(&node.vhost());
    let (_connection, channel) = channel(&url).await;
    let single = table([("x-single-active-consumer", AMQPValue::Boolean(true))]);
    declare_on(&channel, "catalog.1", &["file.#"], single).await.unwrap();
    let (mut first, mut second) =
        (Consumer::of_queue(&url, "catalog.1").await, Consumer::of_queue(&url, "catalog.1").await);
    let mut sink = sink(&url);
    sink.deliver(&crate::support::created(1..=100)).await.unwrap();
    let mut received = first.expect(100, LIMIT).await;
    assert!(second.drain_until_quiet(QUIET).await.is_empty(), "only one is active");
    drop(first);
    sink.deliver(&crate::support::created(101..=200)).await.unwrap();
    received.extend(second.expect(100, LIMIT).await);
    assert!(received.iter().map(Received::sequence).eq(1..=200));
}

/// Reads a stream from an offset on, until this many messages came or nothing comes any more; returns the bodies and the
/// offset of the last one.
async fn read_stream(url: &str, stream: &str, from: AMQPValue, limit: usize) -> (Vec<Vec<u8>>, Option<i64>) {
    let (connection, channel) = channel(url).await;
    // A stream has to be read with a limit, and acknowledged.
    channel.basic_qos(100, BasicQosOptions::default()).await.unwrap();
    let arguments = table([("x-stream-offset", from)]);
    let mut consumer =
        channel.basic_consume(stream.into(), "".into(), BasicConsumeOptions::default(), arguments).await.unwrap();
    let (mut bodies, mut last) = (Vec::new(), None);
    while bodies.len() < limit {
        let Ok(Some(delivery)) = timeout(4 * QUIET, consumer.next()).await else { break };
        let delivery = delivery.unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let Some(AMQPValue::LongLongInt(offset)) = headers.inner().get("x-stream-offset") else {
            panic!("{headers:?} have no offset");
        };
        last = Some(*offset);
        bodies.push(delivery.data);
    }
    connection.close(200, "done".into()).await.unwrap();
    (bodies, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_read_again_from_its_beginning_gives_the_library() {
    let node = node();
    let url = node.url(&node.vhost());
    let (connection, link) = channel(&url).await;
    declare_on(&link, "library.log", &["file.#"], table([("x-queue-type", text("stream"))])).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    let program = Program::new(&url);
    publish_changes(&program).await;

    let replayed = |bodies: &[Vec<u8>]| {
        let mut oracle = program.oracle();
        for body in bodies {
            assert!(oracle.take_json(body).unwrap());
        }
        oracle
    };
    for from in [text("first"), AMQPValue::LongLongInt(0)] {
        let (bodies, _) = read_stream(&url, "library.log", from, usize::MAX).await;
        assert_eq!(replayed(&bodies).files, program.files());
    }

    // A consumer that keeps the offset of the last message goes on there: with what came after it.
    let (bodies, last) = read_stream(&url, "library.log", text("first"), 40).await;
    let mut oracle: Oracle = replayed(&bodies);
    let (rest, _) = read_stream(&url, "library.log", AMQPValue::LongLongInt(last.unwrap() + 1), usize::MAX).await;
    for body in &rest {
        assert!(oracle.take_json(body).unwrap(), "not one of them came before");
    }
    assert_eq!(oracle.files, program.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_super_stream_share_the_messages_by_partition_key() {
    let node = node();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    node.streams(&["add_super_stream", "library", "--partitions", "3", "--vhost", &vhost]);
    let streams = [0, 1, 2].map(|number| format!("library-{number}"));
    let (connection, channel) = channel(&url).await;
    share(&channel, &streams).await;
    connection.close(200, "done".into()).await.unwrap();
    let program = Program::new(&url);
    publish_changes(&program).await;

    let mut shared = Shared::default();
    for stream in &streams {
        let (bodies, _) = read_stream(&url, stream, text("first"), usize::MAX).await;
        let received: Vec<Received> = bodies.iter().map(|body| Received::of_body(body)).collect();
        assert!(!received.is_empty() && received.is_sorted_by(|one, next| one.sequence() < next.sequence()));
        for message in &received {
            shared.apply(message);
        }
    }
    assert_eq!(shared.files(&program.root()), program.files());
}
