//! Active health checks: an endpoint is asked at an interval, and its verdict is kept.
//!
//! An endpoint's very first check decides at once; later it takes as many in a row as configured.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::balance::rng;
use super::client::{Client, ClientError, ClientRequest, ClientResponse};
use super::endpoint::{Endpoint, Reason};
use super::pool::Pool;
use crate::config::upstreams::{Address, Health, HttpProbe, Probe};

/// The first checks are spread over this time, or over an interval if that is shorter.
const FIRST_WITHIN: Duration = Duration::from_millis(50);

/// An interval is shortened or lengthened by up to one part in this many.
const JITTER: u32 = 10;

/// Checks `endpoint` for ever; without configured checks it does not begin.
pub(super) async fn run(pool: Arc<Pool>, endpoint: Arc<Endpoint>, client: Arc<Client>) {
    let Some(health) = pool.config().health.clone() else { return };
    let asked = match (health.port, endpoint.address()) {
        (Some(port), Address::Inet(address)) => {
            Endpoint::new(Address::Inet((address.ip(), port).into()))
        }
        _ => Arc::clone(&endpoint),
    };
    let mut check = Check { pool, endpoint, asked, health, client, streak: Streak::default() };
    tokio::time::sleep(up_to(FIRST_WITHIN.min(check.health.interval))).await;
    loop {
        let start = Instant::now();
        // What an operator took out is left in peace.
        if !check.endpoint.is_out_for(Reason::Disabled) {
            let result = check.ask().await;
            check.judge(result);
        }
        tokio::time::sleep_until(start + jittered(check.health.interval)).await;
    }
}

/// The checks of one endpoint.
struct Check {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    /// The same, at another port if the checks have one.
    asked: Arc<Endpoint>,
    health: Health,
    client: Arc<Client>,
    streak: Streak,
}

/// Checks in a row with the same result.
#[derive(Default)]
struct Streak {
    passed: bool,
    length: u32,
}

impl Check {
    async fn ask(&self) -> Result<(), String> {
        let limit = self.health.timeout;
        let asked = async {
            match &self.health.probe {
                Probe::Tcp => connect(self.asked.address()).await,
                Probe::Http(probe) => judge_http(probe, &self.exchange(http(probe)).await?),
                Probe::Grpc { service } => judge_grpc(&self.exchange(grpc(service)).await?),
            }
        };
        let ended = tokio::time::timeout(limit, asked).await;
        ended.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
    }

    async fn exchange(&self, question: Question<'_>) -> Result<ClientResponse, String> {
        let mut headers = question.headers;
        headers.insert(header::USER_AGENT, HeaderValue::from_static("selvedge-health"));
        let host = question.host.map_or_else(|| self.host(), str::to_owned);
        let request = ClientRequest {
            method: question.method,
            path_and_query: question.path.to_owned(),
            headers,
            host,
            body: question.body,
            timeout: self.health.timeout,
            max_body: 0,
        };
        let answer = self.client.probe(&self.pool, &self.asked, &request).await;
        answer.map_err(|error| in_words(&error))
    }

    fn host(&self) -> String {
        match self.endpoint.address() {
            Address::Inet(address) => address.to_string(),
            // A socket's path is no host.
            Address::Unix(_) => "localhost".to_owned(),
        }
    }

    fn judge(&mut self, result: Result<(), String>) {
        let passed = result.is_ok();
        self.streak.push(passed);
        let needed = match (self.endpoint.known(), passed) {
            (false, _) => 1,
            (true, true) => self.health.healthy_after,
            (true, false) => self.health.unhealthy_after,
        };
        if self.streak.length < needed {
            return;
        }
        match result {
            Ok(()) => self.pool.let_in(&self.endpoint, Reason::Unhealthy, "checks pass again"),
            Err(why) => self.pool.take_out(&self.endpoint, Reason::Unhealthy, &why),
        }
        self.endpoint.set_known();
    }
}

