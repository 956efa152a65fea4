//! Balancing: the choice of an endpoint among those that are well and untried.
//!
//! One file per algorithm. Each is given a test for what may be chosen and answers `None` only if
//! nothing passes it; what may be chosen is decided here, alike for all. Choosing takes no lock and
//! allocates nothing.

mod hash;
mod least_request;
mod level;
mod maglev;
mod peak_ewma;
mod random;
mod rendezvous;
pub mod rng;
mod round_robin;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;
use std::time::Duration;

use super::clock;
use super::endpoint::{Endpoint, Reason};
use crate::config::upstreams::Upstream;
use crate::config::values::Percent;

use self::level::Level;

/// An endpoint and what one configuration says of it.
#[derive(Debug, Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
    pub priority: u32,
    pub region: Option<Arc<str>>,
}

/// What a request wants of its endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// What hashing goes by.
    pub key: &'a [u8],
    /// Endpoints that were tried already.
    pub skip: &'a [Arc<Endpoint>],
    /// If there are any, the only regions that the request may go to.
    pub fence: &'a [Arc<str>],
    /// [`Endpoint::id`] of the one that the request sticks to, if it still can take it.
    pub prefer: Option<u64>,
}

/// Why no endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoChoice {
    /// None is well, or all that are were tried.
    NoneWell,
    /// The upstream has no endpoint within the fence.
    Fenced,
    /// Those that are well have as much to do as they may.
    Full,
}

/// The members of a pool and the way one is chosen.
pub struct Balancer {
    members: Arc<[Member]>,
    /// By priority, then by region, nearest first; at least one.
    levels: Box<[Level]>,
    rules: Rules,
}

/// What decides which endpoints may be chosen.
struct Rules {
    /// The reasons that count: what an older configuration found out by other means does not.
    counted: u8,
    slow_start: Option<Duration>,
    panic_below: Percent,
    endpoint_requests: u32,
}

