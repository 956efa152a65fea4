//! What scripts reach outside of themselves; the proxy implements it.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;

use super::crypto::KeySets;
use crate::state::{Place, State};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The world, as scripts see it. Grants are checked before it is called.
pub trait Host: Send + Sync {
    fn fetch(&self, request: FetchRequest)
    -> BoxFuture<'static, Result<FetchResponse, FetchError>>;

    fn log(&self, level: log::Level, message: &str, fields: &[(String, String)]);

    /// What outlives the request: the store, limits, counters, locks.
    fn state(&self) -> &Arc<State>;

    /// Where an address is, if the configuration says who knows it. The error is a damaged file's.
    fn place(&self, address: IpAddr) -> Result<Place, String>;

    /// Fetched keys, which outlive the run.
    fn key_sets(&self) -> &KeySets;

    /// Whether an upstream has a healthy endpoint; none for a name that is not configured.
    fn upstream_healthy(&self, name: &str) -> Option<bool>;

    /// The time of day; a test's stands still.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    /// Random bytes, of the operating system; a test's follow from a seed.
    fn random(&self, bytes: &mut [u8]) -> Result<(), String> {
        getrandom::fill(bytes).map_err(|error| error.to_string())
    }
}

#[derive(Debug, Clone)]
pub struct FetchRequest {
    pub method: Method,
    /// Absolute, its origin granted.
    pub url: http::Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The whole fetch is dropped after this.
    pub timeout: Duration,
    /// The host stops reading with `TooLarge`.
    pub max_body: usize,
}

#[derive(Debug, Clone)]
pub struct FetchResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    pub kind: FetchErrorKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchErrorKind {
    Denied,
    Limit,
    Timeout,
    Connect,
    Status,
    TooLarge,
    Invalid,
    Unavailable,
}

impl FetchErrorKind {
    pub const ALL: [Self; 8] = [
        Self::Denied,
        Self::Limit,
        Self::Timeout,
        Self::Connect,
        Self::Status,
        Self::TooLarge,
        Self::Invalid,
        Self::Unavailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Limit => "limit",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Level, message and fields of a line that a script logged.
pub type LogLine = (log::Level, String, Vec<(String, String)>);

/// A host for tests: prepared answers after a delay, and what was asked and logged.
#[derive(Default)]
pub struct FakeHost {
    pub answers: Mutex<VecDeque<Result<FetchResponse, FetchError>>>,
    pub delay: Duration,
    pub fetched: Mutex<Vec<FetchRequest>>,
    pub logged: Mutex<Vec<LogLine>>,
    /// In memory; several hosts may share one.
    pub state: Arc<State>,
    pub key_sets: KeySets,
    pub place: Place,
}

impl FakeHost {
    pub fn answering(self, status: StatusCode, body: &str) -> Self {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let answer = FetchResponse { status, headers: HeaderMap::new(), body };
        self.answers.lock().push_back(Ok(answer));
        self
    }
}

impl Host for FakeHost {
    fn fetch(
        &self,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<FetchResponse, FetchError>> {
        self.fetched.lock().push(request);
        let none = || FetchError {
            kind: FetchErrorKind::Connect,
            message: "the fake host has no answer left".into(),
        };
        let answer = self.answers.lock().pop_front().unwrap_or_else(|| Err(none()));
        let delay = self.delay;
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            answer
        })
    }

    fn log(&self, level: log::Level, message: &str, fields: &[(String, String)]) {
        self.logged.lock().push((level, message.to_owned(), fields.to_vec()));
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn place(&self, _: IpAddr) -> Result<Place, String> {
        Ok(self.place.clone())
    }

    fn key_sets(&self) -> &KeySets {
        &self.key_sets
    }

    fn upstream_healthy(&self, _: &str) -> Option<bool> {
        Some(true)
    }
}
