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
use super::rendezvous;
use crate::config::upstreams::Address;

/// The largest weight on the ring, where each unit takes 160 points; larger ones are scaled down.
const MAX_RING_WEIGHT: usize = 64;

/// Points asked along the ring before all members are.
const STEPS: usize = 16;

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
        // The configuration has no Unix sockets here: the ring could not hold them.
        let addresses =
            members.iter().zip(0..).filter_map(|(member, index)| match member.endpoint.address() {
                Address::Inet(address) => Some((*address, index)),
                Address::Unix(_) => None,
            });
        let index: HashMap<SocketAddr, usize> = addresses.collect();
        let backends: BTreeSet<Backend> = index
            .iter()
            .map(|(address, index)| Backend {
                addr: AnyAddr::Inet(*address),
                weight: scale(members[*index].weight as usize),
                ext: Extensions::new(),
            })
            .collect();
        Self { ring: Arc::new(KetamaHashing::build(&backends)), index }
    }

    /// `hashed` is of the same `key`.
    pub(super) fn choose(
        &self,
        members: &[Member],
        (key, hashed): (&[u8], u64),
        may: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let mut walk = self.ring.iter(key);
        for _ in 0..STEPS {
            let index = self.position(&walk.next()?.addr)?;
            if may(&members[index]) {
                return Some(index);
            }
        }
        rendezvous::choose(members, hashed, may)
    }

    fn position(&self, address: &AnyAddr) -> Option<usize> {
        self.index.get(address.as_inet()?).copied()
    }
}
