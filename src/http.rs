//! The HTTP server: health, metrics and status of the running service.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the engine answers, else 503 |
//! | `/readyz` | 200 while the service does its work, else 503; the reasons as JSON |
//! | `/status` | everything that the service says about itself, as JSON ([`Report`]) |
//! | `/metrics` | the metrics in Prometheus' text format |
//! | `/` | the page for people, and its files |
//! | `/api/library` | the files of the index by format, size and year |
//! | `/api/events` | the latest file events; `limit`, `before` (a sequence number), `type` and `path` (a text in it) |
//! | `/api/events/live` | the events from now on, as server-sent events |
//! | `/api/duplicates` | files with equal content; `limit` |
//! | `/api/failed` | files that cannot be read; `limit` |

mod api;
mod page;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::status::{
    DuplicatesReport, EventPage, EventQuery, FailedReport, LibraryReport, LoggedEvent, Readiness, Report,
};

/// The content type of Prometheus' text format.
const METRICS_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Where the answers come from.
pub trait Source: Send + Sync + 'static {
    /// Whether the engine has answered lately.
    fn is_live(&self) -> bool;

    /// The conditions in effect, and whether the service is ready.
    fn readiness(&self) -> Readiness;

    /// What the service says about itself. Blocks while the index is read.
    fn report(&self) -> Report;

    /// The metrics in Prometheus' text format. Blocks while the index is read.
    fn metrics(&self) -> String;

    /// Some of the latest file events.
    fn events(&self, query: &EventQuery) -> EventPage;

    /// The file events from now on.
    fn live(&self) -> broadcast::Receiver<Arc<LoggedEvent>>;

    /// Cancelled when the run of the service ends. Then connections are closed.
    fn ended(&self) -> CancellationToken;

    /// The files of the index by format, size and year. Blocks while the index is read.
    ///
    /// # Errors
    /// Why the index cannot be read.
    fn library(&self) -> Result<LibraryReport, String>;

    /// Files with equal content. Blocks while the index is read.
    ///
    /// # Errors
    /// Why the index cannot be read.
    fn duplicates(&self, limit: usize) -> Result<DuplicatesReport, String>;

    /// Files that cannot be read.
    fn failed(&self, limit: usize) -> FailedReport;
}

/// The server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("HTTP_ADDR: cannot listen on {address}; give another address and port, or off")]
pub struct HttpError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A server that listens and does not answer yet.
pub struct HttpServer {
    listener: TcpListener,
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpServer").field("address", &self.listener.local_addr().ok()).finish()
    }
}

impl HttpServer {
    /// Listens on this address. Port 0 is any free port.
    ///
    /// # Errors
    /// If the port is in use, or the address is not one of this machine.
    pub async fn listen(address: SocketAddr) -> Result<Self, HttpError> {
        let listener = TcpListener::bind(address).await.map_err(|source| HttpError { address, source })?;
        Ok(Self { listener })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers requests. Never returns.
    pub async fn serve(self, source: Arc<dyn Source>) -> Infallible {
        let ended = source.ended();
        let server = axum::serve(self.listener, router(source)).with_graceful_shutdown(ended.cancelled_owned());
        let _ = server.await;
        // The server ends only if it is asked to.
        std::future::pending().await
    }
}

fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/api/library", get(api::library))
        .route("/api/events", get(api::events))
        .route("/api/events/live", get(api::live))
        .route("/api/duplicates", get(api::duplicates))
        .route("/api/failed", get(api::failed_files))
        .merge(page::routes())
        .with_state(source)
}

async fn livez(State(source): State<Arc<dyn Source>>) -> Response {
    if source.is_live() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the engine has not answered for 30 s\n").into_response()
    }
}

async fn readyz(State(source): State<Arc<dyn Source>>) -> Response {
    let Some(readiness) = blocking(move || source.readiness()).await else { return failed() };
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness)).into_response()
}

