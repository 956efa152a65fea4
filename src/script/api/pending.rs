//! `fetch_start`: fetches that run beside the script, as tasks of their own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use rhai::{Map, NativeCallContext};
use tokio::task::JoinHandle;

use super::fetch::{Fetched, Running, begin, raised, response};
use super::objects::Response;
use super::state::wait;
use super::table::Table;
use super::{Outcome, fail};

pub fn area(table: &mut Table) {
    table
        .function(
            "fetch_start(url, options)",
            "Starts a fetch that proceeds while the script goes on, and ends with the hook.",
            |c: NativeCallContext, url: &str, options: Map| Pending::start(&c, url, &options),
        )
        .overload("fetch_start(url)", |c: NativeCallContext, url: &str| {
            Pending::start(&c, url, &Map::new())
        })
        .example(r#"let a = fetch_start("http://api/a"); let b = fetch_start("http://api/b"); a.wait().ok && b.wait().ok"#)
        .function("pending.wait()", "The response, once it is there.", Pending::wait)
        .example(r#"fetch_start("http://api/").wait().status == 200"#)
        .get("pending.done", "Whether it has ended or was cancelled.", |p: &mut Pending| p.done())
        .example(r#"let p = fetch_start("http://api/"); p.wait(); p.done"#)
        .function("pending.cancel()", "Ends it; the connection is closed.", Pending::cancel)
        .example(r#"let p = fetch_start("http://api/"); p.cancel(); p.done"#);
}

/// A task that ends with its handle.
struct Task(JoinHandle<Fetched>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Slot {
    Running(Task),
    Done(Fetched),
    Cancelled,
}

/// A fetch that runs beside the script. All copies of the handle are the same fetch.
#[derive(Clone)]
pub struct Pending(Arc<Mutex<Slot>>);

impl Pending {
    fn start(context: &NativeCallContext, url: &str, options: &Map) -> Outcome<Self> {
        let running: Running = begin(context, url, options)?;
        // Spawned by the driver: the task's memory outlives the run, so it is not the script's.
        let task = wait(async move { Task(tokio::spawn(running)) })?;
        Ok(Self(Arc::new(Mutex::new(Slot::Running(task)))))
    }

    fn wait(&mut self) -> Outcome<Response> {
        wait(Ended(self.0.clone()))?;
        match &*self.0.lock() {
            Slot::Done(fetched) => fetched.clone().map(response).map_err(|e| raised(&e)),
            Slot::Running(_) | Slot::Cancelled => {
                Err(fail("unavailable", "this fetch was cancelled"))
            }
        }
    }

    fn done(&mut self) -> bool {
        match &*self.0.lock() {
            Slot::Running(task) => task.0.is_finished(),
            Slot::Done(_) | Slot::Cancelled => true,
        }
    }

    /// A response that is there already stays.
    fn cancel(&mut self) {
        let mut slot = self.0.lock();
        if let Slot::Running(_) = &*slot {
            *slot = Slot::Cancelled;
        }
    }
}

/// Ready when the task is over.
struct Ended(Arc<Mutex<Slot>>);

impl Future for Ended {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.0.lock();
        let Slot::Running(task) = &mut *slot else { return Poll::Ready(()) };
        let Poll::Ready(joined) = Pin::new(&mut task.0).poll(cx) else { return Poll::Pending };
        // A task that panicked is as good as cancelled.
        *slot = joined.map_or(Slot::Cancelled, Slot::Done);
        Poll::Ready(())
    }
}
