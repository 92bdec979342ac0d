//! Writes messages as lines of JSON.
//!
//! A thread of its own writes, so a reader that pauses (`| less`) blocks nothing else.

use std::io::{self, Write};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::{Deliver, SinkError};
use crate::model::{Outgoing, Refused};

/// Writes each message's body as one line, and flushes once per batch.
#[derive(Debug)]
pub struct Stdout {
    lines: mpsc::UnboundedSender<Block>,
}

/// The lines of one batch, and a sender for the result of writing them.
type Block = (Vec<u8>, oneshot::Sender<io::Result<()>>);

impl Stdout {
    /// A sink for the process's standard output.
    pub fn new() -> Self {
        Self::to(io::stdout())
    }

    /// A sink for any other writer, which is moved to a thread of its own.
    pub fn to(mut writer: impl Write + Send + 'static) -> Self {
        let (lines, mut blocks) = mpsc::unbounded_channel::<Block>();
        thread::spawn(move || {
            while let Some((block, done)) = blocks.blocking_recv() {
                // The receiver is gone when the process is stopping.
                let _ = done.send(writer.write_all(&block).and_then(|()| writer.flush()));
            }
        });
        Self { lines }
    }
}

impl Default for Stdout {
    fn default() -> Self {
        Self::new()
    }
}

impl Deliver for Stdout {
    async fn deliver(&mut self, batch: &[Outgoing]) -> Result<Vec<Refused>, SinkError> {
        let mut block = Vec::with_capacity(batch.iter().map(|message| message.body.len() + 1).sum());
        for message in batch {
            block.extend_from_slice(&message.body);
            block.push(b'\n');
        }
        let (done, written) = oneshot::channel();
        self.lines.send((block, done)).map_err(|_| SinkError::Closed)?;
        match written.await {
            Ok(Ok(())) => Ok(Vec::new()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(SinkError::Closed),
            Ok(Err(error)) => Err(SinkError::Output(error)),
            Err(_) => Err(SinkError::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::EventType;

    /// The written bytes, and the number of flushes.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.lock().unwrap().1 += 1;
            Ok(())
        }
    }

    fn message(sequence: u64) -> Outgoing {
        Outgoing {
            sequence,
            event_type: EventType::Created,
            correlation_id: format!("id-{sequence}"),
            timestamp: 0,
            body: format!(r#"{{"sequence":{sequence}}}"#).into_bytes(),
        }
    }

    #[tokio::test]
    async fn each_body_is_one_line_and_each_batch_is_flushed_once() {
        let page = Page::default();
        let mut stdout = Stdout::to(page.clone());
        stdout.deliver(&[message(1), message(2)]).await.unwrap();
        stdout.deliver(&[message(3)]).await.unwrap();
        let (written, flushes) = &*page.0.lock().unwrap();
        assert_eq!(written, b"{\"sequence\":1}\n{\"sequence\":2}\n{\"sequence\":3}\n");
        assert_eq!(*flushes, 2);
    }

    #[tokio::test]
    async fn a_closed_reader_ends_delivery() {
        let (reader, writer) = io::pipe().unwrap();
        let mut stdout = Stdout::to(writer);
        drop(reader);
        assert!(matches!(stdout.deliver(&[message(1)]).await, Err(SinkError::Closed)));
    }
}
