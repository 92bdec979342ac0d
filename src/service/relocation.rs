//! The end of a relocation: its messages delivered.

use tokio_util::sync::CancellationToken;

use super::scan::to_its_end;
use super::{Service, ServiceError};
use crate::sink::Sink;
use crate::store::Relocated;

/// Says what the relocation came to, which was done when the store was opened, and delivers its messages.
pub async fn relocate(
    service: &Service,
    sink: &mut Sink,
    shutdown: CancellationToken,
    say: impl Fn(&str),
) -> Result<(), ServiceError> {
    let root = service.root.path().display();
    match service.relocated {
        Some(Relocated::Done { messages }) => say(&format!("{messages} files are published as moved to {root}")),
        Some(Relocated::AlreadyThere) | None => say(&format!("nothing to relocate: the store is that of {root}")),
    }
    to_its_end(service, async { Ok(()) }, sink, &shutdown).await
}
