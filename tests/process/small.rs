//! The program with as little memory and as few threads as possible.

use std::fs;

use crate::LIMIT;
use crate::health::Served;
use crate::support::eventually;
use crate::support::proxy::Network;

const FILES: usize = 10_000;

/// The memory in megabytes that the README promises: with HTTP, and the part of it that are pages of the binary.
fn promised() -> (u64, u64) {
    let readme = include_str!("../../README.md").replace('\n', " ");
    let (_, promise) = readme.split_once("MB while it watches 10,000 files, and ").expect("the promise");
    let mut numbers = promise.split(" MB").filter_map(|before| before.rsplit(' ').next()?.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_at_a_time_needs_little_memory_and_one_reader() {
    let served = Served::start_with(Network::Up, FILES, &[("MAX_CONCURRENT_FILES", "1")]).await;
    // One file at a time takes its time in a binary that is built for tests.
    eventually("it is ready", 3 * LIMIT, || served.get("/readyz").0 == 200).await;
    let confirmed = || served.status()["broker"]["confirmed"] == FILES;
    eventually("everything is delivered", LIMIT, confirmed).await;
    for path in ["/", "/metrics", "/api/library", "/api/duplicates", "/api/events?limit=1000"] {
        assert_eq!(served.get(path).0, 200, "{path}");
    }
    let process = format!("/proc/{}", served.pid());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    // The pages of a binary that is built for tests are more than those of a released one, so they do not count here.
    let (with_http, of_binary) = promised();
    assert!(kilobytes / 1000 <= with_http - of_binary, "{line}: the README promises {with_http} - {of_binary} MB");
    let threads = fs::read_dir(format!("{process}/task")).unwrap().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    assert_eq!(names.filter(|name| name.starts_with("reader")).count(), 1);
}
