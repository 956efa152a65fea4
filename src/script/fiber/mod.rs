//! Fibers: a synchronous closure (a script's run) on its own stack, as a `Future`.
//!
//! All `unsafe` of the crate is in this folder. A native that has to wait calls [`wait`], which
//! hands its future to [`Fiber::poll`]; that polls it on the worker's own stack.
//!
//! What a switch must not carry over: addresses of thread-locals (see `registers`), locks held
//! (natives release theirs before they wait), a panic in flight (asserted in [`suspend`]).

mod alloc;
mod gauge;
mod registers;
mod stack;
mod usage;

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use corosensei::{Coroutine, CoroutineResult, Yielder};

pub use alloc::CountingAlloc;
pub use gauge::{Stop, charge, progress, refund};
pub use registers::{held, room};
pub use stack::NoStack;

use super::meter::{Limits, RunFigures};
use gauge::{Computing, Gauge};

type Wait = Pin<Box<dyn Future<Output = Box<dyn Any + Send>> + Send>>;

/// Why a fiber gives the thread back.
enum Suspend {
    /// It ran for a slice.
    Slice,
    /// It waits for a future.
    Wait(Wait),
    /// It hands this out, and waits for a future for as long as that takes.
    Rest(Box<dyn Any + Send>, Wait),
}

/// What a fiber is told when it goes on.
enum Resume {
    Go,
    Value(Box<dyn Any + Send>),
    /// The gauge says why.
    Stop,
}

/// The end of a fiber.
pub struct Ended<R> {
    /// The closure's result, or the text of its panic.
    pub result: Result<R, String>,
    pub stop: Option<Stop>,
    pub figures: RunFigures,
}

/// How far a fiber came.
pub enum Turn<R> {
    Ended(Ended<R>),
    /// It hands this out and waits to be needed again.
    Rests(Box<dyn Any + Send>),
}

type Coro<R> = Coroutine<Resume, Suspend, Result<R, String>, stack::FiberStack>;

/// A closure on its own stack. Dropped before its end, it stops the closure first.
pub struct Fiber<R: Send + 'static> {
    coroutine: Option<Coro<R>>,
    waiting: Option<Wait>,
    /// What it waits for has no time limit.
    resting: bool,
    /// What it hands out, until it is taken.
    handed: Option<Box<dyn Any + Send>>,
    slice: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    /// From the end of its first slice to its next wait.
    computing: Option<Computing>,
    gauge: Box<Gauge>,
}

// SAFETY: corosensei's coroutine is not Send because anything may live on its stack. On ours live
// only: frames of Rhai 1.27 built with `sync` (its values are Send, it has no thread-locals), our
// natives, whose locals are Send and which hold no lock across `wait`, and the closure, which is
// Send. Futures that wait are moved off the stack and are Send. Thread-locals are read in
// functions that never inline and never suspend. `suspend` refuses to switch during a panic. The
// raw pointers in the gauge point into the fiber's own stack and are used only while it runs.
unsafe impl<R: Send + 'static> Send for Fiber<R> {}

impl<R: Send + 'static> Fiber<R> {
    pub fn new(limits: Limits, run: impl FnOnce() -> R + Send + 'static) -> Result<Self, NoStack> {
        let stack = stack::take(limits.fibers)?;
        let gauge = Box::new(Gauge::new(limits, &stack));
        let body = move |yielder: &Yielder<Resume, Suspend>, _: Resume| {
            // SAFETY: a body runs only inside `resume`, which has set this fiber's gauge, and the
            // fiber owns the box.
            unsafe { &*registers::gauge() }.yielder.set(yielder);
            // The closure and its captures are gone when this returns.
            catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_text(&*panic))
        };
        let coroutine = Some(Coroutine::with_stack(stack, body));
        Ok(Self {
            coroutine,
            waiting: None,
            resting: false,
            handed: None,
            slice: None,
            deadline: None,
            computing: None,
            gauge,
        })
    }

    /// Runs it to its end, or to where it rests.
    pub async fn turn(&mut self) -> Turn<R> {
        std::future::poll_fn(|cx| match Pin::new(&mut *self).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Turn::Ended(ended)),
            Poll::Pending => {
                self.handed.take().map_or(Poll::Pending, |h| Poll::Ready(Turn::Rests(h)))
            }
        })
        .await
    }

    /// What it used so far; since it rested, what it used since then.
    pub fn figures(&self) -> RunFigures {
        self.gauge.figures()
    }

    fn resume(&mut self, resume: Resume) -> Option<CoroutineResult<Suspend, Result<R, String>>> {
        let coroutine = self.coroutine.as_mut()?;
        let outer = self.gauge.enter();
        let result = coroutine.resume(resume);
        self.gauge.leave(outer);
        Some(result)
    }

    fn ended(&mut self, result: Result<R, String>) -> Ended<R> {
        self.computing = None;
        if let Some(coroutine) = self.coroutine.take() {
            stack::give_back(coroutine.into_stack(), self.gauge.is_deep());
        }
        Ended { result, stop: self.gauge.stopped(), figures: self.gauge.figures() }
    }

    /// What to resume with, once nothing is waited for.
    fn poll_waits(&mut self, cx: &mut Context<'_>) -> Poll<Resume> {
        if let Some(slice) = &mut self.slice {
            if slice.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.slice = None;
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Resume::Go) };
        if let Poll::Ready(value) = waiting.as_mut().poll(cx) {
            self.waiting = None;
            self.deadline = None;
            if std::mem::take(&mut self.resting) {
                self.gauge.renew();
            }
            return Poll::Ready(Resume::Value(value));
        }
        if self.resting {
            return Poll::Pending;
        }
        let left = self.gauge.wall_left();
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        if deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.waiting = None;
        self.gauge.stop(Stop::Limit(self.gauge.wall_hit()));
        Poll::Ready(Resume::Stop)
    }
}

