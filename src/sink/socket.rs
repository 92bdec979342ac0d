//! One connection to the broker whose socket can be shut down at any time.
//!
//! lapin runs each connection on its own thread, which reads until the socket ends. If a broker hangs during the
//! handshake, or keeps the connection open without sending anything, the thread never ends. So the socket is opened
//! here, and a second handle of it is kept to shut it down.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::uri::AMQPScheme;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Error as BrokerError};
use tokio::time;

use super::Tls;
use super::round::Candidate;

/// Shuts down the socket of a connection when it is dropped, whatever state the connection is in.
#[derive(Debug, Default)]
pub(super) struct SocketGuard(Arc<Mutex<Socket>>);

#[derive(Debug, Default)]
enum Socket {
    #[default]
    NotOpen,
    Open(TcpStream),
    /// The guard was dropped.
    ShutDown,
}

impl SocketGuard {
    /// Opens a connection to one node through a socket that this guard shuts down. With TLS, the certificate must be valid
    /// for the host in the node's URL.
    ///
    /// # Errors
    ///
    /// The error of lapin, of the socket or of TLS. Connecting and the TLS handshake fail after the
    /// `connection_timeout` of the URL.
    pub(super) async fn connect(
        &self,
        node: &Candidate,
        tls: &Tls,
        properties: ConnectionProperties,
    ) -> Result<Connection, BrokerError> {
        let (uri, address) = (node.url.uri().clone(), node.address);
        let limit = uri.query.connection_timeout.map_or(Duration::MAX, Duration::from_millis);
        let (slot, tls) = (Arc::clone(&self.0), tls.clone());
        let runtime = lapin::runtime::default_runtime()?;
        Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let connecting = AsyncTcpStream::connect(&runtime, runtime.to_socket_addrs(address));
                let stream = time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(timed_out(limit)))?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    // The next batch waits for the confirms of this one, so a small batch must not wait in the kernel.
                    plain.get_ref().set_nodelay(true)?;
                    keep(&slot, plain.get_ref().as_fd().try_clone_to_owned()?.into())?;
                }
                match uri.scheme {
                    AMQPScheme::AMQP => Ok(stream),
                    AMQPScheme::AMQPS => {
                        let connector = tls.connector().map_err(io::Error::other)?;
                        let handshake = stream.into_rustls(&connector, &uri.authority.host);
                        Ok(time::timeout(limit, handshake).await.unwrap_or_else(|_| Err(timed_out(limit)))?)
                    }
                }
            },
            properties,
        )
        .await
    }
}

fn timed_out(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}

/// Hands the socket to its [`SocketGuard`]; fails if the guard was dropped in the meantime.
fn keep(slot: &Mutex<Socket>, socket: TcpStream) -> io::Result<()> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*slot, Socket::ShutDown) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    *slot = Socket::Open(socket);
    Ok(())
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Socket::Open(socket) = std::mem::replace(&mut *slot, Socket::ShutDown) {
            // Fails if the socket is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
