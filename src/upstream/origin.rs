//! A tiny origin for tests: real sockets on port 0, and a script of what it answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub struct Origin {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    /// Answers 503 while this is false.
    pub well: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// Answers each request with `response`; an empty one means never.
    pub async fn start(response: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let well = Arc::new(AtomicBool::new(true));
        let (count, state) = (Arc::clone(&connections), Arc::clone(&well));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, response, Arc::clone(&state)));
            }
        });
        Self { address, connections, well, accepting }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, response: &'static str, well: Arc<AtomicBool>) {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        read.extend_from_slice(&chunk[..length]);
        if !read.windows(4).any(|window| window == b"\r\n\r\n") {
            continue;
        }
        read.clear();
        let down = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        let answer = if well.load(Ordering::SeqCst) { response } else { down };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// An address nobody listens on.
pub async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
