//! Traces for OpenTelemetry: one span for each message, from the event of the kernel to the confirm of the broker.
//!
//! The ids of a span follow from the correlation id of its message. So the header `traceparent` of a message needs no
//! state, and a redelivery has the same one. Source: W3C Trace Context, level 1.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use crate::message::TraceIds;
use crate::model::EventType;

/// The most spans that wait for the collector. Further ones are dropped and counted.
const MAX_WAITING: usize = 20_000;

/// The spans of one request.
const SPANS_AT_ONCE: usize = 512;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often a failure is logged.
const LOGGED_AGAIN: Duration = Duration::from_mins(1);

/// A message that was confirmed.
#[derive(Clone, Debug)]
pub struct Confirmed {
    /// The ids, from its correlation id.
    pub ids: TraceIds,
    /// Its type.
    pub event_type: EventType,
    /// The path of its file.
    pub path: String,
    /// Its sequence number.
    pub sequence: u64,
    /// When the first event of the kernel came, or else when it was published.
    pub begun: SystemTime,
    /// When it was published.
    pub published: SystemTime,
    /// When the broker confirmed it.
    pub confirmed: SystemTime,
}

/// Sends spans to a collector.
pub struct Traces {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: Vec<SpanData>,
    dropped: u64,
    last_logged: Option<Instant>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Traces").finish_non_exhaustive()
    }
}

impl Traces {
    /// Sends to the collector at `endpoint`, such as `http://localhost:4318`, by OTLP over HTTP.
    ///
    /// # Errors
    ///
    /// If the client cannot be made.
    pub fn new(endpoint: &str, instance_id: &str) -> Result<Self, ExporterBuildError> {
        let traces = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(traces).with_timeout(TIMEOUT);
        let mut exporter = exporter.with_protocol(Protocol::HttpJson).build()?;
        let instance = KeyValue::new("service.instance.id", instance_id.to_owned());
        let resource = Resource::builder().with_service_name("file-watcher").with_attribute(instance);
        exporter.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("file-watcher").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { exporter, scope, waiting: Mutex::default() })
    }

    /// Adds the span of a message.
    pub fn add(&self, message: Confirmed) {
        let mut waiting = self.waiting();
        if waiting.spans.len() >= MAX_WAITING {
            waiting.dropped += 1;
            return;
        }
        let span = self.span_of(message);
        waiting.spans.push(span);
    }

    /// Sends what waits. Spans that the collector does not take are dropped.
    pub async fn send(&self) {
        loop {
            let spans: Vec<SpanData> = {
                let mut waiting = self.waiting();
                let next = waiting.spans.len().min(SPANS_AT_ONCE);
                waiting.spans.drain(..next).collect()
            };
            if spans.is_empty() {
                return;
            }
            let count = spans.len() as u64;
            if let Err(error) = self.exporter.export(spans).await {
                let mut waiting = self.waiting();
                waiting.dropped += count;
                if waiting.last_logged.is_none_or(|last| last.elapsed() >= LOGGED_AGAIN) {
                    waiting.last_logged = Some(Instant::now());
                    let dropped = waiting.dropped;
                    drop(waiting);
                    tracing::warn!(%error, dropped, "traces cannot be sent to OTEL_EXPORTER_OTLP_ENDPOINT");
                }
            }
        }
    }

    fn span_of(&self, message: Confirmed) -> SpanData {
        let Confirmed { ids, event_type, path, sequence, begun, published, confirmed } = message;
        let (trace_id, span_id) = (TraceId::from(ids.trace), SpanId::from(ids.span));
        let mut events = SpanEvents::default();
        events.events.push(opentelemetry::trace::Event::new("published", published, Vec::new(), 0));
        SpanData {
            span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Producer,
            name: format!("file.{event_type}").into(),
            start_time: begun,
            end_time: confirmed,
            attributes: vec![
                KeyValue::new("file.path", path),
                KeyValue::new("messaging.system", "rabbitmq"),
                KeyValue::new("messaging.destination.name", "file_events"),
                KeyValue::new("messaging.rabbitmq.destination.routing_key", format!("file.{event_type}")),
                KeyValue::new("file_watcher.sequence", i64::try_from(sequence).unwrap_or(i64::MAX)),
            ],
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: Status::Ok,
            instrumentation_scope: self.scope.clone(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
