//! Hosts on a network of their own: network namespaces on a bridge. They need root.
//!
//! A host can be unplugged: what is sent to it or by it is lost without an answer, as with a cable that is pulled out.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use super::disk::{require_root, run};

/// Makes the network and then removes it, when the test closes the pipe, in whichever way. The test itself is on the
/// network too, at the address that ends with 254.
const KEEPER: &str = r#"
trap '' INT TERM HUP
set -e
bridge=$1 network=$2 hosts=$3
ip link add "$bridge" type bridge
ip address add "$network.254/24" dev "$bridge"
ip link set "$bridge" up
for host in $hosts; do
    ip netns add "$bridge-$host"
    ip link add "$bridge-$host" type veth peer name eth0 netns "$bridge-$host"
    ip link set "$bridge-$host" master "$bridge" up
    ip -n "$bridge-$host" address add "$network.$host/24" dev eth0
    ip -n "$bridge-$host" link set eth0 up
    ip -n "$bridge-$host" link set lo up
done
echo ready
read -r word || true
for host in $hosts; do
    ip netns delete "$bridge-$host" || true
done
ip link delete "$bridge"
"#;

/// The network and its keeper.
#[derive(Debug)]
struct Network {
    bridge: String,
    addresses: String,
    keeper: Child,
    _output: BufReader<ChildStdout>,
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.keeper.stdin.take().map(|mut pipe| pipe.write_all(b"end\n"));
        let _ = self.keeper.wait();
    }
}

/// A host, as long as its network is used.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    network: Arc<Network>,
    number: usize,
}

/// So many hosts on one network.
pub(crate) fn hosts<const COUNT: usize>() -> [Host; COUNT] {
    require_root();
    let id = std::process::id();
    let (bridge, addresses) = (format!("fw{id}"), format!("10.231.{}", id % 256));
    let numbers: Vec<String> = (1..=COUNT).map(|number| number.to_string()).collect();
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "sh", &bridge, &addresses, &numbers.join(" ")]);
    let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(keeper.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "the network was not made");
    let network = Arc::new(Network { bridge, addresses, keeper, _output: output });
    std::array::from_fn(|index| Host { network: Arc::clone(&network), number: index + 1 })
}

impl Host {
    /// Its address, which the test can reach.
    pub(crate) fn address(&self) -> String {
        format!("{}.{}", self.network.addresses, self.number)
    }

    /// A program on this host.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.link()]).arg(program);
        command
    }

    /// From now on, nobody reaches this host, and it reaches nobody.
    pub(crate) fn unplug(&self) {
        run("ip", &[&"link", &"set", &self.link(), &"down"]);
    }

    /// Ends what [`Host::unplug`] began.
    pub(crate) fn plug_in(&self) {
        run("ip", &[&"link", &"set", &self.link(), &"up"]);
    }

    /// The name of its namespace, and of its link to the bridge.
    fn link(&self) -> String {
        format!("{}-{}", self.network.bridge, self.number)
    }
}
