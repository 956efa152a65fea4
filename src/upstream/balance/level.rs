//! Levels: the members of one priority and region, and how traffic is shared out between them.
//!
//! The first level has all traffic as long as it is healthy enough; what it is not healthy enough
//! for spills over to the next (Envoy's rule, and its factor).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use xxhash_rust::xxh64::xxh64;

use super::hash::Hash;
use super::least_request::LeastRequest;
use super::maglev::Maglev;
use super::peak_ewma::PeakEwma;
use super::random::Random;
use super::round_robin::RoundRobin;
use super::{Member, rng};
use crate::config::upstreams::Balance;
use crate::config::values::Percent;

/// A level with seven in ten healthy still takes everything.
const OVERPROVISIONED: f64 = 1.4;

/// A level's share of the traffic in this many parts.
const WHOLE: u32 = 1000;

pub(super) struct Level {
    members: Arc<[Member]>,
    algorithm: Algorithm,
    /// Of [`WHOLE`].
    share: AtomicU32,
    panic: AtomicBool,
}

enum Algorithm {
    RoundRobin(RoundRobin),
    LeastRequest(LeastRequest),
    PeakEwma(PeakEwma),
    Random(Random),
    Hash(Hash),
    Maglev(Maglev),
}

/// What spreads keys alike over all that is chosen by them.
pub(super) fn hash(key: &[u8]) -> u64 {
    if key.is_empty() { 0 } else { xxh64(key, 0) }
}

/// The members by priority and region; without any there is one empty level.
pub(super) fn split(
    balance: &Balance,
    regions: &[Arc<str>],
    members: &Arc<[Member]>,
) -> Box<[Level]> {
    let place = |member: &Member| {
        let near = |region: &Arc<str>| regions.iter().position(|known| known == region);
        // Nobody knows how far one without a region is.
        let distance = member.region.as_ref().and_then(near).unwrap_or(regions.len());
        (member.priority, distance)
    };
    let mut places: Vec<_> = members.iter().map(place).collect();
    places.sort_unstable();
    places.dedup();
    if places.len() <= 1 {
        return Box::new([Level::new(balance, Arc::clone(members))]);
    }
    let of = |at: &(u32, usize)| members.iter().filter(|m| place(m) == *at).cloned().collect();
    places.iter().map(|at| Level::new(balance, of(at))).collect()
}

/// The level that a request begins with. With a key it is always the same for the same shares.
pub(super) fn draw(levels: &[Level], hashed: u64) -> usize {
    if levels.len() == 1 {
        return 0;
    }
    let point = match hashed {
        0 => rng::below(u64::from(WHOLE)),
        key => rng::mix(key) % u64::from(WHOLE),
    };
    let mut sum = 0;
    let found = levels.iter().position(|level| {
        sum += u64::from(level.share.load(Relaxed));
        point < sum
    });
    found.unwrap_or(0)
}

/// Gives each level its share. `health` is how much of its weight a member can take, `None` for
/// one that an operator took out.
pub(super) fn share_out(
    levels: &[Level],
    panic_below: Percent,
    health: impl Fn(&Member) -> Option<f64>,
) {
    let measured: Vec<Measure> = levels.iter().map(|level| level.measure(&health)).collect();
    let able = |measure: &Measure| (measure.able * OVERPROVISIONED).min(1.0);
    let total: f64 = measured.iter().map(able).sum();
    let panics = |measure: &Measure| {
        let too_few = measure.healthy * 100.0 < f64::from(panic_below.0);
        total < 1.0 && measure.present && too_few
    };
    // In panic a level is taken at its word that all are well; else what is able counts.
    let first_present = measured.iter().position(|measure| measure.present).unwrap_or(0);
    let mut left = 1.0;
    for (index, (level, measure)) in levels.iter().zip(&measured).enumerate() {
        let share = match total {
            0.0 => f64::from(u8::from(index == first_present)),
            total if total < 1.0 => able(measure) / total,
            _ => able(measure).min(left),
        };
        left -= share;
        level.share.store((share * f64::from(WHOLE)).round() as u32, Relaxed);
        level.panic.store(panics(measure), Relaxed);
    }
}

/// How healthy a level is, from 0 to 1.
struct Measure {
    /// By warmth.
    able: f64,
    healthy: f64,
    /// Whether there is anybody whom no operator took out.
    present: bool,
}

impl Level {
    fn new(balance: &Balance, members: Arc<[Member]>) -> Self {
        let algorithm = match balance {
            Balance::RoundRobin => Algorithm::RoundRobin(RoundRobin::new(&members)),
            Balance::LeastRequest => Algorithm::LeastRequest(LeastRequest::new(&members)),
            Balance::PeakEwma => Algorithm::PeakEwma(PeakEwma::new(&members)),
            Balance::Random => Algorithm::Random(Random::new(&members)),
            Balance::Hash(_) => Algorithm::Hash(Hash::new(&members)),
            Balance::Maglev(_) => Algorithm::Maglev(Maglev::new(&members)),
        };
        Self { members, algorithm, share: AtomicU32::new(0), panic: AtomicBool::new(false) }
    }

    pub(super) fn in_panic(&self) -> bool {
        self.panic.load(Relaxed)
    }

    pub(super) fn choose(
        &self,
        key: &[u8],
        hashed: u64,
        may: impl Fn(&Member) -> bool,
    ) -> Option<&Member> {
        let members = &self.members;
        let chosen = match &self.algorithm {
            Algorithm::RoundRobin(algorithm) => algorithm.choose(members, may),
            Algorithm::LeastRequest(algorithm) => algorithm.choose(members, may),
            Algorithm::PeakEwma(algorithm) => algorithm.choose(members, may),
            Algorithm::Random(algorithm) => algorithm.choose(members, may),
            Algorithm::Hash(algorithm) => algorithm.choose(members, (key, hashed), may),
            Algorithm::Maglev(algorithm) => algorithm.choose(members, hashed, may),
        };
        members.get(chosen?)
    }

    fn measure(&self, health: impl Fn(&Member) -> Option<f64>) -> Measure {
        let (mut able, mut healthy, mut total) = (0.0, 0.0, 0.0);
        for member in self.members.iter() {
            let weight = f64::from(member.weight);
            let Some(part) = health(member) else { continue };
            able += weight * part;
            healthy += if part > 0.0 { weight } else { 0.0 };
            total += weight;
        }
        let share = |part: f64| if total > 0.0 { part / total } else { 0.0 };
        Measure { able: share(able), healthy: share(healthy), present: total > 0.0 }
    }
}
