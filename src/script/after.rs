//! `after_response`: work that a hook leaves for when the client has its response.
//!
//! Script values never leave their fiber, so the hook's own fiber stays where it is, with what the
//! work captured on its stack. It hands out what the hook made, rests, and goes on by the end.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rhai::{Dynamic, EvalAltResult, FnPtr, Map, NativeCallContext, Position};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::compile::Script;
use super::exchange::Exchange;
use super::fault::Fault;
use super::fiber::{self, Ended, Fiber};
use super::hooks::Hook;
use super::meter::RunFigures;
use super::run::{Left, Outcome, outcome_of};

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

/// A fiber that rests until the response has gone.
pub struct After {
    script: Arc<Script>,
    hook: Hook,
    fiber: Fiber<Box<Left>>,
    go: oneshot::Sender<Done>,
    if_aborted: bool,
}

/// What a resting fiber hands out.
struct Handed {
    left: Box<Left>,
    go: oneshot::Sender<Done>,
    if_aborted: bool,
}

impl fmt::Debug for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("After").field("hook", &self.hook).finish_non_exhaustive()
    }
}

impl After {
    /// The hook's end, as if its fiber had ended, and what rests.
    pub(super) fn resting(
        script: &Arc<Script>,
        hook: Hook,
        fiber: Fiber<Box<Left>>,
        handed: Box<dyn Any + Send>,
    ) -> (Ended<Box<Left>>, Option<Self>) {
        let figures = fiber.figures();
        let Ok(handed) = handed.downcast::<Handed>() else {
            let result = Err("a fiber rests with something else".to_owned());
            return (Ended { result, stop: None, figures }, None);
        };
        let Handed { left, go, if_aborted } = *handed;
        let after = Self { script: Arc::clone(script), hook, fiber, go, if_aborted };
        (Ended { result: Ok(left), stop: None, figures }, Some(after))
    }

    /// The hook that left it.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Whether there is something to do after such a response.
    pub fn is_wanted(&self, done: &Done) -> bool {
        self.if_aborted || !done.aborted
    }

    /// Runs it within limits of its own, which are those of a hook.
    pub async fn run(self, done: Done) -> (Outcome, RunFigures) {
        let Self { script, hook, fiber, go, .. } = self;
        // The receiver is on the fiber, which we hold.
        let _ = go.send(done);
        let Ended { result, stop, figures } = fiber.await;
        (outcome_of(&script, hook, result, stop).0, figures)
    }
}

/// On the fiber, at the end of a hook that left work: hands out what the hook made, and does the
/// work once the response has gone.
pub(super) fn rest(
    script: &Script,
    hook: Hook,
    tag: Dynamic,
    work: Vec<Work>,
    left: Box<Left>,
) -> Box<Left> {
    let (exchange, reached): (Exchange, bool) = (left.exchange.clone(), left.reached);
    let (go, gone) = oneshot::channel();
    let if_aborted = work.iter().any(|work| work.if_aborted);
    let outcome = match fiber::rest(Handed { left, go, if_aborted }, gone) {
        Some(Ok(done)) => match run_all(script, tag, work, &done) {
            Ok(()) => Outcome::Continue,
            Err(error) => Outcome::Fault(Box::new(Fault::from_error(script, hook, &error))),
        },
        // Nobody wants it any more.
        Some(Err(_)) | None => Outcome::Continue,
    };
    Box::new(Left { outcome, exchange, reached })
}

fn run_all(
    script: &Script,
    tag: Dynamic,
    work: Vec<Work>,
    done: &Done,
) -> Result<(), Box<EvalAltResult>> {
    let mut global = script.engine.new_global_runtime_state();
    global.tag = tag;
    global.source = script.ast.source().map(Into::into);
    global.lib.push(script.library());
    let name = "after_response";
    let context: NativeCallContext = (&script.engine, name, None, &global, Position::NONE).into();
    for Work { function, .. } in work.iter().filter(|work| work.if_aborted || !done.aborted) {
        match function.call_raw(&context, None, [facts(done)]) {
            // A closure without a parameter.
            Err(error) if is_without_parameter(&error, function) => {
                drop(function.call_raw(&context, None, [])?);
            }
            called => drop(called?),
        }
    }
    Ok(())
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
