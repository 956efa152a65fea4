//! The world that a filter under test sees: prepared answers, a clock that stands still, a seed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::answers::Answers;
use super::bench::Bench;
use crate::script::crypto::KeySets;
use crate::script::host::{
    BoxFuture, FetchError, FetchErrorKind, FetchRequest, FetchResponse, Host, LogLine,
};
use crate::state::{Memory, Place, State, TestClock};

/// 2026-01-01T00:00:00Z, where every test begins.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// One test's world.
pub struct Stage {
    props: Mutex<Props>,
    clock: Arc<Mutex<Clock>>,
    state: Arc<State>,
    /// That of `state`.
    store: Arc<Memory>,
    key_sets: KeySets,
}

/// The time of day when the fake clock showed `since`.
struct Clock {
    time: Duration,
    since: Instant,
}

struct Props {
    seed: u64,
    answers: Answers,
    /// Upstreams and whether they are healthy; all are where the test names none.
    upstreams: Option<BTreeMap<String, bool>>,
    /// Where the client is.
    place: Place,
    calls: Calls,
    printed: Vec<String>,
}

/// What one request of a test made of the world.
#[derive(Default)]
pub struct Calls {
    pub fetched: Vec<FetchRequest>,
    pub logged: Vec<LogLine>,
    /// Fetches that the test did not expect.
    pub unanswered: Vec<String>,
}

impl Stage {
    /// A test begins, on a runtime of its own.
    pub fn new() -> Self {
        let props = Mutex::new(Props {
            seed: 0,
            answers: Answers::default(),
            upstreams: None,
            place: Place::default(),
            calls: Calls::default(),
            printed: Vec::new(),
        });
        let clock = Arc::new(Mutex::new(Clock { time: BEGIN, since: Instant::now() }));
        let shown = Arc::clone(&clock);
        let now: TestClock = Arc::new(move || shown.lock().now());
        let store = Arc::new(Memory::by(Arc::clone(&now)));
        let state = Arc::new(State::for_test(Arc::clone(&store), now));
        Self { props, clock, state, store, key_sets: KeySets::default() }
    }

    /// What the requests of this test keep, and where its entries are.
    pub fn kept(&self) -> (Arc<State>, Arc<Memory>) {
        (Arc::clone(&self.state), Arc::clone(&self.store))
    }

    /// A new request begins.
    pub fn begin(&self, answers: Answers, upstreams: Option<BTreeMap<String, bool>>, place: Place) {
        let mut props = self.props.lock();
        (props.answers, props.upstreams, props.place) = (answers, upstreams, place);
        props.calls = Calls::default();
    }

    pub fn take_calls(&self) -> Calls {
        std::mem::take(&mut self.props.lock().calls)
    }

    pub fn take_printed(&self) -> Vec<String> {
        std::mem::take(&mut self.props.lock().printed)
    }

    /// Sets the time of day, as seconds since 1970.
    pub fn freeze(&self, time: Duration) {
        *self.clock.lock() = Clock { time, since: Instant::now() };
    }

    pub fn seed(&self, seed: u64) {
        self.props.lock().seed = seed;
    }

    fn time(&self) -> SystemTime {
        UNIX_EPOCH + self.clock.lock().now()
    }

    /// SplitMix64, which is all that a test's randomness needs.
    fn fill(&self, bytes: &mut [u8]) {
        let mut props = self.props.lock();
        for chunk in bytes.chunks_mut(8) {
            props.seed = props.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = props.seed;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Clock {
    /// Since 1970.
    fn now(&self) -> Duration {
        self.time + self.since.elapsed()
    }
}

impl Host for Stage {
    fn fetch(
        &self,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<FetchResponse, FetchError>> {
        let mut props = self.props.lock();
        let answer = props.answers.take(&request);
        if answer.is_none() {
            props.calls.unanswered.push(format!("{} {}", request.method, request.url));
        }
        let most = request.max_body;
        props.calls.fetched.push(request);
        Box::pin(async move {
            let Some(answer) = answer else {
                let message = "the test has no answer for this fetch".to_owned();
                return Err(FetchError { kind: FetchErrorKind::Connect, message });
            };
            tokio::time::sleep(answer.delay).await;
            let response = answer.result?;
            if response.body.len() > most {
                let message = format!("the body is larger than {most} bytes");
                return Err(FetchError { kind: FetchErrorKind::TooLarge, message });
            }
            Ok(response)
        })
    }

    fn log(&self, level: log::Level, message: &str, fields: &[(String, String)]) {
        self.props.lock().calls.logged.push((level, message.to_owned(), fields.to_vec()));
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn place(&self, _: IpAddr) -> Result<Place, String> {
        Ok(self.props.lock().place.clone())
    }

    fn key_sets(&self) -> &KeySets {
        &self.key_sets
    }

    fn upstream_healthy(&self, name: &str) -> Option<bool> {
        match &self.props.lock().upstreams {
            None => Some(true),
            Some(named) => named.get(name).copied(),
        }
    }

    fn now(&self) -> SystemTime {
        self.time()
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), String> {
        self.fill(bytes);
        Ok(())
    }
}

/// The host of the test itself: the same clock and seed, no network, and what it prints is kept.
pub struct Own {
    bench: Arc<Bench>,
    /// Empty: tests have no grants, and look at what is kept through `state()`.
    state: Arc<State>,
    key_sets: KeySets,
}

impl Own {
    pub fn new(bench: Arc<Bench>) -> Self {
        Self { bench, state: Arc::default(), key_sets: KeySets::default() }
    }
}

impl Host for Own {
    fn fetch(&self, _: FetchRequest) -> BoxFuture<'static, Result<FetchResponse, FetchError>> {
        let message = "a test has no network".to_owned();
        Box::pin(async { Err(FetchError { kind: FetchErrorKind::Denied, message }) })
    }

    fn log(&self, _: log::Level, message: &str, _: &[(String, String)]) {
        self.bench.stage().props.lock().printed.push(message.to_owned());
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn place(&self, _: IpAddr) -> Result<Place, String> {
        Ok(Place::default())
    }

    fn key_sets(&self) -> &KeySets {
        &self.key_sets
    }

    fn upstream_healthy(&self, _: &str) -> Option<bool> {
        None
    }

    fn now(&self) -> SystemTime {
        self.bench.stage().time()
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), String> {
        self.bench.stage().fill(bytes);
        Ok(())
    }
}
