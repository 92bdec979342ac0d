//! Three RabbitMQ nodes of the test's own that form a cluster, on one machine.
//!
//! They share a name service, by which they find each other, and a cookie. Nothing of them outlives the test process.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};

use super::follower::Followed;
use super::hosts::hosts;
use super::rabbit::{Node, free_port};

/// What runs between the test and the name service. It ends when the test closes the pipe.
const KEEPER: &str = r"
trap '' INT TERM HUP
setsid epmd >/dev/null 2>&1 & names=$!
read -r word
kill -KILL $names
";

/// How long the nodes may take to agree on something.
const AGREEMENT: Duration = Duration::from_mins(1);

/// A cluster. Its nodes may be killed, stopped, frozen and cut off, one or several.
pub(crate) struct Cluster {
    nodes: [Node; 3],
    /// Dropped last. Nodes on hosts of their own have one each.
    _names: Option<NameService>,
}

impl Cluster {
    /// A running cluster. Each node accepts clients whatever happens to the others. This text is added to the
    /// configuration of each.
    pub(crate) fn start(configuration: &str) -> Self {
        let (names, cookie) = (NameService::start(), cookie());
        let nodes = [(); 3].map(|()| Node::member(names.port, &cookie));
        Self { nodes, _names: Some(names) }.formed(configuration)
    }

    /// A running cluster of nodes on different hosts, which can be unplugged. It needs root.
    pub(crate) fn on_hosts() -> Self {
        let (names_port, cookie) = (free_port(), cookie());
        let nodes = hosts().map(|host| Node::member_on(host, names_port, &cookie));
        Self { nodes, _names: None }.formed("")
    }

