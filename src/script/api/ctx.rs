//! `req.ctx`: plain data that lives as long as the request.

use rhai::{Dynamic, Map};
use serde_json::Value;

use super::convert::{from_json, to_json_within};
use super::table::Table;
use super::{Outcome, fail};
use crate::script::exchange::Ctx;

/// Names per request.
const MOST: usize = 256;
/// Bytes of one value, which stays for as long as the request.
const BYTES: usize = 64 << 10;

#[derive(Clone)]
pub struct CtxHandle(pub Ctx);

pub fn area(table: &mut Table) {
    table.area("Ctx");
    table
        .index_get("ctx[name]", "Plain data set by an earlier hook, or `()`; also `ctx.name`.", get)
        .example(r#"req.ctx["n"] = #{ a: [1] }; req.ctx.n.a[0] == 1"#)
        .index_set(set)
        .function("ctx.contains(name)", "Whether it is set.", |c: &mut CtxHandle, name: &str| {
            c.0.data().contains_key(name)
        })
        .example(r#"req.ctx.n = 1; req.ctx.contains("n")"#)
        .function("ctx.to_map()", "A copy as a map.", |c: &mut CtxHandle| -> Map {
            c.0.data().iter().map(|(k, v)| (k.as_str().into(), from_json(v))).collect()
        })
        .example("req.ctx.n = 1; req.ctx.to_map() == #{ n: 1 }");
}

fn get(ctx: &mut CtxHandle, name: &str) -> Dynamic {
    ctx.0.data().get(name).map_or(Dynamic::UNIT, from_json)
}

fn set(ctx: &mut CtxHandle, name: &str, value: Dynamic) -> Outcome<()> {
    let value = to_json_within(&value, BYTES)?;
    let mut map = ctx.0.data();
    if value == Value::Null {
        map.remove(name);
    } else if map.len() >= MOST && !map.contains_key(name) {
        return Err(fail("limit", format!("ctx holds at most {MOST} names")));
    } else {
        map.insert(name.to_owned(), value);
    }
    Ok(())
}
