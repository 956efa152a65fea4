//! `selvedge check --grants`: what each filter may reach and use, for whoever reviews it.

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::config::body::{BodyAccess, BodyMode};
use crate::config::filters::{Filter, OnFault, Origin, Tests};
use crate::config::state::Access;
use crate::config::values::{show_duration, show_size};
use crate::script::{Diagnostic, Hook, Script, compile};
use crate::state::Lists;

/// What the configuration grants one filter, and where it is used.
pub struct Grants<'c> {
    filter: &'c Filter,
    script: Script,
    routes: Vec<&'c str>,
    upstreams: Vec<&'c str>,
}

impl<'c> Grants<'c> {
    /// Of all filters, in the order of the configuration.
    pub fn of(config: &'c Config, lists: &Lists) -> Result<Vec<Self>, Vec<Diagnostic>> {
        let one = |(index, filter): (usize, &'c Filter)| {
            let routes = config.routes.iter().filter(|route| route.filters.contains(&index));
            Ok(Self {
                filter,
                script: compile(filter, lists)?,
                routes: routes.map(|route| &*route.name).collect(),
                upstreams: config.upstreams.iter().map(|upstream| &*upstream.name).collect(),
            })
        };
        config.filters.iter().enumerate().map(one).collect()
    }

    pub fn json(&self) -> Value {
        let Filter { name, script, secrets, fetch, body, state, schedule, limits, .. } =
            self.filter;
        json!({
            "name": &**name,
            "script": script,
            "hooks": self.hooks(),
            "routes": self.routes,
            "fetch": {
                "allow": fetch.allow.iter().map(|origin| json!({
                    "origin": origin.to_string(),
                    "upstream": self.is_upstream(origin),
                })).collect::<Vec<_>>(),
                "max": fetch.max,
                "timeout": show_duration(fetch.timeout),
                "max_body": fetch.max_body,
            },
            "body": {
                "request": access(body.request),
                "response": access(body.response),
                "limit": body.limit,
            },
            "secrets": secrets.keys().collect::<Vec<_>>(),
            "kv": state.kv.iter().map(|(name, (_, access))| (name.clone(), shown(*access).into()))
                .collect::<Map<String, Value>>(),
            "rate_limits": state.rate_limits.keys().collect::<Vec<_>>(),
            "counters": state.counters,
            "locks": state.locks,
            "schedule": schedule.iter().map(|entry| json!({
                "name": entry.name,
                "cron": entry.written,
                "once": entry.once,
            })).collect::<Vec<_>>(),
            "dicts": state.dicts,
            "ipsets": state.ipsets,
            "limits": {
                "cpu": show_duration(limits.cpu),
                "wall": show_duration(limits.wall),
                "memory": limits.memory,
                "operations": limits.operations,
            },
            "on_fault": on_fault(self.filter),
            "tests": tests(self.filter),
        })
    }

    /// As a paragraph; a line for each kind of grant, also for those that it does not have.
    pub fn text(&self) -> String {
        let Filter { name, script, secrets, limits, .. } = self.filter;
        let secrets: Vec<&str> = secrets.keys().map(String::as_str).collect();
        let (cpu, wall) = (show_duration(limits.cpu), show_duration(limits.wall));
        let (memory, operations) = (show_size(limits.memory as u64), limits.operations);
        let mut text = format!("{name}: {}\n", script.display());
        for (what, value) in [
            ("hooks", self.hooks().join(", ")),
            ("routes", or_none(&self.routes)),
            ("fetch", self.fetch()),
            ("secrets", or_none(&secrets)),
            ("keeps", self.keeps()),
            ("reads", self.reads()),
            ("runs", self.runs()),
            ("bodies", self.bodies()),
            ("limits", format!("cpu {cpu}, wall {wall}, memory {memory}, operations {operations}")),
            ("on fault", on_fault(self.filter).to_owned()),
            ("tests", tests(self.filter).to_owned()),
        ] {
            text.push_str(&format!("    {what:<9}{value}\n"));
        }
        text
    }

    fn hooks(&self) -> Vec<&'static str> {
        let defined = Hook::ALL.into_iter().filter(|hook| self.script.has(*hook));
        defined.map(Hook::name).collect()
    }

    fn fetch(&self) -> String {
        let fetch = &self.filter.fetch;
        if fetch.allow.is_empty() {
            return "nothing".to_owned();
        }
        let shown = fetch.allow.iter().map(|origin| match self.is_upstream(origin) {
            true => format!("{origin} (upstream)"),
            false => origin.to_string(),
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        let (max, timeout) = (fetch.max, show_duration(fetch.timeout));
        let body = show_size(fetch.max_body as u64);
        format!("{shown}; at most {max} for a request, {timeout} and {body} each")
    }

    fn bodies(&self) -> String {
        let BodyAccess { request, response, limit } = self.filter.body;
        let held = [("requests", request), ("responses", response)];
        let held = held.into_iter().filter(|(_, access)| *access == BodyMode::Buffer);
        let held: Vec<&str> = held.map(|(what, _)| what).collect();
        match held.is_empty() {
            true => "stream past, none is kept".to_owned(),
            false => {
                let (held, limit) = (held.join(" and "), show_size(limit as u64));
                format!("{held} are held whole, up to {limit} each")
            }
        }
    }

    /// What requests share.
    fn keeps(&self) -> String {
        let state = &self.filter.state;
        let kv =
            state.kv.iter().map(|(name, (_, access))| format!("kv {name} ({})", shown(*access)));
        let limits = state.rate_limits.keys().map(|name| format!("rate limit {name}"));
        let counters = state.counters.iter().map(|name| format!("counter {name}"));
        let locks = state.locks.iter().map(|name| format!("lock {name}"));
        listed(kv.chain(limits).chain(counters).chain(locks))
    }

    /// By the clock.
    fn runs(&self) -> String {
        let once = |once| if once { ", once over all nodes" } else { "" };
        let entries = self.filter.schedule.iter();
        listed(entries.map(|e| format!("{} ({}{})", e.name, e.written, once(e.once))))
    }

    /// Lists from files.
    fn reads(&self) -> String {
        let state = &self.filter.state;
        let dicts = state.dicts.iter().map(|name| format!("dict {name}"));
        listed(dicts.chain(state.ipsets.iter().map(|name| format!("ipset {name}"))))
    }

    fn is_upstream(&self, origin: &Origin) -> bool {
        self.upstreams.contains(&origin.host.as_str())
    }
}

fn shown(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::ReadWrite => "read_write",
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    or_none(&names.collect::<Vec<_>>())
}

fn or_none<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn access(access: BodyMode) -> &'static str {
    match access {
        BodyMode::None => "none",
        BodyMode::Buffer => "buffer",
    }
}

fn on_fault(filter: &Filter) -> &'static str {
    match filter.on_fault {
        OnFault::Closed => "closed",
        OnFault::Open => "open",
        OnFault::Previous => "previous",
    }
}

fn tests(filter: &Filter) -> &'static str {
    match filter.tests {
        Tests::Optional => "optional",
        Tests::Required => "required",
    }
}
