//! The demo's origins: small HTTP/1.1 servers that say what they were asked.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(60);
const MAX_HEAD_LINES: usize = 200;

/// Serves on a free port until the process ends.
pub fn start(name: &'static str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new().name(format!("origin-{name}")).spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            while open.load(Relaxed) >= MAX_CONNECTIONS {
                #[expect(clippy::disallowed_methods)] // a thread of its own
                std::thread::sleep(Duration::from_millis(5));
            }
            open.fetch_add(1, Relaxed);
            let counted = Arc::clone(&open);
            std::thread::spawn(move || {
                // A client that breaks off concerns nobody here.
                let _ = serve(stream, name);
                counted.fetch_sub(1, Relaxed);
            });
        }
    })?;
    Ok(address)
}

fn serve(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some((target, authorized)) = read_head(&mut reader)? {
        let (media, body) = answer(name, &target, authorized);
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nServer: demo-{name}\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len(),
        )?;
    }
    Ok(())
}

/// The target, and whether the origin got to see an `Authorization`.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut target = None;
    let mut authorized = false;
    for _ in 0..MAX_HEAD_LINES {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        match &target {
            None => target = Some(line.split(' ').nth(1).unwrap_or("/").to_owned()),
            Some(done) if line.is_empty() => return Ok(Some((done.clone(), authorized))),
            Some(_) => authorized |= line.to_ascii_lowercase().starts_with("authorization:"),
        }
    }
    Ok(None)
}

fn answer(name: &str, target: &str, authorized: bool) -> (&'static str, String) {
    let json = "application/json";
    match target {
        "/cart.json" => (json, r#"{"items":2,"total":"31.90"}"#.to_owned()),
        "/me.json" => (json, r#"{"name":"Ada"}"#.to_owned()),
        "/healthz" => ("text/plain", "ok\n".to_owned()),
        _ => {
            let saw = if authorized { "an" } else { "no" };
            let page = format!(
                "<!doctype html><title>{name}</title>\n<p>Origin {name} was asked for {} and saw {saw} Authorization.</p>\n",
                target.replace('&', "&amp;").replace('<', "&lt;"),
            );
            ("text/html; charset=utf-8", page)
        }
    }
}
