//! The world that a filter under test sees: prepared answers, a clock that stands still, a seed.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::answers::Answers;
use crate::script::host::{
    BoxFuture, FetchError, FetchErrorKind, FetchRequest, FetchResponse, Host, LogLine,
};

/// 2026-01-01T00:00:00Z, where every test begins.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// One test's world.
pub struct Stage(Mutex<Props>);

struct Props {
    /// The time of day when the fake clock showed `since`.
    time: Duration,
    since: Instant,
    seed: u64,
    answers: Answers,
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
    pub fn new() -> Self {
        Self(Mutex::new(Props {
            time: BEGIN,
            since: Instant::now(),
            seed: 0,
            answers: Answers::default(),
            calls: Calls::default(),
            printed: Vec::new(),
        }))
    }

    /// A new test begins, on a runtime of its own.
    pub fn reset(&self) {
        *self.0.lock() = Self::new().0.into_inner();
    }

    /// A new request begins.
    pub fn answer_with(&self, answers: Answers) {
        let mut props = self.0.lock();
        (props.answers, props.calls) = (answers, Calls::default());
    }

    pub fn take_calls(&self) -> Calls {
        std::mem::take(&mut self.0.lock().calls)
    }

    pub fn take_printed(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().printed)
    }

    /// Sets the time of day, as seconds since 1970.
    pub fn freeze(&self, time: Duration) {
        let mut props = self.0.lock();
        (props.time, props.since) = (time, Instant::now());
    }

    pub fn advance(&self, by: Duration) {
        let mut props = self.0.lock();
        props.time = props.time.saturating_add(by);
    }

    pub fn seed(&self, seed: u64) {
        self.0.lock().seed = seed;
    }

    fn time(&self) -> SystemTime {
        let props = self.0.lock();
        UNIX_EPOCH + props.time + props.since.elapsed()
    }

    /// SplitMix64, which is all that a test's randomness needs.
    fn fill(&self, bytes: &mut [u8]) {
        let mut props = self.0.lock();
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

impl Host for Stage {
    fn fetch(
        &self,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<FetchResponse, FetchError>> {
        let mut props = self.0.lock();
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
        self.0.lock().calls.logged.push((level, message.to_owned(), fields.to_vec()));
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
pub struct Own(pub Arc<Stage>);

impl Host for Own {
    fn fetch(&self, _: FetchRequest) -> BoxFuture<'static, Result<FetchResponse, FetchError>> {
        let message = "a test has no network".to_owned();
        Box::pin(async { Err(FetchError { kind: FetchErrorKind::Denied, message }) })
    }

    fn log(&self, _: log::Level, message: &str, _: &[(String, String)]) {
        self.0.0.lock().printed.push(message.to_owned());
    }

    fn now(&self) -> SystemTime {
        self.0.time()
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), String> {
        self.0.fill(bytes);
        Ok(())
    }
}