impl<R: Send + 'static> Unpin for Fiber<R> {}

impl<R: Send + 'static> Future for Fiber<R> {
    type Output = Ended<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<R>> {
        let fiber = &mut *self;
        loop {
            let Poll::Ready(resume) = fiber.poll_waits(cx) else { return Poll::Pending };
            match fiber.resume(resume) {
                // Polled after its end, which the contract of `Future` leaves open.
                None => return Poll::Pending,
                Some(CoroutineResult::Return(result)) => {
                    return Poll::Ready(fiber.ended(result));
                }
                // tokio's yield_now wakes us only after the I/O and timer drivers have run.
                Some(CoroutineResult::Yield(Suspend::Slice)) => {
                    fiber.slice = Some(Box::pin(tokio::task::yield_now()));
                    fiber.computing.get_or_insert_with(Computing::begin);
                }
                Some(CoroutineResult::Yield(Suspend::Wait(wait))) => {
                    fiber.waiting = Some(wait);
                    fiber.computing = None;
                }
                Some(CoroutineResult::Yield(Suspend::Rest(handed, wait))) => {
                    (fiber.waiting, fiber.handed) = (Some(wait), Some(handed));
                    (fiber.resting, fiber.computing) = (true, None);
                }
            }
        }
    }
}

impl<R: Send + 'static> Drop for Fiber<R> {
    /// Lets the frames return by an error that no script can catch; never unwinds them by force.
    fn drop(&mut self) {
        self.waiting = None;
        /// Each wait that follows fails at once, so one is enough; the rest is caution.
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            match &self.coroutine {
                Some(coroutine) if coroutine.started() => {}
                // Never started: dropping the coroutine drops the closure, and unmaps the stack.
                Some(_) => {
                    self.coroutine = None;
                    return stack::forget();
                }
                None => return,
            }
            self.gauge.stop(Stop::Dropped);
            if let Some(CoroutineResult::Return(result)) = self.resume(Resume::Stop) {
                self.ended(result);
                return;
            }
        }
        // A body that will not end would be unwound by force: leak it rather.
        std::mem::forget(self.coroutine.take());
        stack::forget();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

/// Switches to the fiber's driver, and back when it is resumed.
#[inline(never)]
fn suspend(gauge: &Gauge, why: Suspend) -> Resume {
    assert!(!std::thread::panicking(), "a fiber must not switch during a panic");
    // SAFETY: the yielder lives on this fiber's stack as long as its body runs, which it does:
    // we are called from it.
    unsafe { (*gauge.yielder.get()).suspend(why) }
}

/// Why a native could not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotWait {
    /// The run has to end; the caller returns the engine's uncatchable error.
    Stopped,
    /// Not on a fiber: a script's top level.
    NotOnFiber,
}

/// For natives: suspends the running script until the future is done. Hold no lock.
#[inline(never)]
pub fn wait<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, CannotWait> {
    let gauge = registers::gauge();
    if gauge.is_null() {
        return Err(CannotWait::NotOnFiber);
    }
    // SAFETY: set only while this fiber runs on this thread; the fiber owns the box.
    let gauge = unsafe { &*gauge };
    let marker = 0u8;
    if !gauge.check(std::ptr::addr_of!(marker) as usize) {
        return Err(CannotWait::Stopped);
    }
    gauge.trim_stack();
    gauge.count_wait();
    value_of(suspend(gauge, Suspend::Wait(boxed(future)))).ok_or(CannotWait::Stopped)
}

/// Hands something out to who drives this fiber, and suspends it until the future is done, however
/// long that takes. From then on its limits are new ones. None if the fiber has to end. Hold no lock.
#[inline(never)]
pub fn rest<T: Send + 'static>(
    handed: impl Any + Send,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let gauge = registers::gauge();
    if gauge.is_null() {
        return None;
    }
    // SAFETY: set only while this fiber runs on this thread; the fiber owns the box.
    let gauge = unsafe { &*gauge };
    gauge.trim_stack();
    value_of(suspend(gauge, Suspend::Rest(Box::new(handed), boxed(future))))
}

fn boxed<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Wait {
    Box::pin(async move { Box::new(unpanicked(future).await) as Box<dyn Any + Send> })
}

fn value_of<T: 'static>(resume: Resume) -> Option<T> {
    let Resume::Value(value) = resume else { return None };
    match *value.downcast::<std::thread::Result<T>>().ok()? {
        Ok(value) => Some(value),
        // Goes on here, where the fiber's end catches it like any native's.
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A panic of a future as a value: the driver, who polls it, shall not meet it.
async fn unpanicked<T>(future: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
