//! Active health checks: each endpoint is asked at an interval, and its verdict is kept.
//!
//! An endpoint's very first check decides at once; later it takes as many in a row as configured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::balance::rng;
use super::client::{Client, ClientError, ClientRequest};
use super::endpoint::Endpoint;
use super::pool::Pool;
use crate::config::upstreams::{Health, Probe};

/// The first checks are spread over this time, or over an interval if that is shorter.
const FIRST_WITHIN: Duration = Duration::from_millis(50);

/// An interval is shortened or lengthened by up to one part in this many.
const JITTER: u32 = 10;

/// Is told of endpoints that go down or come back, once each time.
pub trait HealthObserver: Send + Sync {
    fn transition(&self, upstream: &str, endpoint: SocketAddr, healthy: bool, reason: &str);
}

/// The running checks of a pool, which end when this is dropped.
#[must_use = "the checks end when this is dropped"]
pub struct HealthTask {
    _checks: JoinSet<()>,
}

/// Starts the checks of `pool` on `runtime`; without configured checks there are none.
pub fn spawn(
    pool: &Arc<Pool>,
    client: &Arc<Client>,
    observer: &Arc<dyn HealthObserver>,
    runtime: &Handle,
) -> HealthTask {
    let mut checks = JoinSet::new();
    if let Some(health) = &pool.config().health {
        for member in pool.members() {
            let check = Check {
                pool: Arc::clone(pool),
                endpoint: Arc::clone(&member.endpoint),
                health: health.clone(),
                client: Arc::clone(client),
                observer: Arc::clone(observer),
                streak: Streak::default(),
            };
            checks.spawn_on(check.run(), runtime);
        }
    }
    HealthTask { _checks: checks }
}

/// The checks of one endpoint.
struct Check {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    health: Health,
    client: Arc<Client>,
    observer: Arc<dyn HealthObserver>,
    streak: Streak,
}

/// Checks in a row with the same result.
#[derive(Default)]
struct Streak {
    passed: bool,
    length: u32,
}

impl Check {
    async fn run(mut self) {
        tokio::time::sleep(up_to(FIRST_WITHIN.min(self.health.interval))).await;
        loop {
            let start = Instant::now();
            let result = self.check().await;
            self.judge(result);
            tokio::time::sleep_until(start + jittered(self.health.interval)).await;
        }
    }

    async fn check(&self) -> Result<(), String> {
        let limit = self.health.timeout;
        let probe = async {
            match &self.health.probe {
                Probe::Tcp => self.check_tcp().await,
                Probe::Http { path, host, status } => {
                    let request = self.request(path, host.as_deref());
                    let answer = self.client.probe(&self.pool, &self.endpoint, &request).await;
                    match answer.map_err(|error| in_words(&error))? {
                        answered if answered == *status => Ok(()),
                        answered => {
                            let (got, want) = (answered.as_u16(), status.as_u16());
                            Err(format!("status {got} instead of {want}"))
                        }
                    }
                }
            }
        };
        let ended = tokio::time::timeout(limit, probe).await;
        ended.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
    }

    async fn check_tcp(&self) -> Result<(), String> {
        let connected = TcpStream::connect(self.endpoint.address()).await;
        connected.map(drop).map_err(|error| format!("cannot connect: {error}"))
    }

    fn request(&self, path: &str, host: Option<&str>) -> ClientRequest {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("selvedge-health"));
        ClientRequest {
            method: Method::GET,
            path_and_query: path.to_owned(),
            headers,
            host: host.map_or_else(|| self.endpoint.address().to_string(), str::to_owned),
            body: Bytes::new(),
            timeout: self.health.timeout,
            max_body: 0,
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
        if self.streak.length >= needed && self.endpoint.set_healthy(passed) {
            let reason = result.err().unwrap_or_else(|| "checks pass again".into());
            let address = self.endpoint.address();
            self.observer.transition(self.pool.name(), address, passed, &reason);
        }
    }
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

fn up_to(limit: Duration) -> Duration {
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng::below(micros.max(1)))
}

fn jittered(interval: Duration) -> Duration {
    let spread = interval / JITTER;
    interval - spread + up_to(spread * 2)
}