impl Balancer {
    pub fn new(config: &Upstream, members: Arc<[Member]>) -> Self {
        let counted = |on: bool, reason: Reason| if on { reason.bit() } else { 0 };
        let rules = Rules {
            counted: Reason::BY_HAND
                | counted(config.health.is_some(), Reason::Unhealthy)
                | counted(config.outlier.is_some(), Reason::Ejected),
            slow_start: config.slow_start,
            panic_below: config.panic_below,
            endpoint_requests: config.caps.endpoint_requests.unwrap_or(u32::MAX),
        };
        let levels = level::split(&config.balance, &config.regions, &members);
        let balancer = Self { members, levels, rules };
        balancer.refresh();
        balancer
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A member for a request.
    pub fn pick(&self, ask: &Ask<'_>) -> Result<&Member, NoChoice> {
        if let Some(member) = ask.prefer.and_then(|id| self.preferred(id, ask)) {
            return Ok(member);
        }
        let hashed = level::hash(ask.key);
        let first = level::draw(&self.levels, hashed);
        let further = || (0..self.levels.len()).filter(|index| *index != first);
        self.choose_in(first, ask, hashed)
            .or_else(|| further().find_map(|index| self.choose_in(index, ask, hashed)))
            .or_else(|| self.last_resort(ask, hashed))
            .ok_or_else(|| self.why_none(ask))
    }

    /// Whether one is left to [`Self::pick`] once `failed` was tried too. It takes nobody's turn.
    pub fn any_left(&self, ask: &Ask<'_>, failed: &Arc<Endpoint>) -> bool {
        let within = || self.members.iter().filter(|member| ask.is_inside(member));
        let none_well = !within().any(|member| self.well(&member.endpoint));
        let panics = self.in_panic() || (none_well && self.rules.panic_below > Percent(0));
        let counted = if panics { Reason::BY_HAND } else { self.rules.counted };
        within().any(|member| {
            member.endpoint.out() & counted == 0
                && ask.admits(member)
                && self.has_room(member)
                && !Arc::ptr_eq(failed, &member.endpoint)
        })
    }

    /// Whether `endpoint` gets requests in normal times.
    pub fn well(&self, endpoint: &Endpoint) -> bool {
        endpoint.out() & self.rules.counted == 0
    }

    /// The reasons of `endpoint` that this configuration counts.
    pub fn held_by(&self, endpoint: &Endpoint) -> Vec<(Reason, String)> {
        let counted = |(reason, _): &(Reason, String)| reason.bit() & self.rules.counted != 0;
        endpoint.reasons().into_iter().filter(counted).collect()
    }

    /// Whether so few are well that all of a level count as well.
    pub fn in_panic(&self) -> bool {
        self.levels.iter().any(Level::in_panic)
    }

    /// Looks anew at how healthy the levels are; to be called when an endpoint went or came.
    pub fn refresh(&self) {
        let now = clock::now();
        let warmth = |endpoint: &Endpoint| {
            self.rules.slow_start.map_or(1.0, |time| endpoint.warmth(time, now))
        };
        let health = |member: &Member| match member.endpoint.out() {
            out if out & Reason::BY_HAND != 0 => None,
            out if out & self.rules.counted != 0 => Some(0.0),
            _ => Some(warmth(&member.endpoint)),
        };
        level::share_out(&self.levels, self.rules.panic_below, health);
    }

    fn choose_in(&self, index: usize, ask: &Ask<'_>, hashed: u64) -> Option<&Member> {
        let level = self.levels.get(index)?;
        let ignored = if level.in_panic() { !Reason::BY_HAND } else { 0 };
        let may = |member: &Member| {
            member.endpoint.out() & self.rules.counted & !ignored == 0
                && self.has_room(member)
                && ask.admits(member)
        };
        let Some(slow_start) = self.rules.slow_start else {
            return level.choose(ask.key, hashed, may);
        };
        // A cold one lets most of its turns pass, and takes them all if nobody else can.
        let now = clock::now();
        let warm = |member: &Member| {
            let warmth = member.endpoint.warmth(slow_start, now);
            warmth >= 1.0 || rng::below(WARMTH_STEPS) < (warmth * WARMTH_STEPS as f64) as u64
        };
        let warm_enough = level.choose(ask.key, hashed, |member| may(member) && warm(member));
        warm_enough.or_else(|| level.choose(ask.key, hashed, may))
    }

    fn has_room(&self, member: &Member) -> bool {
        self.rules.endpoint_requests == u32::MAX
            || member.endpoint.in_flight() < self.rules.endpoint_requests
    }

    fn preferred(&self, id: u64, ask: &Ask<'_>) -> Option<&Member> {
        let drains = Reason::Drained.bit();
        let found = self.members.iter().find(|member| member.endpoint.id() == id)?;
        let able = found.endpoint.out() & self.rules.counted & !drains == 0;
        (able && self.has_room(found) && ask.admits(found)).then_some(found)
    }

    /// If none is well within the fence, the checks are as likely to be wrong as the origins.
    fn last_resort(&self, ask: &Ask<'_>, hashed: u64) -> Option<&Member> {
        let panics = self.rules.panic_below > Percent(0);
        let within = || self.members.iter().filter(|member| ask.is_inside(member));
        if !panics || within().any(|member| self.well(&member.endpoint)) {
            return None;
        }
        let may = |member: &Member| {
            member.endpoint.out() & Reason::BY_HAND == 0
                && self.has_room(member)
                && ask.admits(member)
        };
        self.levels.iter().find_map(|level| level.choose(ask.key, hashed, may))
    }

    fn why_none(&self, ask: &Ask<'_>) -> NoChoice {
        let mut within = self.members.iter().filter(|member| ask.is_inside(member)).peekable();
        if within.peek().is_none() && !self.members.is_empty() {
            return NoChoice::Fenced;
        }
        let untried = |member: &&Member| self.well(&member.endpoint) && ask.admits(member);
        if within.any(|member| untried(&member)) { NoChoice::Full } else { NoChoice::NoneWell }
    }
}

/// In so many steps an endpoint warms up.
const WARMTH_STEPS: u64 = 1000;

impl Ask<'_> {
    fn admits(&self, member: &Member) -> bool {
        self.is_inside(member) && !self.skip.iter().any(|e| Arc::ptr_eq(e, &member.endpoint))
    }

    fn is_inside(&self, member: &Member) -> bool {
        self.fence.is_empty()
            || member.region.as_ref().is_some_and(|region| self.fence.contains(region))
    }
}
