//! Asking the admin address of a running server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::Args;

#[derive(Debug, Args)]
pub struct Admin {
    /// The admin address of the running server
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901", value_parser = resolve)]
    pub admin: SocketAddr,
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|error| format!("{error}; write host:port"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    // IPv4 first, as with endpoints.
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().ok_or_else(|| "this name has no address".to_owned())
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A large configuration with many scripts takes seconds to reload.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

impl Admin {
    /// The status and the body; 0 for what is not HTTP.
    pub fn ask(&self, method: &str, target: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.admin
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.unwrap_or(0), body.to_owned()))
    }
}
