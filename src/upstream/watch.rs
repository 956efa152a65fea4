//! What goes on with a pool beside its requests: checks, discovery, comparing and releasing
//! endpoints. It runs as long as its snapshot serves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::client::Client;
use super::clock;
use super::discovery;
use super::health;
use super::outlier;
use super::pool::Pool;
use crate::config::upstreams::Address;

/// How closely the end of an ejection is kept to.
const TICK: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(1);

/// Ticks in the shortest time that is configured.
const TICKS: u32 = 10;

/// All that runs for a pool, which ends when this is dropped.
#[must_use = "the watch ends when this is dropped"]
pub struct WatchTask {
    _tasks: JoinSet<()>,
}

/// Starts the watch over `pool` on `runtime`.
pub fn spawn(pool: &Arc<Pool>, client: &Arc<Client>, runtime: &Handle) -> WatchTask {
    pool.show_all();
    let (mut tasks, config) = (JoinSet::new(), pool.config());
    if config.outlier.is_some() || config.slow_start.is_some() {
        tasks.spawn_on(tend(Arc::clone(pool)), runtime);
    }
    if config.health.is_some() {
        tasks.spawn_on(check(Arc::clone(pool), Arc::clone(client)), runtime);
    }
    if let Some(discovery) = config.discovery.clone() {
        tasks.spawn_on(discovery::run(Arc::clone(pool), discovery), runtime);
    }
    WatchTask { _tasks: tasks }
}

/// Ends ejections, compares endpoints, and lets shares follow what warms up.
async fn tend(pool: Arc<Pool>) {
    let outlier = pool.config().outlier.as_ref();
    let times = outlier.map(|outlier| outlier.interval.min(outlier.ejection));
    let shortest = times.into_iter().chain(pool.config().slow_start).min();
    let tick = (shortest.unwrap_or(*TICK.end()) / TICKS).clamp(*TICK.start(), *TICK.end());
    let mut compared = Instant::now();
    loop {
        tokio::time::sleep(tick).await;
        outlier::release(&pool, clock::now());
        if outlier.is_some_and(|outlier| compared.elapsed() >= outlier.interval) {
            compared = Instant::now();
            outlier::compare(&pool);
        }
        pool.refresh();
    }
}

/// Checks every endpoint that the pool has, and those that it gets.
async fn check(pool: Arc<Pool>, client: Arc<Client>) {
    let mut running = JoinSet::new();
    let mut checks: HashMap<Address, AbortHandle> = HashMap::new();
    loop {
        let members = pool.balancer().members().to_vec();
        checks.retain(|address, check| {
            let stays = members.iter().any(|member| member.endpoint.address() == address);
            if !stays {
                check.abort();
            }
            stays
        });
        for member in members {
            checks.entry(member.endpoint.address().clone()).or_insert_with(|| {
                running.spawn(health::run(Arc::clone(&pool), member.endpoint, Arc::clone(&client)))
            });
        }
        pool.changed().await;
        while running.try_join_next().is_some() {}
    }
}
