//! Upstreams for operators: how each endpoint is and why, and taking one out by hand.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::upstream::balance::Member;
use crate::upstream::endpoint::Reason;
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

/// Carries out `/upstreams/NAME/ACTION?endpoint=ADDRESS`, and shows what came of it; or says what
/// there is not.
pub fn act<'a>(
    path: &str,
    query: &str,
    pool: impl FnOnce(&str) -> Option<&'a Arc<Pool>>,
) -> Result<Value, String> {
    let mut steps = path.split('/').skip(2).map(decoded);
    let (Some(name), Some(action), None) = (steps.next(), steps.next(), steps.next()) else {
        return Err("write /upstreams/NAME/ACTION".to_owned());
    };
    let pool = pool(&name).ok_or_else(|| format!("there is no upstream {name}"))?;
    let address = query.strip_prefix("endpoint=").map(decoded);
    let address = address.ok_or("say which one: ?endpoint=ADDRESS")?;
    let balancer = pool.balancer();
    let found = balancer.members().iter().find(|m| m.endpoint.address().to_string() == address);
    let endpoint = &found.ok_or_else(|| format!("{name} has no endpoint {address}"))?.endpoint;
    let why = "by an operator";
    match &*action {
        "drain" => pool.take_out(endpoint, Reason::Drained, why),
        "disable" => pool.take_out(endpoint, Reason::Disabled, why),
        "enable" => {
            pool.let_in(endpoint, Reason::Drained, why);
            pool.let_in(endpoint, Reason::Disabled, why);
        }
        _ => return Err(format!("{action} is none of drain, disable, enable")),
    }
    Ok(show(pool))
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
