//! `selvedge dev`: each request with its hooks and their cost, and faults shown to the author.
//!
//! Nothing of this exists in `run`: there `Shared::dev` is empty, and so is `Ctx::dev`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use pingora_proxy::Session;

use super::ctx::{Ctx, Facts};
use super::peer;
use super::response;
use crate::config::filters::FilterLimits;
use crate::config::values::show_size;
use crate::script::{Fault, Hook, RunFigures};
use crate::snapshot::{FilterState, Shared};

/// Runs that are kept of one request; each retry runs hooks again.
const KEPT: usize = 64;

/// What the hooks of one request did.
#[derive(Default)]
pub struct Notes(Mutex<Vec<Note>>);

struct Note {
    filter: Arc<str>,
    hook: Hook,
    outcome: &'static str,
    figures: RunFigures,
    allowed: FilterLimits,
    fault: Option<Fault>,
}

/// One hook's run ended.
pub fn note(
    notes: Option<&Notes>,
    filter: &FilterState,
    hook: Hook,
    outcome: &'static str,
    (figures, fault): (RunFigures, Option<&Fault>),
) {
    let Some(notes) = notes else { return };
    let mut notes = notes.0.lock();
    if notes.len() < KEPT {
        notes.push(Note {
            filter: Arc::clone(&filter.config.name),
            hook,
            outcome,
            figures,
            allowed: filter.config.limits.clone(),
            fault: fault.cloned(),
        });
    }
}

/// The last fault, for a page that only its author can see: the request comes from this machine,
/// and nobody passed it on.
pub fn fault_for_client(ctx: &Ctx, headers: &HeaderMap) -> Option<Fault> {
    let notes = ctx.dev.as_ref()?;
    let facts = ctx.facts.as_ref()?;
    let peer: Option<IpAddr> = facts.conn.as_ref().map(|live| live.0.client.ip().to_canonical());
    let forwarded = ["forwarded", "x-forwarded-for", "x-forwarded-host", "via"];
    let direct = forwarded.iter().all(|name| !headers.contains_key(*name));
    if !direct || !facts.client.is_loopback() || !peer.is_some_and(|peer| peer.is_loopback()) {
        return None;
    }
    notes.0.lock().iter().rev().find_map(|note| note.fault.clone())
}

/// A request that ended, until its last hook has run.
pub struct Story {
    headline: String,
    pub notes: Arc<Notes>,
}

/// None where nobody is to be told.
pub fn story(session: &Session, ctx: &Ctx) -> Option<Story> {
    let (notes, facts) = (ctx.dev.as_ref()?, ctx.facts.as_ref()?);
    Some(Story { headline: headline(session, ctx, facts), notes: Arc::clone(notes) })
}

/// Tells the terminal about it.
pub fn tell(story: Option<Story>, shared: &Shared) {
    let (Some(show), Some(Story { headline: mut text, notes })) = (&shared.dev, story) else {
        return;
    };
    for note in notes.0.lock().iter() {
        text.push_str(&line(note));
    }
    show(&text);
}

fn headline(session: &Session, ctx: &Ctx, facts: &Facts) -> String {
    let outcome = &ctx.outcome;
    let route = ctx.routed.as_ref().map_or("none", |routed| &*routed.route.name);
    let status = match response::sent(session) {
        Some(_) => outcome.status.to_string(),
        None => "no response".to_owned(),
    };
    let (method, target) = (&facts.method, facts.target());
    let mut text = format!("{method} {}{target} -> {status}", facts.host());
    let mut phases = vec![format!("route {route}")];
    let upstream = ctx.routed.as_ref().and_then(|routed| routed.upstream.as_ref());
    if let (Some(upstream), true) = (upstream, ctx.attempt.first_began.is_some()) {
        let endpoint = peer::endpoint(ctx).map_or_else(String::new, |at| format!(" {at}"));
        let waited = ms(ctx.attempt.waited);
        phases.push(format!("upstream {}{endpoint} {waited}", upstream.pool.name()));
    }
    if ctx.attempt.retries > 0 {
        phases.push(format!("{} retries", ctx.attempt.retries));
    }
    if let Some(filter) = &outcome.answered_by {
        phases.push(format!("answered by {filter}"));
    }
    if let Some(failure) = &outcome.failure {
        phases.push(format!("failed: {failure}"));
    }
    if let Some(first) = outcome.first_byte {
        phases.push(format!("first byte {}", ms(first)));
    }
    phases.push(format!("in all {}", ms(facts.started.elapsed())));
    text.push_str(&format!("\n    {}\n", phases.join(", ")));
    text
}

/// `gate on_request: continue, cpu 0.1 of 10 ms, ...`, and below it the fault if there was one.
fn line(note: &Note) -> String {
    let Note { filter, hook, outcome, figures, allowed, fault } = note;
    let (cpu, wall) = (ms(figures.cpu), ms(figures.wall));
    let (memory, most) = (
        show_size(kib(figures.peak_memory)),
        show_size(u64::try_from(allowed.memory).unwrap_or(0)),
    );
    let mut text = format!(
        "    {filter} {}: {outcome}, cpu {cpu} of {}, wall {wall}, {} operations, memory {memory} of {most}\n",
        hook.name(),
        ms(allowed.cpu),
        figures.operations,
    );
    if let Some(fault) = fault {
        let Fault { line, column, message, source_line, .. } = fault;
        let file = fault.file.display();
        text.push_str(&format!("        {file}:{line}:{column}: {message}\n"));
        if !source_line.is_empty() {
            text.push_str(&format!("        {line} | {source_line}\n"));
        }
    }
    text
}

/// Rounded up to whole KiB, which `show_size` shortens.
fn kib(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(1024) * 1024).unwrap_or(u64::MAX)
}

fn ms(time: Duration) -> String {
    format!("{:.1}ms", time.as_secs_f64() * 1000.0)
}
