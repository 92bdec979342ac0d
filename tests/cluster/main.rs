//! The whole program with a cluster of three RabbitMQ nodes, which are killed, stopped, frozen and cut off during a first
//! scan and live changes.
//!
//! Messages go to a quorum queue. In the end, replaying what its consumer got gives what is on disk: nothing was lost,
//! the order was that of the sequence numbers, and a message that came again has a sequence number that was there before.
//!
//! `CLUSTER_FILES` is the number of files of each library. `just cluster 10000` runs all tests with that many.

#[path = "../support/mod.rs"]
mod support;

mod scene;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use scene::Scene;
use support::cluster::Cluster;

/// The cluster of all tests, which use it one after the other.
fn cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: LazyLock<Mutex<Cluster>> = LazyLock::new(|| Mutex::new(Cluster::start("")));
    let cluster = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    // A test that failed may have left it in any state.
    cluster.restore();
    cluster
}

#[test]
fn nothing_is_lost_if_the_node_in_use_is_killed_and_then_the_leader_of_the_queue() {
    let cluster = cluster();
    let scene = Scene::under_way(&cluster);

    let used = scene.node();
    let killed = Instant::now();
    cluster.nodes()[used].kill();
    assert_ne!(scene.wait_for_another_node(used), used);
    println!("another node was used {:?} after the kill", killed.elapsed());
    scene.wait_for_messages(100);
    cluster.nodes()[used].start_again();
    cluster.wait_until_whole();

    let leader = scene.leader();
    cluster.nodes()[leader].kill();
    scene.wait_for_messages(100);
    cluster.nodes()[leader].start_again();
    scene.end();
}

#[test]
fn without_a_majority_everything_waits_and_is_delivered_when_it_is_back() {
    let cluster = cluster();
    let scene = Scene::under_way(&cluster);

    // The node that is left accepts connections and confirms nothing.
    let (killed, left) = cluster.nodes().split_at(2);
    for node in killed {
        node.kill();
    }
    let [left] = left else { panic!("three nodes") };
    scene.wait_for_node_at(left.port());
    let (received, waiting) = (scene.received(), scene.waiting());
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(scene.received(), received, "two replicas of three are needed");
    assert!(scene.waiting() > waiting, "changes are still indexed");
    std::thread::scope(|scope| {
        for node in killed {
            scope.spawn(|| node.start_again());
        }
    });
    scene.end();
}

#[test]
fn a_node_that_hangs_is_left_after_the_heartbeat() {
    let cluster = cluster();
    let scene = Scene::under_way(&cluster);

    let used = scene.node();
    let frozen = Instant::now();
    cluster.nodes()[used].freeze();
    scene.wait_for_another_node(used);
    let took = frozen.elapsed();
    println!("another node was used {took:?} after the other one had hung");
    // Twice the heartbeat, and an attempt with each of the others.
    assert!(took < 2 * scene::HEARTBEAT + Duration::from_secs(10), "{took:?}");
    scene.wait_for_messages(100);
    cluster.nodes()[used].thaw();
    scene.end();
}

#[test]
#[ignore = "takes half a minute; `just cluster` runs it"]
fn nothing_is_lost_if_all_nodes_are_restarted_one_after_the_other() {
    let cluster = cluster();
    let scene = Scene::under_way(&cluster);
    for node in cluster.nodes() {
        node.stop();
        scene.wait_for_messages(10);
        node.start_again();
        cluster.wait_until_whole();
    }
    scene.end();
}

#[test]
#[ignore = "takes half a minute; `just cluster` runs it"]
fn nothing_is_lost_if_the_node_in_use_is_cut_off_from_the_others() {
    let cluster = cluster();
    // What is recommended for three nodes: the smaller part stops to serve until the partition ends.
    cluster.set_partition_handling("pause_minority");
    let scene = Scene::under_way(&cluster);
    let used = scene.node();
    cluster.cut_off(used);
    scene.wait_for_another_node(used);
    scene.wait_for_messages(100);
    cluster.reconnect(used);
    cluster.wait_until_whole();
    scene.end();
    cluster.set_partition_handling("ignore");
}

#[test]
#[ignore = "takes half a minute; `just cluster` runs it"]
fn nothing_is_lost_if_the_node_in_use_is_cut_off_and_goes_on_to_serve() {
    let cluster = cluster();
    let scene = Scene::under_way(&cluster);
    let used = scene.node();
    cluster.cut_off(used);
    // It confirms nothing, which is noticed after half a minute.
    scene.wait_for_another_node(used);
    scene.wait_for_messages(100);
    cluster.reconnect(used);
    // It takes part again after a restart.
    cluster.nodes()[used].stop();
    cluster.nodes()[used].start_again();
    cluster.wait_until_whole();
    scene.end();
}

#[test]
#[ignore = "takes a minute; `just cluster` runs it"]
fn nothing_is_lost_if_the_host_of_the_node_in_use_cannot_be_reached() {
    let cluster = Cluster::on_hosts();
    cluster.set_partition_handling("pause_minority");
    let scene = Scene::under_way(&cluster);
    let used = scene.node();
    let unplugged = Instant::now();
    cluster.unplug(used);
    scene.wait_for_another_node(used);
    println!("another node was used {:?} after the host had been unplugged", unplugged.elapsed());
    scene.wait_for_messages(100);
    cluster.plug_in(used);
    cluster.wait_until_whole();

    // Two of three are cut off from each other and from all clients: nothing is confirmed until one is back.
    let (used, other) = (scene.node(), (scene.node() + 1) % 3);
    cluster.unplug(used);
    cluster.unplug(other);
    std::thread::sleep(Duration::from_secs(15));
    let (received, waiting) = (scene.received(), scene.waiting());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.received(), received, "two replicas of three are needed");
    assert!(scene.waiting() > waiting, "changes are still indexed");
    cluster.plug_in(other);
    scene.wait_for_messages(100);
    cluster.plug_in(used);
    cluster.wait_until_whole();
    scene.end();
}
