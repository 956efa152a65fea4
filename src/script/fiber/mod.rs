//! Fibers: a synchronous closure (a script's run) on its own stack, as a `Future`.
//!
//! All `unsafe` of the crate is in this folder. A native that has to wait calls [`wait`], which
//! hands its future to [`Fiber::poll`]; that polls it on the worker's own stack. A closure that
//! has a part of its result, and more to do when it is needed again, hands that out by [`rest`].
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

pub use alloc::{CELL_BYTES, CountingAlloc};
pub use gauge::{Stop, burn, charge, progress, refund};
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
    /// It hands this out, and waits to be told to go on.
    Rest(Box<dyn Any + Send>),
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
    /// It hands this out and waits to be told to go on.
    Rests(Box<dyn Any + Send>),
}

type Coro<R> = Coroutine<Resume, Suspend, Result<R, String>, stack::FiberStack>;

/// A closure on its own stack. Dropped before its end, it stops the closure first.
pub struct Fiber<R: Send + 'static> {
    coroutine: Option<Coro<R>>,
    waiting: Option<Wait>,
    /// Whether it waits in [`rest`], until it is told to go on.
    resting: bool,
    /// What it hands out, until it is taken.
    handed: Option<Box<dyn Any + Send>>,
    /// What it goes on with.
    told: Option<Box<dyn Any + Send>>,
    slice: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    /// From the end of its first slice to its next wait.
    computing: Option<Computing>,
    gauge: Box<Gauge>,
}

// SAFETY: corosensei's coroutine is not Send because anything may live on its stack. On ours live
// only: frames of Rhai 1.27 built with `sync` (its values are Send, it has no thread-locals), of
// lol_html's rewriter for Send handlers (which has none either) under a callback, our natives,
// whose locals are Send and which hold no lock across `wait`, and the closure, which is Send.
// Futures that wait are moved off the stack and are Send, and so is what is handed out and told.
// Thread-locals are read in functions that never inline and never suspend. `suspend` refuses to
// switch during a panic. The raw pointers in the gauge point into the fiber's own stack and are
// used only while it runs.
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
            told: None,
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

    /// Lets a resting fiber go on with what it is told, within limits that begin anew.
    pub fn tell(&mut self, limits: Limits, told: Box<dyn Any + Send>) {
        self.resting = false;
        self.told = Some(told);
        self.gauge.renew(limits);
    }

    /// As [`Fiber::turn`], without giving the thread back.
    ///
    /// Nothing can be waited for: slices follow each other at once, so the limits have to be such
    /// as a worker thread can bear, and the closure has to forbid waits (see [`forbid_waits`]).
    pub fn turn_at_once(&mut self) -> Turn<R> {
        let mut resume = self.told.take().map_or(Resume::Go, Resume::Value);
        loop {
            resume = match self.resume(resume) {
                None => return Turn::Ended(self.ended(Err("the fiber had ended".to_owned()))),
                Some(CoroutineResult::Return(result)) => return Turn::Ended(self.ended(result)),
                Some(CoroutineResult::Yield(Suspend::Rest(handed))) => {
                    self.resting = true;
                    return Turn::Rests(handed);
                }
                Some(CoroutineResult::Yield(Suspend::Slice)) => Resume::Go,
                // It was not forbidden: the future is dropped, and the run stops.
                Some(CoroutineResult::Yield(Suspend::Wait(_))) => {
                    self.gauge.stop(Stop::Dropped);
                    Resume::Stop
                }
            };
        }
    }

    /// What it used so far; once it was told to go on, what it used since then.
    pub fn figures(&self) -> RunFigures {
        self.gauge.figures()
    }

    /// Why it has to stop, if it has to.
    pub fn stopped(&self) -> Option<Stop> {
        self.gauge.stopped()
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
        if self.resting {
            return Poll::Pending;
        }
        if let Some(told) = self.told.take() {
            return Poll::Ready(Resume::Value(told));
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Resume::Go) };
        if let Poll::Ready(value) = waiting.as_mut().poll(cx) {
            self.waiting = None;
            self.deadline = None;
            return Poll::Ready(Resume::Value(value));
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

    /// Pending while it rests.
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
                Some(CoroutineResult::Yield(Suspend::Rest(handed))) => {
                    fiber.handed = Some(handed);
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
    /// In a callback on a body, whose pieces pass by without a wait.
    InBody,
}

/// From here on, or no longer, the running script may not wait.
#[inline(never)]
pub fn forbid_waits(forbidden: bool) {
    let gauge = registers::gauge();
    if !gauge.is_null() {
        // SAFETY: as in `wait`.
        unsafe { &*gauge }.forbid_waits(forbidden);
    }
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
    if gauge.may_not_wait() {
        return Err(CannotWait::InBody);
    }
    let marker = 0u8;
    if !gauge.check(std::ptr::addr_of!(marker) as usize) {
        return Err(CannotWait::Stopped);
    }
    gauge.trim_stack();
    gauge.count_wait();
    value_of(suspend(gauge, Suspend::Wait(boxed(future)))).ok_or(CannotWait::Stopped)
}

/// Hands something out to who drives this fiber, and rests until [`Fiber::tell`], whose limits hold
/// from then on; gives what it is told. None if the fiber has to end. Hold no lock.
#[inline(never)]
pub fn rest(handed: Box<dyn Any + Send>) -> Option<Box<dyn Any + Send>> {
    let gauge = registers::gauge();
    if gauge.is_null() {
        return None;
    }
    // SAFETY: as in `wait`.
    let gauge = unsafe { &*gauge };
    gauge.trim_stack();
    match suspend(gauge, Suspend::Rest(handed)) {
        Resume::Value(told) => Some(told),
        Resume::Go | Resume::Stop => None,
    }
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
