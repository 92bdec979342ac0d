//! One connection to the broker, and the certainty that it can be ended.
//!
//! lapin runs each connection on a thread of its own, which reads from the socket until the socket
//! ends. Where a broker hangs in the middle of the handshake, or holds the connection without a
//! word, that is never. So we make the socket ourselves and keep a second handle of it, to shut it down.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::uri::AMQPScheme;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Error as BrokerError};
use tokio::time;

use super::{BrokerUrl, Tls};

/// A handle of the socket beneath a connection; dropping it ends the connection, whatever the peer does.
#[derive(Debug, Default)]
pub(super) struct Wire(Arc<Mutex<Socket>>);

#[derive(Debug, Default)]
enum Socket {
    #[default]
    NotYet,
    Open(TcpStream),
    GivenUp,
}

impl Wire {
    /// Makes the connection.
    pub(super) async fn connect(
        &self,
        url: &BrokerUrl,
        tls: &Tls,
        properties: ConnectionProperties,
    ) -> Result<Connection, BrokerError> {
        let uri = url.uri().clone();
        let limit = uri.query.connection_timeout.map_or(Duration::MAX, Duration::from_millis);
        let (slot, tls) = (Arc::clone(&self.0), tls.clone());
        let runtime = lapin::runtime::default_runtime()?;
        Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let address = (uri.authority.host.clone(), uri.authority.port);
                let reaching = AsyncTcpStream::connect(&runtime, runtime.to_socket_addrs(address));
                let stream = time::timeout(limit, reaching).await.unwrap_or_else(|_| Err(silence(limit)))?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    // Confirms are waited for: a small batch must not sit in the kernel for company.
                    plain.get_ref().set_nodelay(true)?;
                    keep(&slot, plain.get_ref().as_fd().try_clone_to_owned()?.into())?;
                }
                match uri.scheme {
                    AMQPScheme::AMQP => Ok(stream),
                    AMQPScheme::AMQPS => {
                        let connector = tls.connector().map_err(io::Error::other)?;
                        let agreeing = stream.into_rustls(&connector, &uri.authority.host);
                        Ok(time::timeout(limit, agreeing).await.unwrap_or_else(|_| Err(silence(limit)))?)
                    }
                }
            },
            properties,
        )
        .await
    }
}

fn silence(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}

/// Puts the socket where the [`Wire`] finds it; refuses where that was dropped meanwhile.
fn keep(slot: &Mutex<Socket>, socket: TcpStream) -> io::Result<()> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*slot, Socket::GivenUp) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    *slot = Socket::Open(socket);
    Ok(())
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Socket::Open(socket) = std::mem::replace(&mut *slot, Socket::GivenUp) {
            // It may be closed already; then there is nothing to do.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
