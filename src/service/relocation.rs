//! Delivers the messages of a relocation.

use tokio_util::sync::CancellationToken;

use super::scan::run_and_deliver;
use super::{Service, ServiceError};
use crate::model::counted;
use crate::sink::Sink;
use crate::store::Relocated;

/// Reports the result of the relocation, which was carried out when the store was opened, and delivers its messages.
///
/// # Errors
///
/// If the messages cannot be delivered, or [`ServiceError::Interrupted`] after `shutdown`.
pub async fn relocate(
    service: &Service,
    sink: &mut Sink,
    shutdown: CancellationToken,
    say: impl Fn(&str),
) -> Result<(), ServiceError> {
    let root = service.root.path().display();
    match service.relocated {
        Some(Relocated::Done { messages }) => {
            say(&format!("{} published as moved to {root}", counted(messages, "file")));
        }
        Some(Relocated::AlreadyThere) | None => {
            say(&format!("nothing to relocate: the store belongs to {root} already"));
        }
    }
    run_and_deliver(service, async { Ok(()) }, sink, &shutdown).await
}
