//! `dict` and `ipset`: look-ups in the lists of the configuration.

use std::net::IpAddr;
use std::sync::Arc;

use rhai::{Dynamic, NativeCallContext};

use super::convert::from_json;
use super::state::State;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::state::{self, Live, Value};

#[derive(Clone)]
pub struct Dict(Arc<Live<state::Dict>>);

#[derive(Clone)]
pub struct IpSet(Arc<Live<state::IpSet>>);

pub fn area(table: &mut Table) {
    table.area("Lists");
    table
        .function(
            "dict(name)",
            "Values by key, from a file of the configuration; best as a constant at the top level. \
             A changed file is read anew.",
            dict,
        )
        .example(r#"dict("codes").get("a") == "1""#)
        .function("dict.get(key)", "Text of a CSV, a value of a JSON, or `()`.", get)
        .example(r#"dict("codes").get("nothing") == ()"#)
        .function("dict.contains(key)", "Whether the key is there.", |d: &mut Dict, key: &str| {
            d.0.read(|dict| dict.get(key).is_some())
        })
        .example(r#"dict("codes").contains("a")"#)
        .get("dict.len", "How many keys there are.", |d: &mut Dict| {
            d.0.read(|dict| i64::try_from(dict.len()).unwrap_or(i64::MAX))
        })
        .example(r#"dict("codes").len == 2"#)
        .function(
            "ipset(name)",
            "Networks of the configuration; best as a constant at the top level.",
            ipset,
        )
        .example(r#"ipset("office").contains("10.1.2.3")"#)
        .function(
            "set.contains(ip)",
            "Whether the address is in one of the networks. An IPv4-mapped one is the IPv4 address.",
            contains,
        )
        .example(r#"ipset("office").contains("::ffff:10.0.0.1") && !ipset("office").contains(req.client.ip)"#);
}

fn dict(context: NativeCallContext, name: &str) -> Outcome<Dict> {
    let state = State::of(&context)?;
    let granted = state.facts().dicts.get(name).cloned().map(Dict);
    granted.ok_or_else(|| fail("denied", format!("this filter may not read the dict {name}")))
}

fn ipset(context: NativeCallContext, name: &str) -> Outcome<IpSet> {
    let state = State::of(&context)?;
    let granted = state.facts().ipsets.get(name).cloned().map(IpSet);
    granted.ok_or_else(|| fail("denied", format!("this filter may not ask the ipset {name}")))
}

fn get(dict: &mut Dict, key: &str) -> Dynamic {
    dict.0.read(|dict| match dict.get(key) {
        Some(Value::Text(text)) => (&**text).into(),
        Some(Value::Json(json)) => from_json(json),
        None => Dynamic::UNIT,
    })
}

fn contains(set: &mut IpSet, ip: &str) -> Outcome<bool> {
    let address: IpAddr = ip.parse().map_err(|_| invalid(format!("\"{ip}\" is not an address")))?;
    Ok(set.0.read(|set| set.contains(address)))
}
