//! What happens to a broker while histories run: to a node that is alone, and to a cluster of three.

use std::thread;
use std::time::Duration;

use lapin::types::FieldTable;

use crate::random::Random;
use crate::support::cluster::Cluster;
use crate::support::follower::Followed;
use crate::support::rabbit::Node;

/// Short times, so that a silent broker costs seconds and not minutes.
pub(crate) const IMPATIENCE: &str = "heartbeat=2&connection_timeout=1000";

const QUEUE: &str = "cataloging.file.events";

/// A broker that can be troubled.
pub(crate) trait Troubled: Sync {
    /// Its nodes.
    fn nodes(&self) -> &[Node];

    /// The queue of all messages in a vhost.
    fn queue(&self, vhost: &str) -> Followed;

    /// Does something to it, which takes about so long; returns what. After that it is as it should be.
    fn trouble(&self, random: &mut Random, moment: Duration) -> &'static str;
}

impl Troubled for Node {
    fn nodes(&self) -> &[Node] {
        std::slice::from_ref(self)
    }

    fn queue(&self, vhost: &str) -> Followed {
        let urls = vec![format!("{}?{IMPATIENCE}", self.url(vhost))];
        Followed { urls, queue: QUEUE.to_owned(), arguments: FieldTable::default(), is_exclusive: true }
    }

    fn trouble(&self, random: &mut Random, moment: Duration) -> &'static str {
        match random.below(8) {
            0 | 1 => {
                self.kill();
                thread::sleep(moment / 4);
                self.start_again();
                "killed"
            }
            2 => {
                self.stop();
                self.start_again();
                "stopped"
            }
            3 => {
                self.ctl(&["stop_app"]);
                self.ctl(&["start_app"]);
                "application stopped"
            }
            4 | 5 => {
                self.ctl(&["close_all_connections", "chaos"]);
                "connections closed"
            }
            6 => {
                self.ctl(&["set_vm_memory_high_watermark", "0"]);
                thread::sleep(moment);
                self.ctl(&["set_vm_memory_high_watermark", "0.9"]);
                "memory alarm"
            }
            _ => {
                self.freeze();
                thread::sleep(moment * 2);
                self.thaw();
                "frozen"
            }
        }
    }
}

impl Troubled for Cluster {
    fn nodes(&self) -> &[Node] {
        self.nodes()
    }

    fn queue(&self, vhost: &str) -> Followed {
        self.quorum_queue(vhost, QUEUE, IMPATIENCE)
    }

    fn trouble(&self, random: &mut Random, moment: Duration) -> &'static str {
        let chosen = random.below(3);
        let node = &self.nodes()[chosen];
        let trouble = match random.below(9) {
            0 | 1 => {
                self.kill([chosen], moment / 4);
                "one killed"
            }
            2 | 3 => {
                self.kill([chosen, (chosen + 1) % 3], moment);
                "two killed"
            }
            4 => {
                self.kill([0, 1, 2], moment);
                "all killed"
            }
            5 => {
                for node in self.nodes() {
                    node.stop();
                    node.start_again();
                    self.wait_until_whole();
                }
                "restarted one after the other"
            }
            6 => {
                self.cut_off(chosen);
                thread::sleep(moment * 4);
                self.reconnect(chosen);
                node.stop();
                node.start_again();
                "one cut off"
            }
            7 => {
                node.freeze();
                // The others do not take it for gone.
                thread::sleep(moment * 2);
                node.thaw();
                "one frozen"
            }
            _ => {
                node.ctl(&["close_all_connections", "chaos"]);
                "connections closed"
            }
        };
        self.wait_until_whole();
        trouble
    }
}