    fn formed(self, configuration: &str) -> Self {
        let nodes = &self.nodes;
        for node in nodes {
            // After this long without an answer, another node counts as gone. The default is a minute.
            node.set_net_ticktime(8);
            node.configure(configuration);
        }
        let starting = nodes.each_ref().map(Node::begin_start);
        for (node, keeper) in nodes.iter().zip(starting) {
            node.end_start(keeper);
        }
        for node in &nodes[1..] {
            let join = format!("rabbit_mnesia:join_cluster('{}', disc)", nodes[0].name());
            node.eval(&format!("rabbit:stop(), ok = {join}, rabbit:start()."));
        }
        self
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> &[Node; 3] {
        &self.nodes
    }

    /// The URL of a vhost on all nodes.
    pub(crate) fn url(&self, vhost: &str) -> String {
        let addresses = self.nodes.each_ref().map(|node| format!("{}:{}", node.address(), node.port())).join(",");
        format!("amqp://guest:guest@{addresses}/{vhost}")
    }

    /// A quorum queue with a replica on each node. One consumer at a time gets its messages.
    pub(crate) fn quorum_queue(&self, vhost: &str, queue: &str, parameters: &str) -> Followed {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        let urls = self.nodes.iter().map(|node| format!("{}?{parameters}", node.url(vhost))).collect();
        Followed { urls, queue: queue.to_owned(), arguments, is_exclusive: false }
    }

    /// The node, by its number, to which clients connect at this address.
    pub(crate) fn at(&self, address: &str) -> usize {
        let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        self.nodes.iter().position(|node| Some(node.port()) == port).unwrap_or_else(|| panic!("no node at {address}"))
    }

    /// The number of the node that leads a quorum queue.
    pub(crate) fn leader(&self, vhost: &str, queue: &str) -> usize {
        let expression = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{queue}\">>)), \
             {{_, Leader}} = amqqueue:get_pid(Q), Leader."
        );
        let running = self.nodes.iter().find(|node| node.is_running()).expect("a running node");
        let begun = Instant::now();
        loop {
            let answer = running.eval(&expression);
            let leads = |node: &Node| node.is_running() && answer.contains(node.name());
            if let Some(number) = self.nodes.iter().position(leads) {
                return number;
            }
            assert!(begun.elapsed() < AGREEMENT, "no running node leads {queue}: {answer}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts the nodes that do not run, and waits until each sees all others.
    pub(crate) fn restore(&self) {
        let is_away = |number: &usize| !self.nodes[*number].is_running();
        let away: Vec<usize> = (0..self.nodes.len()).filter(is_away).collect();
        if !away.is_empty() {
            self.kill(away, Duration::ZERO);
        }
        self.wait_until_whole();
    }

    /// Waits until each node sees all others. Nodes that were cut off for too long are restarted for that.
    pub(crate) fn wait_until_whole(&self) {
        let (begun, mut waited_since) = (Instant::now(), Instant::now());
        while !self.nodes.iter().all(|node| self.unseen_by(node).is_empty()) {
            assert!(begun.elapsed() < 3 * AGREEMENT, "the nodes do not find each other");
            if waited_since.elapsed() > AGREEMENT / 3 {
                self.kill(self.unseen_by(&self.nodes[0]), Duration::ZERO);
                waited_since = Instant::now();
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The numbers of the nodes that a node does not see.
    fn unseen_by(&self, node: &Node) -> Vec<usize> {
        let seen = node.eval("rabbit_nodes:all_running().");
        let is_unseen = |number: &usize| !seen.contains(self.nodes[*number].name());
        (0..self.nodes.len()).filter(is_unseen).collect()
    }

    /// Kills these nodes, and starts them again after a pause.
    pub(crate) fn kill(&self, numbers: impl IntoIterator<Item = usize>, pause: Duration) {
        let nodes: Vec<&Node> = numbers.into_iter().map(|number| &self.nodes[number]).collect();
        for node in &nodes {
            node.kill();
        }
        thread::sleep(pause);
        // Side by side: those that were killed together wait for each other.
        thread::scope(|scope| {
            for node in nodes {
                scope.spawn(move || node.start_again());
            }
        });
    }

    /// Unplugs the host of this node: nobody reaches it, and nobody is told.
    pub(crate) fn unplug(&self, number: usize) {
        self.nodes[number].host().expect("it has a host of its own").unplug();
    }

    /// Ends what [`Cluster::unplug`] began.
    pub(crate) fn plug_in(&self, number: usize) {
        self.nodes[number].host().expect("it has a host of its own").plug_in();
    }

    /// What nodes do that do not see the others: the broker's `cluster_partition_handling`.
    pub(crate) fn set_partition_handling(&self, mode: &str) {
        for node in &self.nodes {
            node.eval(&format!("application:set_env(rabbit, cluster_partition_handling, {mode})."));
        }
    }

    /// Cuts the connections between this node and the others, and lets no new one be made. Clients reach all nodes.
    ///
    /// All of them are cut in the same moment. If a node loses a connection to one that others still see, more nodes pause.
    pub(crate) fn cut_off(&self, number: usize) {
        let others = self.others(number);
        // It has another cookie for them than they have for it, so each refuses the other.
        self.nodes[number].eval(&format!(
            "[erlang:set_cookie(Other, refused) || Other <- {others}], [erlang:disconnect_node(Other) || Other <- {others}]."
        ));
    }

    /// Ends what [`Cluster::cut_off`] began.
    pub(crate) fn reconnect(&self, number: usize) {
        let others = self.others(number);
        self.nodes[number].eval(&format!(
            "[erlang:set_cookie(Other, erlang:get_cookie()) || Other <- {others}], \
             [net_kernel:connect_node(Other) || Other <- {others}]."
        ));
    }

    /// The names of the other nodes, as a list of Erlang.
    fn others(&self, number: usize) -> String {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != number);
        let names: Vec<String> = others.map(|(_, node)| format!("'{}'", node.name())).collect();
        format!("[{}]", names.join(", "))
    }
}

/// The secret that the nodes of a cluster share.
fn cookie() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The name service of a cluster.
struct NameService {
    keeper: Child,
    port: u16,
}

impl NameService {
    fn start() -> Self {
        let port = free_port();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER]).env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_EPMD_PORT", port.to_string());
        let keeper = keeper.stdin(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < AGREEMENT, "the name service did not start");
            thread::sleep(Duration::from_millis(20));
        }
        Self { keeper, port }
    }
}

impl Drop for NameService {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