async fn status(State(source): State<Arc<dyn Source>>) -> Response {
    match blocking(move || source.report()).await {
        Some(report) => Json(report).into_response(),
        None => failed(),
    }
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> Response {
    match blocking(move || source.metrics()).await {
        Some(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        None => failed(),
    }
}

/// Calls what blocks on a thread for that; `None` if it panicked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn failed() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; see the log\n").into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::model::{Change, FileEvent, Origin};
    use crate::status::{ConditionReport, EventLog, Severity};

    struct Fixed {
        is_live: bool,
        report: Report,
        log: Arc<EventLog>,
    }

    impl Fixed {
        fn new(is_live: bool, report: Report) -> Self {
            Self { is_live, report, log: Arc::new(EventLog::new(100)) }
        }
    }

    impl Source for Fixed {
        fn is_live(&self) -> bool {
            self.is_live
        }

        fn readiness(&self) -> Readiness {
            Readiness { ready: self.report.ready, reasons: self.report.conditions.clone() }
        }

        fn report(&self) -> Report {
            self.report.clone()
        }

        fn metrics(&self) -> String {
            "a_total 1\n".to_owned()
        }

        fn events(&self, query: &EventQuery) -> EventPage {
            self.log.find(query)
        }

        fn ended(&self) -> CancellationToken {
            CancellationToken::new()
        }

        fn live(&self) -> broadcast::Receiver<Arc<LoggedEvent>> {
            self.log.live()
        }

        fn library(&self) -> Result<LibraryReport, String> {
            Err("the disk is gone".to_owned())
        }

        fn duplicates(&self, limit: usize) -> Result<DuplicatesReport, String> {
            Ok(DuplicatesReport { total_groups: limit as u64, ..DuplicatesReport::default() })
        }

        fn failed(&self, _: usize) -> FailedReport {
            FailedReport::default()
        }
    }

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn serve(source: Fixed) -> SocketAddr {
        let server = HttpServer::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address().unwrap();
        tokio::spawn(server.serve(Arc::new(source)));
        address
    }

    #[tokio::test]
    async fn a_healthy_service_is_live_and_ready() {
        let report = Report { ready: true, ..Report::default() };
        let address = serve(Fixed::new(true, report.clone())).await;
        assert_eq!(get(address, "/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(get(address, "/readyz").await, (200, r#"{"ready":true,"reasons":[]}"#.to_owned()));
        assert_eq!(get(address, "/status").await, (200, report.to_json()));
        assert_eq!(get(address, "/metrics").await, (200, "a_total 1\n".to_owned()));
        assert_eq!(get(address, "/other").await.0, 404);
    }

    #[tokio::test]
    async fn a_service_in_trouble_says_why() {
        let reason = ConditionReport { kind: "root_gone".to_owned(), severity: Severity::Error, ..Default::default() };
        let remark = ConditionReport { kind: "polled".to_owned(), ..Default::default() };
        let report = Report { ready: false, conditions: vec![reason, remark], ..Report::default() };
        let address = serve(Fixed::new(false, report)).await;
        assert_eq!(get(address, "/livez").await.0, 503);
        let (code, body) = get(address, "/readyz").await;
        assert!(code == 503 && body.contains("root_gone") && body.contains("polled"), "{body}");
    }

    #[tokio::test]
    async fn lists_are_limited_and_errors_are_said() {
        let source = Fixed::new(true, Report::default());
        let log = Arc::clone(&source.log);
        let address = serve(source).await;
        let deleted = |path: &str| FileEvent { change: Change::Deleted(path.into()), origin: Origin::Watch };
        log.add(LoggedEvent::new(1, &deleted("a.mp3"), String::new()));
        log.add(LoggedEvent::new(2, &deleted("b.mp3"), String::new()));
        let (code, body) = get(address, "/api/events?path=A&type=deleted&limit=5").await;
        assert!(code == 200 && body.contains("a.mp3") && !body.contains("b.mp3"), "{body}");
        assert_eq!(get(address, "/api/events?type=stolen").await.0, 400);
        assert_eq!(get(address, "/api/events?limit=x").await.0, 400);
        let (code, body) = get(address, "/api/library").await;
        assert!(code == 503 && body.contains("the disk is gone"), "{body}");
        let (_, body) = get(address, "/api/duplicates?limit=5000000").await;
        assert!(body.contains("\"total_groups\":1000"), "{body}");
    }

    #[tokio::test]
    async fn live_events_come_as_they_happen() {
        let source = Fixed::new(true, Report::default());
        let log = Arc::clone(&source.log);
        let address = serve(source).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /api/events/live HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        let mut received = String::new();
        let mut buffer = [0; 4096];
        let mut is_sent = false;
        while !received.contains("event: change") {
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{received}");
            received.push_str(str::from_utf8(&buffer[..length]).unwrap());
            // The listener is there when the head of the answer is.
            if !std::mem::replace(&mut is_sent, true) {
                let event = FileEvent { change: Change::Deleted("a.mp3".into()), origin: Origin::Watch };
                log.add(LoggedEvent::new(7, &event, String::new()));
            }
        }
        assert!(received.contains("id: 7") && received.contains("\"path\":\"a.mp3\""), "{received}");
    }

    #[tokio::test]
    async fn the_page_forbids_everything_from_elsewhere() {
        let address = serve(Fixed::new(true, Report::default())).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
        assert!(answer.contains("<!doctype html>"), "{answer}");
        for path in ["/style.css", "/app.js", "/icon.svg"] {
            assert_eq!(get(address, path).await.0, 200, "{path}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_names_the_setting() {
        let first = HttpServer::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = HttpServer::listen(first.address().unwrap()).await.unwrap_err();
        assert!(crate::model::with_causes(&error).contains("HTTP_ADDR: cannot listen on 127.0.0.1:"), "{error}");
    }
}
