//! The one door to entries by namespace and key. What stands behind it may be a file, memory, or
//! a service that several nodes share, so nothing here promises more than such a service can.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::state::Namespace;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
pub type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// Bytes of one key.
pub const LONGEST_KEY: usize = 512;
/// Keys in one page of a list.
pub const LONGEST_PAGE: usize = 1000;
/// What an entry counts beside its key and its value.
pub const ENTRY: u64 = 64;

/// Entries with a time to live, in namespaces that have a bound each.
///
/// A write is done, and survives a crash, when its answer is there. A read may be older than a
/// write of another node; on the embedded store it never is.
pub trait Store: Send + Sync {
    fn get(&self, namespace: &Arc<Namespace>, key: String) -> Answer<Option<Bytes>>;

    /// False when the entry was not as `put.when` wants it.
    fn put(&self, namespace: &Arc<Namespace>, put: Put) -> Answer<bool>;

    /// Whether there was one.
    fn delete(&self, namespace: &Arc<Namespace>, key: String) -> Answer<bool>;

    /// Keys in their order.
    fn list(&self, namespace: &Arc<Namespace>, page: Page) -> Answer<Vec<String>>;

    /// Ends it: what comes after fails.
    fn close(&self);
}

#[derive(Debug, Clone)]
pub struct Put {
    pub key: String,
    pub value: Bytes,
    /// None: the namespace's own.
    pub ttl: Option<Duration>,
    pub when: When,
}

/// What an entry must be like to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    Always,
    Absent,
    /// There, with this value.
    Equal(Bytes),
}

impl When {
    pub fn allows(&self, current: Option<&[u8]>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => current.is_none(),
            Self::Equal(value) => current == Some(value),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Page {
    pub prefix: String,
    /// Keys after this one.
    pub after: Option<String>,
    /// At most [`LONGEST_PAGE`].
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Invalid(String),
    #[error("a value of namespace {namespace} has at most {most} bytes, and this one {bytes}")]
    TooLarge { namespace: String, bytes: usize, most: usize },
    #[error("namespace {namespace} is full: it has {size} bytes")]
    Full { namespace: String, size: u64 },
    /// The disk's own words are in the log.
    #[error("{0}")]
    Unavailable(&'static str),
}

pub(super) const FAILED: StoreError = StoreError::Unavailable("the store's disk fails");

impl StoreError {
    /// As in `e.kind` of scripts and in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::TooLarge { .. } => "too_large",
            Self::Full { .. } => "limit",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

pub fn check_key(key: &str) -> Result<(), StoreError> {
    match key.len() {
        1..=LONGEST_KEY => Ok(()),
        bytes => Err(StoreError::Invalid(format!(
            "a key has 1 to {LONGEST_KEY} bytes, and this one {bytes}"
        ))),
    }
}

/// What every store refuses in the same way.
pub fn check_put(namespace: &Namespace, put: &Put) -> Result<(), StoreError> {
    check_key(&put.key)?;
    if put.value.len() > namespace.max_value {
        let (namespace, most) = (namespace.name.clone(), namespace.max_value);
        return Err(StoreError::TooLarge { namespace, bytes: put.value.len(), most });
    }
    Ok(())
}

/// Milliseconds since 1970, which outlive a restart.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// When an entry ends; `u64::MAX` is never.
pub fn expiry(namespace: &Namespace, put: &Put, now: u64) -> u64 {
    let Some(ttl) = put.ttl.or(namespace.ttl) else { return u64::MAX };
    now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// What an entry counts against its namespace.
pub fn weight(key: &str, value: &[u8]) -> u64 {
    ENTRY + key.len() as u64 + value.len() as u64
}
