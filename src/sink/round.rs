//! A round of attempts: each address of each node of the broker once, in random order.
//!
//! The order is random so that services do not all use the same node. After a round in which no node accepted the
//! connection, there is one pause for all of them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::{net, time};

use super::refusal::Failure;
use super::{BrokerUrl, NodeAddress};

/// How long looking up the addresses of a host name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// One address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The URL with this node alone.
    pub(super) url: BrokerUrl,
    /// The address to connect to.
    pub(super) address: SocketAddr,
    /// Whether the host name has other addresses too.
    has_siblings: bool,
}

impl Candidate {
    /// The node, for people: host and port, and the address if the host name has several.
    pub(super) fn name(&self) -> String {
        let node = self.url.addresses();
        if self.has_siblings { format!("{node} ({})", self.address.ip()) } else { node }
    }
}

/// The attempts that are left, and the failures of the others.
#[derive(Debug)]
pub(super) struct Round {
    broker: BrokerUrl,
    /// The nodes whose addresses are not looked up yet. The last one is the next one.
    nodes: Vec<NodeAddress>,
    /// The addresses of a node that are left. The last one is the next one.
    candidates: Vec<Candidate>,
    skipped: Option<SocketAddr>,
    failures: Vec<Failure>,
}

impl Round {
    /// A round of all nodes.
    pub(super) fn new(broker: &BrokerUrl) -> Self {
        let mut nodes = broker.nodes().to_vec();
        fastrand::shuffle(&mut nodes);
        Self { broker: broker.clone(), nodes, candidates: Vec::new(), skipped: None, failures: Vec::new() }
    }

    /// The same round without this address, whose connection was lost just now for this reason.
    pub(super) fn without(mut self, lost: SocketAddr, failure: Failure) -> Self {
        self.skipped = Some(lost);
        self.failures.push(failure);
        self
    }

    /// The next address to try; `None` at the end of the round. A host name that cannot be looked up is a failure.
    pub(super) async fn next(&mut self) -> Option<Candidate> {
        loop {
            if let Some(candidate) = self.candidates.pop() {
                if self.skipped != Some(candidate.address) {
                    return Some(candidate);
                }
                continue;
            }
            let node = self.nodes.pop()?;
            match look_up(&node).await {
                Ok(addresses) => self.set_candidates(&node, addresses),
                Err(error) => self.failures.push(Failure::Transient(format!("{node}: {error}"))),
            }
        }
    }

    fn set_candidates(&mut self, node: &NodeAddress, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        fastrand::shuffle(&mut addresses);
        let has_siblings = addresses.len() > 1;
        let url = self.broker.at(node);
        let candidate = |address| Candidate { url: url.clone(), address, has_siblings };
        self.candidates = addresses.into_iter().map(candidate).collect();
    }

    /// Records why the last address did not work.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    /// Why no address worked. A failure that needs the operator takes precedence: waiting does not end it.
    pub(super) fn into_failure(self) -> Failure {
        if let Some(failure) = self.failures.iter().find(|failure| !matches!(failure, Failure::Transient(_))) {
            return failure.clone();
        }
        let mut texts: Vec<String> = self.failures.into_iter().map(Failure::into_text).collect();
        // Several addresses of one name fail with the same text.
        let mut seen = std::collections::HashSet::new();
        texts.retain(|text| seen.insert(text.clone()));
        Failure::Transient(texts.join("; "))
    }
}

async fn look_up(node: &NodeAddress) -> std::io::Result<Vec<SocketAddr>> {
    let addresses = time::timeout(LOOKUP_TIMEOUT, net::lookup_host((node.host(), node.port()))).await;
    addresses.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?.map(Iterator::collect)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn broker() -> BrokerUrl {
        "amqp://me:hunter2@127.0.0.1,127.0.0.2:5673,127.0.0.3,[::1]/v".parse().unwrap()
    }

    async fn names(mut round: Round) -> (Vec<String>, Round) {
        let mut names = Vec::new();
        while let Some(candidate) = round.next().await {
            names.push(candidate.name());
        }
        (names, round)
    }

    #[tokio::test]
    async fn a_round_tries_each_node_once_and_in_random_order() {
        let expected =
            BTreeSet::from(["127.0.0.1:5672", "127.0.0.2:5673", "127.0.0.3:5672", "[::1]:5672"].map(String::from));
        let mut orders = BTreeSet::new();
        for _ in 0..100 {
            let (names, _) = names(Round::new(&broker())).await;
            assert_eq!(names.len(), 4);
            assert_eq!(names.iter().cloned().collect::<BTreeSet<_>>(), expected);
            orders.insert(names);
        }
        assert!(orders.len() > 5, "{} orders", orders.len());
    }

    #[tokio::test]
    async fn a_lost_node_is_not_tried_again_in_the_same_round() {
        let lost = "127.0.0.2:5673".parse().unwrap();
        let (names, round) = names(Round::new(&broker()).without(lost, Failure::Transient("gone".into()))).await;
        assert!(names.len() == 3 && !names.contains(&"127.0.0.2:5673".to_owned()), "{names:?}");
        assert_eq!(round.into_failure(), Failure::Transient("gone".into()));
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried_and_named() {
        let mut round = Round::new(&"amqp://rabbit".parse().unwrap());
        let node = round.nodes.pop().unwrap();
        let addresses = ["10.0.0.1:5672", "10.0.0.2:5672", "10.0.0.1:5672"].map(|text| text.parse().unwrap());
        round.set_candidates(&node, addresses.into());
        let (mut names, _) = names(round).await;
        names.sort();
        assert_eq!(names, ["rabbit:5672 (10.0.0.1)", "rabbit:5672 (10.0.0.2)"]);
    }

    #[tokio::test]
    async fn a_name_that_has_no_address_is_a_failure_and_the_others_are_tried() {
        let (names, round) = names(Round::new(&"amqp://no-such-host.invalid,127.0.0.1".parse().unwrap())).await;
        assert_eq!(names, ["127.0.0.1:5672"]);
        let Failure::Transient(text) = round.into_failure() else { panic!("not transient") };
        assert!(text.starts_with("no-such-host.invalid:5672: "), "{text}");
    }

    #[test]
    fn a_failure_that_needs_the_operator_takes_precedence() {
        let mut round = Round::new(&broker());
        let (away, refused) = (Failure::Transient("away".into()), Failure::NeedsOperator("refused".into()));
        for failure in [&away, &away, &refused, &Failure::Transient("frozen".into())] {
            round.failed(failure.clone());
        }
        assert_eq!(round.into_failure(), refused);
        let mut round = Round::new(&broker());
        for text in ["a: away", "b: away", "a: away"] {
            round.failed(Failure::Transient(text.into()));
        }
        assert_eq!(round.into_failure(), Failure::Transient("a: away; b: away".into()));
    }
}
