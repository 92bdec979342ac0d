//! Lists, retries and drops parked messages.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use super::ServiceError;
use crate::config::Settings;
use crate::message::Encoder;
use crate::model::{ParkedRequest, counted};
use crate::store::{Parked, Store};

/// Carries out a request about parked messages while no service runs; returns the answer. It needs no broker.
///
/// # Errors
///
/// [`ServiceError::Store`], or [`ServiceError::NotParked`] if a sequence number is not that of a parked message.
pub async fn parked_at_rest(
    settings: &Settings,
    instance_id: &str,
    request: ParkedRequest,
) -> Result<String, ServiceError> {
    let file = settings.store_file();
    let encoder = Encoder::new(instance_id, &settings.root, settings.metadata_style).with_tags(settings.tag_set);
    let store = Store::open(&file, settings.root.as_os_str().as_bytes(), encoder)?;
    answer(&store, request, false).await
}

/// Carries out a request about parked messages; returns the answer. `is_running` says whether a service runs, which
/// delivers retried messages at once.
pub(super) async fn answer(store: &Store, request: ParkedRequest, is_running: bool) -> Result<String, ServiceError> {
    let parked = store.parked().await?;
    match request {
        ParkedRequest::List { json: true } => Ok(as_json(&parked)),
        ParkedRequest::List { json: false } => Ok(as_table(&parked)),
        ParkedRequest::Retry(sequences) => {
            let chosen = chosen(&parked, sequences)?;
            if chosen.is_empty() {
                return Ok(NOTHING.to_owned());
            }
            store.retry_parked(chosen.iter().map(|message| message.sequence).collect()).await?;
            let when = if is_running { "now" } else { "by the next watch or scan" };
            Ok(format!("{} to be delivered again {when}", counted(chosen.len() as u64, "parked message")))
        }
        ParkedRequest::Drop(sequences) => {
            let chosen = chosen(&parked, sequences)?;
            if chosen.is_empty() {
                return Ok(NOTHING.to_owned());
            }
            store.drop_parked(chosen.iter().map(|message| message.sequence).collect()).await?;
            tracing::warn!(messages = chosen.len(), "parked messages dropped");
            Ok(format!(
                "{}\n{} dropped; consumers never get them",
                as_table(&chosen),
                counted(chosen.len() as u64, "parked message")
            ))
        }
    }
}

/// The answer if there are none.
const NOTHING: &str = "no message is parked";

/// The messages with these sequence numbers; all of them if there are no numbers.
fn chosen(parked: &[Parked], sequences: Vec<u64>) -> Result<Vec<Parked>, ServiceError> {
    if sequences.is_empty() {
        return Ok(parked.to_vec());
    }
    let wanted: BTreeSet<u64> = sequences.into_iter().collect();
    if let Some(unknown) = wanted.iter().find(|wanted| parked.iter().all(|message| message.sequence != **wanted)) {
        return Err(ServiceError::NotParked(*unknown));
    }
    Ok(parked.iter().filter(|message| wanted.contains(&message.sequence)).cloned().collect())
}

fn as_json(parked: &[Parked]) -> String {
    let lines: Vec<String> =
        parked.iter().map(|message| serde_json::to_string(message).expect("texts and numbers are JSON")).collect();
    lines.join("\n")
}

/// A table with one message per line, even if a path or a reason contains newlines.
fn as_table(parked: &[Parked]) -> String {
    if parked.is_empty() {
        return NOTHING.to_owned();
    }
    let mut lines = vec![format!("{:>10}  {:<8}  {:>9}  {:<20}  PATH: REASON", "SEQUENCE", "EVENT", "BYTES", "SINCE")];
    for Parked { sequence, event_type, path, size, reason, since } in parked {
        let reason: String = reason.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
        lines.push(format!("{sequence:>10}  {event_type:<8}  {size:>9}  {since:<20}  {path:?}: {reason}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventType;

    fn parked(sequence: u64, path: &str) -> Parked {
        Parked {
            sequence,
            event_type: EventType::Created,
            path: path.to_owned(),
            size: 70_000,
            reason: "RabbitMQ refuses it\nwith 406".to_owned(),
            since: "2026-11-28T10:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_list_has_one_line_per_message_whatever_is_in_it() {
        let parked = [parked(7, "/music/a \n\"b\".mp3"), parked(1234, "/music/\u{e9}.mp3")];
        let table = [
            "  SEQUENCE  EVENT         BYTES  SINCE                 PATH: REASON",
            r#"         7  created       70000  2026-11-28T10:00:00Z  "/music/a \n\"b\".mp3": RabbitMQ refuses it with 406"#,
            r#"      1234  created       70000  2026-11-28T10:00:00Z  "/music/é.mp3": RabbitMQ refuses it with 406"#,
        ];
        assert_eq!(as_table(&parked), table.join("\n"));
        let json: Vec<serde_json::Value> =
            as_json(&parked).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            json[0],
            serde_json::json!({
                "sequence": 7, "event_type": "created", "path": "/music/a \n\"b\".mp3", "size": 70_000,
                "reason": "RabbitMQ refuses it\nwith 406", "since": "2026-11-28T10:00:00Z",
            })
        );
        assert_eq!((json.len(), &json[1]["sequence"]), (2, &serde_json::json!(1234)));
        assert_eq!((as_table(&[]), as_json(&[])), (NOTHING.to_owned(), String::new()));
    }

    #[test]
    fn only_numbers_that_are_parked_can_be_chosen() {
        let parked = [parked(7, "a"), parked(9, "b")];
        let numbers = |sequences| {
            chosen(&parked, sequences).map(|chosen| chosen.iter().map(|it| it.sequence).collect::<Vec<_>>())
        };
        assert_eq!(numbers(vec![]).unwrap(), [7, 9]);
        assert_eq!(numbers(vec![9, 9]).unwrap(), [9]);
        assert!(matches!(numbers(vec![7, 8]), Err(ServiceError::NotParked(8))));
        assert!(matches!(chosen(&[], vec![8]), Err(ServiceError::NotParked(8))));
    }
}
