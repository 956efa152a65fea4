//! A reload: build the next snapshot and sockets aside, then swap; on any problem nothing changes.

use std::sync::Arc;

use serde_json::{Value, json};
use serde_yaml::Value as Yaml;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::files::Files;
use super::open_access_log;
use super::service::{Listeners, conn_limits};
use crate::admin::{Reload, Reloaded};
use crate::config::Config;
use crate::config::problem::{Pos, Problem, Problems};
use crate::snapshot::Snapshot;

/// What only a restart can change.
#[derive(Debug, PartialEq, Eq)]
pub struct Fixed {
    admin: Option<std::net::SocketAddr>,
    metrics: Option<std::net::SocketAddr>,
    /// The cache's directory.
    cache: Option<std::path::PathBuf>,
    /// The file, and what of it is kept in memory.
    store: Option<(std::path::PathBuf, usize)>,
}

impl Fixed {
    pub fn of(config: &Config) -> Self {
        Self {
            admin: config.admin.as_ref().map(|service| service.address.value.0),
            metrics: config.metrics.as_ref().map(|service| service.address.value.0),
            cache: config.cache.disk.as_ref().map(|disk| disk.path.value.clone()),
            store: config.state.store.as_ref().map(|store| (store.path.value.clone(), store.cache)),
        }
    }
}

impl Reload for Listeners {
    fn reload(&self) -> Reloaded {
        let mut files = self.reloading.lock();
        let outcome = beside_requests(|| self.swap(&mut files));
        self.shared.metrics.reloaded(outcome.is_ok());
        match &outcome {
            Ok(changes) => log::info!("reloaded: {changes}"),
            Err(problems) => {
                for problem in problems {
                    log::error!("reload refused: {problem}");
                }
            }
        }
        outcome
    }
}

impl Listeners {
    fn swap(&self, files: &mut Files) -> Reloaded {
        let config = self.input.load()?;
        if Fixed::of(&config) != self.fixed {
            return Err(self.problem(
                "the admin and metrics addresses, the store and the cache's directory change at a \
                 restart only",
            ));
        }
        let listeners = config.listeners.clone();
        let access_log = config.access_log.clone();
        let files_now = Files::of(&config);
        let previous = self.shared.snapshot.load_full();
        let next =
            Snapshot::build(config, self.input.file(), &self.shared.metrics, Some(&previous))?;
        let change =
            self.proxy.prepare(&listeners).map_err(|error| self.problem(&error.to_string()))?;
        let Some(runtime) = self.runtime.get() else {
            return Err(self.problem("the server is still starting"));
        };
        let log_changed = next.effective.get("access_log") != previous.effective.get("access_log");
        let log = match log_changed {
            true => Some(
                open_access_log(&access_log, &self.shared.metrics, self.shared.dev.is_some())
                    .map_err(|error| self.problem(&error.to_string()))?,
            ),
            false => None,
        };
        self.shared.prepare_cache(&next).map_err(|error| self.problem(&error.to_string()))?;
        // From here on nothing is refused.
        let touched = |section, name: &str| {
            files_now.changed(files, section, name)
                || section == "filters" && has_new_script(&previous, &next, name)
        };
        let changes = changes(&previous, &next, &touched);
        *files = files_now;
        self.proxy.set_limits(conn_limits(&next.limits));
        self.shared.snapshot.store(Arc::new(next));
        if let Some(log) = log {
            self.shared.access_log.store(log.map(Arc::new));
        }
        let _runtime = runtime.enter();
        let applied = self.proxy.apply(change).map_err(|error| self.problem(&error.to_string()))?;
        for (name, address) in applied.closed {
            log::info!("closed: {name} on {address}");
        }
        for (name, address) in applied.opened {
            log::info!("listening: {name} on {address}");
        }
        self.start_watches(runtime);
        self.start_schedules(runtime);
        self.shared.prune(&previous);
        Ok(changes)
    }

    fn problem(&self, message: &str) -> Vec<Problem> {
        let mut problems = Problems::new(self.input.file());
        problems.add(Pos::default(), "", message, None);
        problems.into_sorted()
    }
}

/// Compiling scripts and running their tests takes a while: other workers take over meanwhile what
/// this one would have served.
fn beside_requests<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Whether a filter was compiled from another text than before, imports included.
fn has_new_script(before: &Snapshot, after: &Snapshot, name: &str) -> bool {
    let script = |snapshot: &Snapshot| {
        let mut filters = snapshot.routes.iter().flat_map(|route| &route.filters);
        filters.find(|filter| &*filter.config.name == name).map(|filter| filter.script.clone())
    };
    match (script(before), script(after)) {
        (Some(before), Some(after)) => !after.has_sources_of(&before),
        _ => false,
    }
}

/// Names added, removed and changed in each named section, and the other sections that changed. `touched` tells of what changed
/// behind a name.
fn changes(
    before: &Snapshot,
    after: &Snapshot,
    touched: &dyn Fn(&'static str, &str) -> bool,
) -> Value {
    let mut changes = json!({ "version": after.version });
    for section in ["listeners", "upstreams", "filters", "routes"] {
        let (old, new) = (entries(&before.effective, section), entries(&after.effective, section));
        let find = |entries: &[(String, Yaml)], name: &str| {
            entries.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        let names = |entries: &[(String, Yaml)], keep: &dyn Fn(&str, &Yaml) -> bool| {
            let kept = entries.iter().filter(|(name, value)| keep(name, value));
            kept.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        changes[section] = json!({
            "added": names(&new, &|name, _| find(&old, name).is_none()),
            "removed": names(&old, &|name, _| find(&new, name).is_none()),
            "changed": names(&new, &|name, value| {
                find(&old, name).is_some_and(|o| o != *value || touched(section, name))
            }),
        });
    }
    let settings = ["trusted_proxies", "state", "cache", "access_log", "limits"];
    let changed =
        settings.iter().filter(|key| before.effective.get(key) != after.effective.get(key));
    changes["settings"] = json!({ "changed": changed.collect::<Vec<_>>() });
    changes
}

/// A section's entries by name: a mapping's own, or a list's by their `name`.
fn entries(effective: &Yaml, section: &str) -> Vec<(String, Yaml)> {
    let text = |value: &Yaml| value.as_str().unwrap_or_default().to_owned();
    match effective.get(section) {
        Some(Yaml::Mapping(map)) => map.iter().map(|(k, v)| (text(k), v.clone())).collect(),
        Some(Yaml::Sequence(list)) => {
            list.iter().map(|v| (v.get("name").map(text).unwrap_or_default(), v.clone())).collect()
        }
        _ => Vec::new(),
    }
}
