//! Origins that do as a case says and remember what they were asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use super::expect::Pairs;

/// What an origin does with requests whose path begins with `path`; the first that fits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    #[serde(default)]
    pub path: String,
    #[serde(default = "ok")]
    pub status: u16,
    #[serde(default)]
    pub headers: Pairs,
    /// Left out: the request itself, as JSON.
    pub body: Option<String>,
    /// Wait before answering.
    #[serde(default)]
    pub delay_ms: u64,
    /// Exactly these bytes instead of all the above; then the connection closes.
    pub raw: Option<String>,
    /// Close without a word, after the request was read.
    #[serde(default)]
    pub close: bool,
    /// So many requests at most get this answer; later ones the next that fits.
    pub times: Option<usize>,
}

fn ok() -> u16 {
    200
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub struct Origin {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    script: Arc<Script>,
    life: Mutex<Arc<Life>>,
    /// Bound and not listening: while the origin is dead, nobody else gets its port.
    _reserved: Socket,
}

/// The answers, and how often each was given.
struct Script {
    answers: Vec<Answer>,
    given: Vec<AtomicUsize>,
}

/// From a start to the kill that ends it.
#[derive(Default)]
struct Life {
    over: AtomicBool,
    open: Mutex<BTreeMap<usize, TcpStream>>,
}

impl Origin {
    pub fn start(answers: Vec<Answer>) -> Self {
        let reserved = reserve();
        let address = reserved.local_addr().ok().and_then(|a| a.as_socket()).expect("bound");
        let listener = TcpListener::bind(address).expect("the port is ours");
        let given = answers.iter().map(|_| AtomicUsize::new(0)).collect();
        let script = Arc::new(Script { answers, given });
        let (seen, life) = (Arc::default(), Mutex::default());
        let origin = Self { address, seen, script, life, _reserved: reserved };
        origin.live(listener);
        origin
    }

    fn live(&self, listener: TcpListener) {
        let life = Arc::new(Life::default());
        *self.life.lock().expect("no panic while held") = Arc::clone(&life);
        let (script, seen) = (Arc::clone(&self.script), Arc::clone(&self.seen));
        std::thread::spawn(move || {
            for (id, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                if life.over.load(SeqCst) {
                    return;
                }
                let (script, seen, life) =
                    (Arc::clone(&script), Arc::clone(&seen), Arc::clone(&life));
                let clone = stream.try_clone().map(|stream| (id, stream));
                life.open.lock().expect("no panic while held").extend(clone);
                std::thread::spawn(move || {
                    let _ = serve(stream, &script, &seen);
                    life.open.lock().expect("no panic while held").remove(&id);
                });
            }
        });
    }

    /// Closes all connections; from now on the port refuses.
    pub fn kill(&self) {
        let life = self.life.lock().expect("no panic while held");
        life.over.store(true, SeqCst);
        // What waits in accept sees it by this connection.
        let _ = TcpStream::connect(self.address);
        for stream in life.open.lock().expect("no panic while held").values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        while TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Serves again on the same port after a kill.
    pub fn revive(&self) {
        self.live(TcpListener::bind(self.address).expect("the port is still ours"));
    }

    /// What came since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("no panic while held"))
    }
}

fn reserve() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("so that the listener can share it");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port");
    socket
}

impl Script {
    fn answer(&self, target: &str) -> Answer {
        let fits = self.answers.iter().zip(&self.given).find(|(answer, given)| {
            let more = |times: &usize| given.fetch_add(1, SeqCst) < *times;
            target.starts_with(&answer.path) && answer.times.as_ref().is_none_or(more)
        });
        let fallback = || serde_yaml::from_str("{}").expect("defaults");
        fits.map_or_else(fallback, |(answer, _)| answer.clone())
    }
}

fn serve(mut stream: TcpStream, script: &Script, seen: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer)? {
        let answer = script.answer(&request.target);
        seen.lock().expect("no panic while held").push(request.clone());
        std::thread::sleep(Duration::from_millis(answer.delay_ms));
        if answer.close {
            return Ok(());
        }
        if let Some(raw) = &answer.raw {
            return stream.write_all(raw.as_bytes());
        }
        stream.write_all(&response(&answer, &request))?;
    }
    Ok(())
}

fn response(answer: &Answer, request: &Seen) -> Vec<u8> {
    let body = answer.body.clone().unwrap_or_else(|| echo(request));
    let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
    for (name, value) in &answer.headers.0 {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let bodiless = matches!(answer.status, 204 | 304);
    if !bodiless {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    if !bodiless && request.method != "HEAD" {
        head.push_str(&body);
    }
    head.into_bytes()
}

fn echo(request: &Seen) -> String {
    serde_json::json!({
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "body": String::from_utf8_lossy(&request.body),
    })
    .to_string()
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    let (end, mut seen, length, chunked) = loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(buffer) {
            Ok(httparse::Status::Complete(end)) => {
                let owned = request.headers.iter().map(|h| {
                    (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned())
                });
                let headers: Vec<(String, String)> = owned.collect();
                let find =
                    |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
                let length = find("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
                let chunked = find("transfer-encoding").is_some();
                let seen = Seen {
                    method: request.method.unwrap_or_default().to_owned(),
                    target: request.path.unwrap_or_default().to_owned(),
                    headers,
                    body: Vec::new(),
                };
                break (end, seen, length, chunked);
            }
            Ok(httparse::Status::Partial) => {}
            Err(error) => return Err(std::io::Error::other(error)),
        }
        if fill(stream, buffer)? == 0 {
            return Ok(None);
        }
    };
    buffer.drain(..end);
    seen.body = if chunked { chunks(stream, buffer)? } else { exactly(stream, buffer, length)? };
    Ok(Some(seen))
}

fn exactly(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    length: usize,
) -> std::io::Result<Vec<u8>> {
    while buffer.len() < length {
        if fill(stream, buffer)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

fn chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let at = loop {
            if let Some(at) = buffer.windows(2).position(|w| w == b"\r\n") {
                break at;
            }
            if fill(stream, buffer)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        };
        let line: Vec<u8> = buffer.drain(..at + 2).collect();
        let size = usize::from_str_radix(String::from_utf8_lossy(&line[..at]).trim(), 16)
            .map_err(std::io::Error::other)?;
        body.extend(exactly(stream, buffer, size)?);
        exactly(stream, buffer, 2)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut piece = [0; 65536];
    let n = stream.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..n]);
    Ok(n)
}
