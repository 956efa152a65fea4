//! A client that sends exactly the bytes it is given and reads one HTTP/1.1 response.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says.
    pub complete: bool,
    /// The version in the status line.
    pub version: String,
    /// The statuses of the 1xx responses before it.
    pub informational: Vec<u16>,
}

impl Response {
    pub fn values(&self, name: &str) -> Vec<&str> {
        let same = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        Ok(Self { stream, read: Vec::new() })
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|e| format!("write: {e}"))
    }

    /// Reads a final response; `head_only` says that it has no body, as after HEAD.
    pub fn receive(&mut self, head_only: bool) -> Result<Response, String> {
        let mut informational = Vec::new();
        loop {
            let response = self.receive_one(head_only)?;
            if response.status >= 200 || response.status == 101 {
                return Ok(Response { informational, ..response });
            }
            informational.push(response.status);
        }
    }

    fn receive_one(&mut self, head_only: bool) -> Result<Response, String> {
        let (end, status, version, headers) = loop {
            if let Some(parsed) = parse_head(&self.read)? {
                break parsed;
            }
            if self.fill()? == 0 {
                return Err(format!(
                    "closed before a response: {:?}",
                    String::from_utf8_lossy(&self.read)
                ));
            }
        };
        self.read.drain(..end);
        let (body, informational) = (Vec::new(), Vec::new());
        let mut response =
            Response { status, headers, body, complete: true, version, informational };
        let bodiless = head_only || status < 200 || matches!(status, 204 | 304);
        if !bodiless {
            self.read_body(&mut response)?;
        }
        Ok(response)
    }

    fn read_body(&mut self, response: &mut Response) -> Result<(), String> {
        let chunked = response.values("transfer-encoding").iter().any(|v| v.contains("chunked"));
        let length = response.values("content-length").first().and_then(|v| v.parse().ok());
        match (chunked, length) {
            (true, _) => response.complete = self.read_chunks(&mut response.body)?,
            (false, Some(length)) => {
                response.complete = self.read_exactly(length, &mut response.body)?;
            }
            (false, None) => {
                while self.fill()? > 0 {}
                response.body.append(&mut self.read);
            }
        }
        Ok(())
    }

    fn read_exactly(&mut self, length: usize, into: &mut Vec<u8>) -> Result<bool, String> {
        while self.read.len() < length {
            if self.fill()? == 0 {
                into.append(&mut self.read);
                return Ok(false);
            }
        }
        into.extend(self.read.drain(..length));
        Ok(true)
    }

    fn read_chunks(&mut self, into: &mut Vec<u8>) -> Result<bool, String> {
        loop {
            let Some(line) = self.read_line()? else { return Ok(false) };
            let size = line.split(';').next().unwrap_or_default().trim().to_owned();
            let size =
                usize::from_str_radix(&size, 16).map_err(|e| format!("chunk {line:?}: {e}"))?;
            if size == 0 {
                while self.read_line()?.is_some_and(|line| !line.is_empty()) {}
                return Ok(true);
            }
            if !self.read_exactly(size, into)? || self.read_line()?.is_none() {
                return Ok(false);
            }
        }
    }

    fn read_line(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(at) = self.read.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..at + 2).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..at]).into_owned()));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether the other side closes; what it still sends is thrown away.
    pub fn closed(&mut self) -> bool {
        loop {
            self.read.clear();
            match self.fill() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(text) => return text.contains("reset"),
            }
        }
    }

    /// More bytes as they come; 0 at the end.
    pub fn fill(&mut self) -> Result<usize, String> {
        let mut buffer = [0; 16384];
        let n = self.stream.read(&mut buffer).map_err(|e| format!("read: {e}"))?;
        self.read.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    pub fn buffered(&self) -> &[u8] {
        &self.read
    }
}

type Head = (usize, u16, String, Vec<(String, String)>);

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes).map_err(|e| format!("{e}: {:?}", String::from_utf8_lossy(bytes)))? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(end) => {
            let owned = response.headers.iter().map(|header| {
                (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned())
            });
            let version = format!("HTTP/1.{}", response.version.unwrap_or_default());
            Ok(Some((end, response.code.unwrap_or(0), version, owned.collect())))
        }
    }
}

/// One request on a connection of its own.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Result<Response, String> {
    let mut client = Client::connect(address)?;
    client.send(request)?;
    client.receive(request.starts_with(b"HEAD "))
}
