//! Public keys fetched from an issuer (JWK sets): kept per URL, renewed, asked for once at a time.
//!
//! It lives longer than a snapshot, so that a reload while the issuer is down locks nobody out.
//! Who may fetch what is not decided here: the fetch is handed in.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::alg::Alg;
use super::jwk::Jwk;
use super::key::VerifyingKey;
use super::strict_json;
use crate::script::host::{FetchError, FetchErrorKind, FetchResponse};

/// Sets kept; of more, the one that was renewed longest ago goes.
const MOST_SETS: usize = 64;
/// Keys of one set that are looked at.
const MOST_KEYS: usize = 128;
/// Bytes of one set.
pub const MOST_BYTES: usize = 256 << 10;
/// How long old keys are used while the issuer does not answer.
const STALE: Duration = Duration::from_secs(3600);
/// How long a failure stands before the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// When a set is fetched anew.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub ttl: Duration,
    /// Between two fetches that tokens with unknown keys cause, which anybody can send.
    pub cooldown: Duration,
}

/// What a token asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub kid: Option<String>,
    pub alg: Alg,
}

#[derive(Debug, Clone)]
pub enum NoKey {
    /// The set is there, and no key of it is meant.
    Unknown,
    /// There is no set, as it could not be fetched.
    Fetch(FetchError),
}

/// The sets by URL.
#[derive(Default)]
pub struct KeySets(Mutex<HashMap<String, Arc<Slot>>>);

impl KeySets {
    pub fn slot(&self, url: &str) -> Arc<Slot> {
        let mut slots = self.0.lock();
        if let Some(slot) = slots.get(url) {
            return slot.clone();
        }
        if slots.len() >= MOST_SETS {
            let oldest = slots.iter().min_by_key(|(_, slot)| slot.state.lock().fetched);
            if let Some(oldest) = oldest.map(|(url, _)| url.clone()) {
                slots.remove(&oldest);
            }
        }
        slots.entry(url.to_owned()).or_default().clone()
    }
}

/// One URL's set, and what is known of fetching it.
#[derive(Default)]
pub struct Slot {
    state: Mutex<State>,
    /// Held by the one fetch that is under way.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    keys: Option<KeySet>,
    fetched: Option<Instant>,
    failed: Option<(Instant, FetchError)>,
    /// When an unknown key last led to a fetch.
    forced: Option<Instant>,
}

enum Verdict {
    Found(Arc<VerifyingKey>),
    Refused(NoKey),
    /// This key is right, and it is time to ask anew.
    Old(Arc<VerifyingKey>),
    /// Nothing can be said without asking.
    Ask {
        forced: bool,
    },
}

impl State {
    fn verdict(&self, wanted: &Wanted, policy: Policy) -> Verdict {
        let since = |time: Option<Instant>| time.map(|time| time.elapsed());
        let age = since(self.fetched);
        let keys = self.keys.as_ref().filter(|_| age.is_some_and(|age| age < policy.ttl + STALE));
        let failure = self.failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE);
        let old = age.is_none_or(|age| age >= policy.ttl) && failure.is_none();
        match (keys.and_then(|keys| keys.find(wanted)), failure) {
            (Some(key), _) if old => Verdict::Old(key),
            (Some(key), _) => Verdict::Found(key),
            (None, Some((_, error))) => Verdict::Refused(NoKey::Fetch(error.clone())),
            (None, None) if old || keys.is_none() => Verdict::Ask { forced: false },
            (None, None) if since(self.forced).is_some_and(|since| since < policy.cooldown) => {
                Verdict::Refused(NoKey::Unknown)
            }
            (None, None) => Verdict::Ask { forced: true },
        }
    }

    fn take(&mut self, fetched: Result<FetchResponse, FetchError>) {
        match fetched.and_then(|response| keys_of(&response)) {
            Ok(keys) => {
                self.keys = Some(keys);
                self.fetched = Some(Instant::now());
                self.failed = None;
            }
            Err(error) => self.failed = Some((Instant::now(), error)),
        }
    }
}

impl Slot {
    /// The key that is wanted, fetched by `fetch` if need be.
    pub async fn find<F>(
        self: Arc<Self>,
        wanted: Wanted,
        policy: Policy,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<VerifyingKey>, NoKey>
    where
        F: Future<Output = Result<FetchResponse, FetchError>> + Send + 'static,
    {
        let first = self.state.lock().verdict(&wanted, policy);
        let turn = match first {
            Verdict::Found(key) => return Ok(key),
            Verdict::Refused(why) => return Err(why),
            // One request renews the set; the others need not wait for it.
            Verdict::Old(key) => match self.fetching.clone().try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => return Ok(key),
            },
            Verdict::Ask { .. } => self.fetching.clone().lock_owned().await,
        };
        // Whoever held it before may have brought the answer.
        let second = self.state.lock().verdict(&wanted, policy);
        match second {
            Verdict::Found(key) => return Ok(key),
            Verdict::Refused(why) => return Err(why),
            Verdict::Old(_) => {}
            Verdict::Ask { forced } => {
                if forced {
                    self.state.lock().forced = Some(Instant::now());
                }
            }
        }
        // A task of its own: a client that leaves must not take the answer from the others.
        let (slot, running) = (self.clone(), fetch());
        let task = tokio::spawn(async move {
            let _turn = turn;
            let fetched = running.await;
            slot.state.lock().take(fetched);
        });
        task.await.map_err(|_| NoKey::Fetch(unusable("the fetch broke off")))?;
        match self.state.lock().verdict(&wanted, policy) {
            Verdict::Found(key) | Verdict::Old(key) => Ok(key),
            Verdict::Refused(why) => Err(why),
            Verdict::Ask { .. } => Err(NoKey::Unknown),
        }
    }
}

fn unusable(message: &str) -> FetchError {
    FetchError { kind: FetchErrorKind::Unavailable, message: message.to_owned() }
}

fn keys_of(response: &FetchResponse) -> Result<KeySet, FetchError> {
    if !response.status.is_success() {
        let message = format!("the key set's answer is {}", response.status);
        return Err(FetchError { kind: FetchErrorKind::Status, message });
    }
    KeySet::parse(&response.body).ok_or_else(|| unusable("the answer holds no usable key set"))
}

/// The keys of a set that verify something; the others are passed over, as RFC 7517 says.
struct KeySet(Vec<SetKey>);

struct SetKey {
    kid: Option<String>,
    alg: Option<Alg>,
    key: Arc<VerifyingKey>,
}

impl KeySet {
    fn parse(text: &[u8]) -> Option<Self> {
        const DEPTH: usize = 8;
        let set = strict_json::object(text, DEPTH)?;
        let keys = set.get("keys")?.as_array()?.iter().take(MOST_KEYS);
        let keys = keys.filter_map(|value: &Value| {
            let jwk = Jwk::of(value).ok()?;
            let (key, alg) = jwk.public().ok()?;
            Some(SetKey { kid: jwk.kid, alg, key: Arc::new(key) })
        });
        let keys: Vec<SetKey> = keys.collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// A token without a kid means the only key that fits.
    fn find(&self, wanted: &Wanted) -> Option<Arc<VerifyingKey>> {
        let mut fitting = self.0.iter().filter(|one| {
            let named = wanted.kid.is_none() || one.kid == wanted.kid;
            named && one.key.fits(wanted.alg) && one.alg.is_none_or(|alg| alg == wanted.alg)
        });
        let first = fitting.next()?;
        let alone = wanted.kid.is_some() || fitting.next().is_none();
        alone.then(|| first.key.clone())
    }
}
