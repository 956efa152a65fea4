//! `on_schedule`: a task for each entry of each filter's schedule, which waits for the next time.
//!
//! A run belongs to its snapshot: it ends when that is replaced, and when the process drains.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::filters::{Scene, Turn, label};
use crate::config::schedule::Schedule;
use crate::config::state::Namespace;
use crate::script::{Event, Exchange, Hook};
use crate::snapshot::{FilterState, Shared, Snapshot};
use crate::state::{Put, StoreError, When};
use crate::telemetry::trace::TraceContext;

/// The clock is looked at anew after so long, as it may have been set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Where runs that count once over all nodes are claimed; no configuration can name it so.
const CLAIMS: &str = "schedule:once";
/// How long a claim is remembered, which is longer than clocks of nodes differ.
const CLAIMED: Duration = Duration::from_secs(3600);

/// One entry of one filter's schedule.
struct Entry {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    filter: Arc<FilterState>,
    index: usize,
}

/// Starts the schedules of the snapshot that serves; they end with what is returned.
pub fn start(shared: &Arc<Shared>, runtime: &Handle) -> JoinSet<()> {
    let snapshot = shared.snapshot.load_full();
    let mut tasks = JoinSet::new();
    for filter in &snapshot.scheduled {
        for index in 0..filter.config.schedule.len() {
            let (shared, snapshot) = (Arc::clone(shared), Arc::clone(&snapshot));
            let entry = Entry { shared, snapshot, filter: Arc::clone(filter), index };
            tasks.spawn_on(entry.keep(), runtime);
        }
    }
    tasks
}

impl Entry {
    fn schedule(&self) -> &Schedule {
        &self.filter.config.schedule[self.index]
    }

    async fn keep(self) {
        let mut last = SystemTime::now();
        while let Some(at) = self.schedule().cron.next(last) {
            let now = SystemTime::now();
            // Due while the last run went on, once or more often.
            if at <= now {
                self.ended("skipped");
                last = now;
                continue;
            }
            sleep_until(at + self.late()).await;
            self.run(at).await;
            last = at;
        }
    }

    fn late(&self) -> Duration {
        let mut random = [0; 4];
        // Without chance a run is on time.
        let part = getrandom::fill(&mut random).map_or(0, |()| u32::from_le_bytes(random));
        self.schedule().jitter.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }

    async fn run(&self, at: SystemTime) {
        let time = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.schedule().once {
            match self.claim(time).await {
                Ok(true) => {}
                Ok(false) => return self.ended("elsewhere"),
                Err(error) => {
                    let (filter, name) = (&self.filter.config.name, &self.schedule().name);
                    log::error!("filter {filter} schedule {name}: not run: {error}");
                    return self.ended("unclaimed");
                }
            }
        }
        let exchange = Exchange::of_event(Event { name: self.schedule().name.clone(), time });
        let (shared, snapshot, trace) = (&*self.shared, &self.snapshot, TraceContext::root(true));
        let scene = Scene { shared, snapshot, trace, notes: None };
        match scene.run(&self.filter, Hook::Schedule, exchange).await {
            Turn::Ran(_, run) => self.ended(label(&run.outcome)),
            Turn::Out(_) => self.ended("out"),
        }
    }

    /// Whether this node is the one that runs.
    async fn claim(&self, time: u64) -> Result<bool, StoreError> {
        let Some(store) = &self.shared.state.store else {
            return Err(StoreError::Unavailable("there is no store"));
        };
        let namespace =
            Namespace { name: CLAIMS.to_owned(), size: 1 << 20, max_value: 0, ttl: Some(CLAIMED) };
        let key = format!("{} {} {time}", self.filter.config.name, self.schedule().name);
        let put = Put { key, value: Bytes::new(), ttl: None, when: When::Absent };
        store.put(&Arc::new(namespace), put).await
    }

    fn ended(&self, outcome: &'static str) {
        self.filter.metrics.scheduled(&self.schedule().name, outcome);
    }
}

async fn sleep_until(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now()).map(|left| left.min(LONGEST_SLEEP))
        && !left.is_zero()
    {
        tokio::time::sleep(left).await;
    }
}
