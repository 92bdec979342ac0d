//! What a running service says about itself: by HTTP, and to `status` and `healthcheck`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::program::Program;
use crate::support::process::Recorded;
use crate::support::proxy::Network;
use crate::{LIMIT, support};

const FILES: usize = 30;

/// A running service with an HTTP server on a free port.
pub(crate) struct Served {
    program: Program,
    running: Recorded,
    address: String,
}

impl Served {
    async fn start(network: Network) -> Self {
        Self::start_with(network, FILES, &[]).await
    }

    /// The same with so many files, and with these variables.
    pub(crate) async fn start_with(network: Network, files: usize, variables: &[(&str, &str)]) -> Self {
        let mut program = Program::new().await;
        for (name, value) in variables {
            program.set(name, value);
        }
        program.set("HTTP_ADDR", "127.0.0.1:0").fill(files);
        program.proxy.set(network);
        let mut running = program.start(&["watch"]);
        running.wait_for_log("served by HTTP").await;
        let log = running.log();
        let line = log.lines().find(|line| line.contains("served by HTTP")).unwrap();
        let address = serde_json::from_str::<Value>(line).unwrap()["address"].as_str().unwrap().to_owned();
        Self { program, running, address }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.running.pid()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn status(&self) -> Value {
        let (code, body) = self.get("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn until_ready(&self) {
        // Sooner than conditions are checked without a cause.
        support::eventually("it is ready", Duration::from_secs(30), || self.get("/readyz").0 == 200).await;
    }
}

fn condition<'a>(report: &'a Value, kind: &str) -> Option<&'a Value> {
    report["conditions"].as_array().unwrap().iter().find(|condition| condition["kind"] == kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_service_is_ready_after_its_first_scan_and_shows_its_figures() {
    let served = Served::start(Network::Up).await;
    served.until_ready().await;
    let delivered = || served.status()["broker"]["confirmed"] == FILES;
    support::eventually("everything is delivered", LIMIT, delivered).await;
    assert_eq!(served.get("/livez").0, 200);
    let report = served.status();
    assert_eq!((&report["index"]["files"], &report["events"]["created"]), (&FILES.into(), &FILES.into()));
    assert_eq!((&report["outbox"]["messages"], &report["watch"]["coverage"]), (&0.into(), &"full".into()));
    assert!(report["ready"] == true && report["conditions"] == Value::Array(Vec::new()), "{report}");

    // A live change is timed from its event to its confirm.
    served.program.write("0000/new.mp3", "new");
    let count = |text: &str| {
        let name = "file_watcher_event_to_confirm_seconds_count ";
        text.lines().find_map(|line| line.strip_prefix(name)).map(|number| number.parse::<u64>().unwrap())
    };
    support::eventually("it is timed", LIMIT, || count(&served.get("/metrics").1) == Some(1)).await;
    let (_, metrics) = served.get("/metrics");
    for line in [
        r#"file_watcher_events_total{origin="scan",type="created"} 30"#,
        r#"file_watcher_events_total{origin="watch",type="created"} 1"#,
        r#"file_watcher_condition{condition="first_scan"} 0"#,
        "file_watcher_confirms_total 31",
        "file_watcher_hash_seconds_count 31",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is missing:\n{metrics}");
    }
    assert!(!metrics.contains(".mp3"), "no label depends on a file");
    check_metrics(&metrics);
    served.running.signal(rustix::process::Signal::TERM);
    assert_eq!(served.running.ended().await.code, Some(0));
}

/// `promtool check metrics` accepts the metrics.
fn check_metrics(metrics: &str) {
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_a_service_is_live_and_says_why_it_is_not_ready() {
    let served = Served::start(Network::Down).await;
    let is_away = || condition(&served.status(), "broker_away").is_some();
    support::eventually("the broker is missed", LIMIT, is_away).await;
    let (code, body) = served.get("/readyz");
    assert!(code == 503 && body.contains("broker_away") && body.contains("Start RabbitMQ"), "{body}");
    assert_eq!(served.get("/livez").0, 200);
    let (_, metrics) = served.get("/metrics");
    assert!(metrics.contains(r#"file_watcher_condition{condition="broker_away"} 1"#), "{metrics}");

    let unhealthy = served.program.run(&["healthcheck"]).await;
    assert_eq!((unhealthy.code, unhealthy.stdout.lines().count()), (Some(1), 1), "{}", unhealthy.stdout);
    assert!(unhealthy.stdout.starts_with("unhealthy: there is no connection to RabbitMQ"), "{}", unhealthy.stdout);
    let status = served.program.run(&["status"]).await;
    assert!(status.code == Some(0) && status.stdout.starts_with("status        not ready\n"), "{}", status.stdout);

    served.program.proxy.set(Network::Up);
    served.until_ready().await;
    let healthy = served.program.run(&["healthcheck"]).await;
    assert_eq!((healthy.code, healthy.stdout.as_str()), (Some(0), "healthy\n"));
    let status = served.program.run(&["status", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&status.stdout).unwrap()["ready"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_a_service_that_does_not_run_are_clear_errors() {
    let served = Served::start(Network::Up).await;
    let mut other = Program::new().await;
    other.set("HTTP_ADDR", &served.address);
    let ended = tokio::time::timeout(Duration::from_secs(30), other.run(&["watch"])).await.unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains("HTTP_ADDR: cannot listen on 127.0.0.1:"), "{}", ended.log);
    let ended = other.run(&["healthcheck"]).await;
    assert!(
        ended.code == Some(1) && ended.stdout.starts_with("unhealthy: no service is running on"),
        "{}",
        ended.stdout
    );
}
