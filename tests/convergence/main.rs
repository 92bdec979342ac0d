//! Convergence: whatever happens to a library and to the program that watches it, once the disk no longer changes, the
//! messages replayed in order give what is on disk, and none of them was ever false.
//!
//! Histories are drawn from seeds. `just chaos 500` runs more of them than the suite; `CHAOS_SEED`
//! runs one again, as the failing test says. The choice of operations is the same every time, their
//! timing is not. The other variables are described at [`campaign::Campaign`].
//!
//! A seed also draws the filesystem of its library: a plain folder, or an image, a tmpfs, a bind mount or an overlay
//! that is mounted on the root or on a directory of it, mounted again under other numbers, and taken out and put back. This needs
//! root. `CHAOS_ROOT` picks one kind.

#![expect(
    clippy::unnecessary_debug_formatting,
    reason = "names with line feeds and without UTF-8 are shown as what they are"
)]

mod broker;
mod campaign;
mod history;
mod names;
mod operation;
mod poison;
mod program;
mod random;
mod replay;
mod root;
mod strict;
#[path = "../support/mod.rs"]
mod support;
mod tree;
mod troubles;

use broker::{Broker, LARGEST_MESSAGE};
use campaign::Campaign;
use history::Pipe;
use support::cluster::Cluster;
use support::rabbit::Node;

#[test]
fn the_messages_say_what_is_on_disk_whatever_happened_to_it() {
    let figures = Campaign::from_env(30, 150, 10, false).run(|| Pipe);
    assert!(figures.histories > 0);
}

#[test]
fn the_broker_gets_every_message_in_order_whatever_happens_to_it() {
    let node = Node::that_takes_at_most(LARGEST_MESSAGE);
    let figures = Broker::new(&*node).suffer(&Campaign::from_env(12, 100, 6, true));
    assert!(figures.histories > 0);
}

#[test]
#[ignore = "takes minutes; `just chaos 50 cluster` runs it"]
fn a_cluster_gets_every_message_in_order_whatever_happens_to_its_nodes() {
    let cluster = Cluster::start(&format!("max_message_size = {LARGEST_MESSAGE}"));
    let figures = Broker::new(&cluster).suffer(&Campaign::from_env(12, 100, 6, true));
    assert!(figures.histories > 0);
}
