//! `selvedge reload`: asks the admin address of a running server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::print::{answer, fail, report};
use crate::config::problem::Problem;

#[derive(Debug, Args)]
pub struct Reload {
    /// The admin address of the running server
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901", value_parser = resolve)]
    admin: SocketAddr,
}

/// What the server says then.
#[derive(Debug, Deserialize)]
struct Refused {
    problems: Vec<Problem>,
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|error| format!("{error}; write host:port"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    // IPv4 first, as with endpoints.
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().ok_or_else(|| "this name has no address".to_owned())
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A large configuration with many scripts takes seconds.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

impl Reload {
    pub fn run(self) -> ExitCode {
        match self.ask() {
            Ok((200, body)) => answer(&body),
            Ok((422, body)) => match serde_json::from_str::<Refused>(&body) {
                Ok(Refused { problems }) => report(&problems),
                Err(_) => fail(format!("reload refused\n{body}")),
            },
            Ok((status, _)) => fail(format!("{}: status {status}: no admin address?", self.admin)),
            Err(error) => fail(format!("{}: {error}", self.admin)),
        }
    }

    /// The status and the body; 0 for what is not HTTP.
    fn ask(&self) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(RELOAD_TIMEOUT))?;
        write!(
            stream,
            "POST /reload HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
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
