//! The end of an HTTP/1 connection whose client may still be sending. To close a socket with unread
//! bytes resets the connection, and the reset may overtake the answer; so what comes is read and
//! thrown away for a while.

use std::net::TcpStream as StdStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::http::draining;

/// How long a client may go on sending after its answer, as nginx's `lingering_timeout`.
const LINGER: Duration = Duration::from_secs(5);
/// The same in a drain: about what an answer needs to get around the world.
const LINGER_IN_DRAIN: Duration = Duration::from_millis(500);
/// How much it may send.
const LINGER_BYTES: usize = 64 << 20;
const PIECE: usize = 16 << 10;

/// Where a connection leaves its socket when Pingora drops it.
#[derive(Debug, Clone, Default)]
pub(super) struct Afterlife(Arc<Mutex<Option<StdStream>>>);

impl Afterlife {
    /// Keeps the socket open beyond its owner. Without descriptors left it closes at once.
    pub fn keep(&self, socket: &TcpStream) {
        *self.0.lock() = socket.as_fd().try_clone_to_owned().ok().map(StdStream::from);
    }

    /// Reads on until the client has closed, or its time or bytes are used up.
    pub async fn linger(self, drain: &mut watch::Receiver<bool>) {
        let kept = self.0.lock().take();
        let Some(socket) = kept.and_then(|socket| TcpStream::from_std(socket).ok()) else { return };
        let limit = async {
            tokio::select! {
                () = tokio::time::sleep(LINGER) => {}
                () = draining(drain) => tokio::time::sleep(LINGER_IN_DRAIN).await,
            }
        };
        tokio::select! {
            () = discard(&socket) => {}
            () = limit => {}
        }
    }
}

async fn discard(socket: &TcpStream) {
    let mut piece = vec![0; PIECE];
    let mut left = LINGER_BYTES;
    while left > 0 && socket.readable().await.is_ok() {
        match socket.try_read(&mut piece) {
            Ok(0) => return,
            Ok(count) => left = left.saturating_sub(count),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
