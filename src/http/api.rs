//! The lists that the page shows: the library, the latest events, duplicates and failed files.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio_stream::wrappers::BroadcastStream;

use super::{Source, blocking, failed};
use crate::model::EventType;
use crate::status::EventQuery;

/// The most entries of one answer.
const MOST_ENTRIES: usize = 1_000;

/// The entries of an answer, unless the request says otherwise.
const ENTRIES: usize = 100;

/// How often an idle stream of events sends something, so that nothing between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a request for events asks for.
#[derive(Debug, Deserialize)]
pub(super) struct EventParameters {
    limit: Option<usize>,
    before: Option<u64>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    path: Option<String>,
}

/// What a request for another list asks for.
#[derive(Debug, Deserialize)]
pub(super) struct ListParameters {
    limit: Option<usize>,
}

pub(super) async fn library(State(source): State<Arc<dyn Source>>) -> Response {
    answer(blocking(move || source.library()).await)
}

pub(super) async fn duplicates(
    State(source): State<Arc<dyn Source>>,
    Query(parameters): Query<ListParameters>,
) -> Response {
    answer(blocking(move || source.duplicates(limit_of(parameters.limit))).await)
}

pub(super) async fn failed_files(
    State(source): State<Arc<dyn Source>>,
    Query(parameters): Query<ListParameters>,
) -> Response {
    answer(blocking(move || Ok(source.failed(limit_of(parameters.limit)))).await)
}

pub(super) async fn events(
    State(source): State<Arc<dyn Source>>,
    Query(parameters): Query<EventParameters>,
) -> Response {
    let EventParameters { limit, before, event_type, path } = parameters;
    let event_type = match event_type.filter(|word| !word.is_empty()).map(|word| word.parse::<EventType>()) {
        None => None,
        Some(Ok(event_type)) => Some(event_type),
        Some(Err(error)) => {
            return (StatusCode::BAD_REQUEST, Json(json!({"error": error.to_string()}))).into_response();
        }
    };
    let text = path.filter(|path| !path.is_empty());
    let query = EventQuery { before, event_type, text, limit: limit_of(limit) };
    answer(blocking(move || Ok(source.events(&query))).await)
}

pub(super) async fn live(State(source): State<Arc<dyn Source>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // A listener that is too far behind misses events. The page loads the list again when it connects again.
    let events = BroadcastStream::new(source.live()).take_while(|event| std::future::ready(event.is_ok()));
    let events = events.take_until(source.ended().cancelled_owned());
    let events = events.filter_map(|event| {
        let event = event
            .ok()
            .and_then(|event| Event::default().event("change").id(event.sequence.to_string()).json_data(&*event).ok());
        std::future::ready(event.map(Ok))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn limit_of(given: Option<usize>) -> usize {
    given.unwrap_or(ENTRIES).min(MOST_ENTRIES)
}

/// A list as JSON, or why there is none.
fn answer<T: serde::Serialize>(list: Option<Result<T, String>>) -> Response {
    match list {
        Some(Ok(list)) => Json(list).into_response(),
        Some(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": error}))).into_response(),
        None => failed(),
    }
}