/// What a check asks beside what is the same for all.
struct Question<'a> {
    method: Method,
    path: &'a str,
    host: Option<&'a str>,
    headers: HeaderMap,
    body: Bytes,
}

fn http(probe: &HttpProbe) -> Question<'_> {
    Question {
        method: probe.method.clone(),
        path: &probe.path,
        host: probe.host.as_deref(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

fn judge_http(probe: &HttpProbe, answer: &ClientResponse) -> Result<(), String> {
    if !probe.status.contain(answer.status) {
        let (got, want) = (answer.status.as_u16(), &probe.status);
        return Err(format!("status {got} instead of {want}"));
    }
    match &probe.body {
        Some(text) if !contains(&answer.body, text.as_bytes()) => {
            Err(format!("the body does not contain {text:?}"))
        }
        _ => Ok(()),
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len().max(1)).any(|window| window == text)
}

/// `grpc.health.v1.HealthCheckRequest`, whose field 1 is the service's name.
fn grpc(service: &str) -> Question<'static> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    // Not compressed, and its length.
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message);
    Question {
        method: Method::POST,
        path: "/grpc.health.v1.Health/Check",
        host: None,
        headers,
        body: body.into(),
    }
}

fn varint(mut number: usize, into: &mut Vec<u8>) {
    while number >= 0x80 {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// `HealthCheckResponse`, whose field 1 is the status; 1 means that it serves.
fn judge_grpc(answer: &ClientResponse) -> Result<(), String> {
    if answer.status != StatusCode::OK {
        return Err(format!("status {} instead of 200", answer.status.as_u16()));
    }
    if let Some(status) = answer.headers.get("grpc-status").filter(|status| *status != "0") {
        return Err(format!("grpc-status {}", String::from_utf8_lossy(status.as_bytes())));
    }
    match answer.body.get(5..).unwrap_or_default() {
        [0x08, 1, ..] => Ok(()),
        [0x08, 2, ..] => Err("it says NOT_SERVING".to_owned()),
        [0x08, 3, ..] => Err("it says SERVICE_UNKNOWN".to_owned()),
        _ => Err("its answer is no status that serves".to_owned()),
    }
}

async fn connect(address: &Address) -> Result<(), String> {
    let connected = match address {
        Address::Inet(address) => TcpStream::connect(address).await.map(drop),
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
    };
    connected.map_err(|error| format!("cannot connect: {error}"))
}

impl Streak {
    fn push(&mut self, passed: bool) {
        let length = if passed == self.passed { self.length } else { 0 };
        *self = Self { passed, length: length.saturating_add(1) };
    }
}

fn in_words(error: &ClientError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

pub(super) fn up_to(limit: Duration) -> Duration {
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng::below(micros.max(1)))
}

pub(super) fn jittered(interval: Duration) -> Duration {
    let spread = interval / JITTER;
    interval - spread + up_to(spread * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&'static str, &'static str)], body: &'static [u8]) -> ClientResponse {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (name.parse().expect("a name"), HeaderValue::from_static(value))
        };
        let headers: HeaderMap = headers.iter().map(pair).collect();
        ClientResponse { status: StatusCode::OK, headers, body: Bytes::from_static(body) }
    }

    #[test]
    fn grpc_asks_for_a_service_and_reads_its_status() {
        assert_eq!(&grpc("a.b").body[..], b"\0\0\0\0\x05\x0a\x03a.b");
        assert_eq!(&grpc("").body[..], b"\0\0\0\0\0");
        assert_eq!(judge_grpc(&answer(&[], b"\0\0\0\0\x02\x08\x01")), Ok(()));
        for (headers, body) in [
            (&[][..], &b"\0\0\0\0\x02\x08\x02"[..]),
            (&[], b"\0\0\0\0\0"),
            (&[], b""),
            (&[("grpc-status", "12")], b""),
        ] {
            assert!(judge_grpc(&answer(headers, body)).is_err(), "{headers:?} {body:?}");
        }
    }
}
