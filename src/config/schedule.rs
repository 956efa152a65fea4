//! `filters.NAME.schedule`: when a filter's `on_schedule` runs.

use std::time::Duration;

use super::cron::Cron;
use super::problem::Problems;
use super::read::{At, check_name, section};
use super::state::State;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub name: String,
    pub cron: Cron,
    /// The same as it was written.
    pub written: String,
    /// Once over all nodes that share the store.
    pub once: bool,
    /// Each run begins so much later at most.
    pub jitter: Duration,
}

section! {
    /// When `on_schedule` runs. One run at a time; what falls into one that goes on is skipped.
    pub struct RawSchedule as "schedule" {
        /// What the script reads as `ev.name`.
        name: At<String>,
        /// `minute hour day month weekday`, or with seconds before them; in UTC.
        cron: At<String>,
        /// Once over all nodes that share the store, and once where the process starts anew.
        once: At<bool> = "false",
        /// Each run begins late, by chance up to so much.
        jitter: Option<At<Duration>>,
    }
}

const LONGEST_JITTER: Duration = Duration::from_secs(3600);

pub fn resolve(raw: Vec<RawSchedule>, state: &State, problems: &mut Problems) -> Vec<Schedule> {
    let mut schedules: Vec<Schedule> = Vec::with_capacity(raw.len());
    for RawSchedule { name, cron, once, jitter } in raw {
        if let Err(message) = check_name(&name.value) {
            name.problem(problems, message, None);
        } else if schedules.iter().any(|before| before.name == name.value) {
            name.problem(problems, format!("\"{}\" is here twice", name.value), None);
        }
        if once.value && state.store.is_none() {
            let hint = Some("add state.store: { path: state.redb }".to_owned());
            once.problem(problems, "once needs a store", hint);
        }
        if let Some(jitter) = jitter.as_ref().filter(|jitter| jitter.value > LONGEST_JITTER) {
            jitter.problem(problems, "must be at most 1h", None);
        }
        match Cron::parse(&cron.value) {
            Ok(times) => {
                let once = once.value;
                let jitter = jitter.map_or(Duration::ZERO, |jitter| jitter.value);
                let (name, written) = (name.value, cron.value);
                schedules.push(Schedule { name, cron: times, written, once, jitter });
            }
            Err(message) => cron.problem(problems, message, None),
        }
    }
    schedules
}
