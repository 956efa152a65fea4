//! `hash`: the same key goes to the same endpoint, and few keys move when endpoints come and go.
//!
//! Ketama's ring as nginx and Pingora have it.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::protocols::l4::socket::SocketAddr as AnyAddr;
use pingora_load_balancing::Backend;
use pingora_load_balancing::Extensions;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};

use super::Member;

/// The largest weight on the ring, where each unit takes 160 points; larger ones are scaled down.
const MAX_RING_WEIGHT: usize = 64;

pub(super) struct Hash {
    ring: Arc<KetamaHashing>,
    index: HashMap<SocketAddr, usize>,
}

impl Hash {
    pub(super) fn new(members: &[Member]) -> Self {
        let largest = members.iter().map(|member| member.weight as usize).max().unwrap_or(1);
        let scale = |weight: usize| match largest > MAX_RING_WEIGHT {
            true => (weight * MAX_RING_WEIGHT / largest).max(1),
            false => weight.max(1),
        };
        let backends: BTreeSet<Backend> = members
            .iter()
            .map(|member| Backend {
                addr: AnyAddr::Inet(member.endpoint.address()),
                weight: scale(member.weight as usize),
                ext: Extensions::new(),
            })
            .collect();
        let addresses = members.iter().map(|member| member.endpoint.address());
        Self {
            ring: Arc::new(KetamaHashing::build(&backends)),
            index: addresses.zip(0..).collect(),
        }
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        key: &[u8],
        may: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let mut walk = self.ring.iter(key);
        let mut next = || walk.next().and_then(|backend| self.position(&backend.addr));
        let first = next()?;
        if may(&members[first]) {
            return Some(first);
        }
        // What passes is noted once: the ring has no end, and health may change on the way.
        let passing: Vec<bool> = members.iter().map(may).collect();
        if !passing.contains(&true) {
            return None;
        }
        loop {
            let index = next()?;
            if passing[index] {
                return Some(index);
            }
        }
    }

    fn position(&self, address: &AnyAddr) -> Option<usize> {
        self.index.get(address.as_inet()?).copied()
    }
}
