//! Upstreams for operators: how each endpoint is and why, and taking one out by hand.

use serde_json::{Value, json};

use crate::upstream::balance::Member;
use crate::upstream::pool::Pool;

/// An upstream with its endpoints.
pub fn show(pool: &Pool) -> Value {
    let balancer = pool.balancer();
    let endpoint = |member: &Member| {
        let endpoint = &member.endpoint;
        let reasons = balancer
            .held_by(endpoint)
            .into_iter()
            .map(|(reason, why)| json!({ "state": reason.word(), "why": why }));
        json!({
            "address": endpoint.address().to_string(),
            "weight": member.weight,
            "priority": member.priority,
            "region": member.region.as_deref(),
            "healthy": balancer.well(endpoint),
            "out": reasons.collect::<Vec<_>>(),
            "checked": endpoint.known(),
            "in_flight": endpoint.in_flight(),
        })
    };
    json!({
        "name": &**pool.name(),
        "circuit": pool.circuit().word(),
        "panic": balancer.in_panic(),
        "endpoints": balancer.members().iter().map(endpoint).collect::<Vec<_>>(),
    })
}
