//! Balancing: the choice of an endpoint among those that are well and untried.
//!
//! One file per algorithm. Each is given a test for what may be chosen and answers `None` only if
//! nothing passes it; what may be chosen is decided here, alike for all.

mod hash;
mod least_request;
mod random;
pub(in crate::upstream) mod rng;
mod round_robin;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use super::endpoint::Endpoint;
use crate::config::upstreams::Balance;

use self::hash::Hash;
use self::least_request::LeastRequest;
use self::random::Random;
use self::round_robin::RoundRobin;

/// An endpoint and its share of the traffic in one configuration.
#[derive(Debug, Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
}

/// The members of a pool and the way one is chosen.
pub struct Balancer {
    members: Arc<[Member]>,
    algorithm: Algorithm,
    /// Without checks an endpoint's health is what an older configuration left behind.
    checked: bool,
}

enum Algorithm {
    RoundRobin(RoundRobin),
    LeastRequest(LeastRequest),
    Random(Random),
    Hash(Hash),
}

impl Balancer {
    /// A balancer of `members`; `checked` says whether their health means anything.
    pub fn new(balance: &Balance, members: Arc<[Member]>, checked: bool) -> Self {
        let algorithm = match balance {
            Balance::RoundRobin => Algorithm::RoundRobin(RoundRobin::new(&members)),
            Balance::LeastRequest => Algorithm::LeastRequest(LeastRequest::new(&members)),
            Balance::Random => Algorithm::Random(Random::new(&members)),
            Balance::Hash(_) => Algorithm::Hash(Hash::new(&members)),
        };
        Self { members, algorithm, checked }
    }

    /// An endpoint that is not in `skip`; `key` matters to hashing only.
    ///
    /// Unhealthy endpoints are left out, unless all are unhealthy: then the checks are as likely
    /// to be wrong as the origins, and any will do.
    pub fn pick(&self, key: &[u8], skip: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        let untried = |member: &Member| !skip.iter().any(|e| Arc::ptr_eq(e, &member.endpoint));
        let chosen = self
            .choose(key, |member| self.well(member) && untried(member))
            .or_else(|| self.all_down().then(|| self.choose(key, untried)).flatten())?;
        self.members.get(chosen).map(|member| Arc::clone(&member.endpoint))
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    fn choose(&self, key: &[u8], may: impl Fn(&Member) -> bool) -> Option<usize> {
        match &self.algorithm {
            Algorithm::RoundRobin(algorithm) => algorithm.choose(&self.members, may),
            Algorithm::LeastRequest(algorithm) => algorithm.choose(&self.members, may),
            Algorithm::Random(algorithm) => algorithm.choose(&self.members, may),
            Algorithm::Hash(algorithm) => algorithm.choose(&self.members, key, may),
        }
    }

    fn well(&self, member: &Member) -> bool {
        !self.checked || member.endpoint.healthy()
    }

    fn all_down(&self) -> bool {
        !self.members.iter().any(|member| self.well(member))
    }
}
