//! `after_response`: work that a hook leaves for when the client has its response.
//!
//! It stays on the hook's own fiber, which rests meanwhile (see `rest`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rhai::{Dynamic, EvalAltResult, FnPtr, Map};
use tokio::task::JoinSet;

use super::callback::Scene;
use super::fault::Fault;
use super::fiber::Ended;
use super::hooks::Hook;
use super::meter::RunFigures;
use super::rest::Resting;
use super::run::{Outcome, judge};

/// How the response went, for the work that comes after it.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// 0 where nothing was sent.
    pub status: u16,
    /// Of the body, as sent.
    pub bytes: u64,
    /// From the request's head to the end of the response.
    pub took: Duration,
    /// Whether the client left before the end.
    pub aborted: bool,
}

/// One call of `after_response`; it stays on its fiber.
#[derive(Clone)]
pub struct Work {
    pub function: FnPtr,
    /// Wanted as well when the client left.
    pub if_aborted: bool,
}

/// A fiber that does its work once the response has gone.
pub struct After {
    resting: Arc<Resting>,
    if_aborted: bool,
}

impl fmt::Debug for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("After").field("hook", &self.hook()).finish_non_exhaustive()
    }
}

impl After {
    pub(super) fn new(resting: Arc<Resting>, if_aborted: bool) -> Self {
        Self { resting, if_aborted }
    }

    /// The hook that left it.
    pub fn hook(&self) -> Hook {
        self.resting.hook
    }

    /// Whether there is something to do after such a response.
    pub fn is_wanted(&self, done: &Done) -> bool {
        (self.if_aborted || !done.aborted) && self.resting.fiber.lock().is_some()
    }

    /// Runs it within limits of its own, which are those of a hook. The body is over, even if not
    /// all of it came.
    pub async fn run(self, done: Done) -> (Outcome, RunFigures) {
        let Resting { script, hook, limits, fiber } = &*self.resting;
        let fiber = fiber.lock().take();
        let Some(mut fiber) = fiber else { return (Outcome::Continue, RunFigures::default()) };
        fiber.tell(*limits, Box::new(done));
        let Ended { result, stop, figures } = fiber.await;
        (judge(script, *hook, result, stop).0, figures)
    }
}

/// On the fiber, once the response has gone.
pub(super) fn run_all(scene: &Scene, work: Vec<Work>, done: &Done) -> Outcome {
    for Work { function, .. } in work.iter().filter(|work| work.if_aborted || !done.aborted) {
        let called = match scene.call(function, [facts(done)]) {
            // A closure without a parameter.
            Err(error) if is_without_parameter(&error, function) => scene.call(function, []),
            called => called,
        };
        if let Err(error) = called {
            return Outcome::Fault(Box::new(Fault::from_error(&scene.script, scene.hook, &error)));
        }
    }
    Outcome::Continue
}

fn is_without_parameter(error: &EvalAltResult, function: &FnPtr) -> bool {
    matches!(error, EvalAltResult::ErrorFunctionNotFound(signature, _)
        if signature.starts_with(function.fn_name()))
}

fn facts(done: &Done) -> Dynamic {
    let int = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
    Map::from_iter([
        ("status".into(), i64::from(done.status).into()),
        ("bytes".into(), int(done.bytes.into()).into()),
        ("ms".into(), int(done.took.as_millis()).into()),
        ("aborted".into(), done.aborted.into()),
    ])
    .into()
}

/// Work under way after responses, of the whole process.
#[derive(Default)]
pub struct AfterQueue {
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    closed: bool,
}

impl Tasks {
    fn alive(&mut self) -> usize {
        while self.set.try_join_next().is_some() {}
        self.set.len()
    }
}

impl AfterQueue {
    /// Starts a piece of work; false when there are `most` already, or at the end of the process.
    pub fn push(&self, most: usize, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = self.tasks.lock();
        if tasks.closed || tasks.alive() >= most {
            return false;
        }
        tasks.set.spawn(work);
        true
    }

    /// What is under way.
    pub fn running(&self) -> usize {
        self.tasks.lock().alive()
    }

    /// Takes nothing more, and gives what is under way so much time; tells how many did not end.
    pub async fn close(&self, patience: Duration) -> usize {
        let mut set = {
            let mut tasks = self.tasks.lock();
            tasks.closed = true;
            std::mem::take(&mut tasks.set)
        };
        let all = async { while set.join_next().await.is_some() {} };
        match tokio::time::timeout(patience, all).await {
            Ok(()) => 0,
            Err(_) => {
                let left = set.len();
                set.shutdown().await;
                left
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_and_ends_when_it_is_told() {
        let queue = AfterQueue::default();
        let ended = Arc::new(AtomicUsize::new(0));
        let brief = |ended: &Arc<AtomicUsize>| {
            let ended = Arc::clone(ended);
            async move {
                tokio::task::yield_now().await;
                ended.fetch_add(1, Relaxed);
            }
        };
        assert!(queue.push(2, brief(&ended)) && queue.push(2, std::future::pending()));
        assert!(!queue.push(2, brief(&ended)), "it is full");
        while ended.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(queue.push(2, brief(&ended)), "one has ended");
        assert_eq!(queue.close(Duration::from_millis(50)).await, 1, "one never ends");
        assert_eq!(ended.load(Relaxed), 2, "what is under way may end");
        assert!(!queue.push(2, brief(&ended)), "it is closed");
    }
}
