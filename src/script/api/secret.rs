//! `secret(name)`: opaque. It can be a key or be compared, and cannot be printed.

use rhai::{Dynamic, NativeCallContext};

use super::convert::bytes_of;
use super::state::State;
use super::table::Table;
use super::{Outcome, fail};
use crate::config::filters::Secret;

#[derive(Clone)]
pub struct Handle(Secret);

pub fn area(table: &mut Table) {
    table.area("Secrets");
    table
        .function("secret(name)", "A secret of this filter's configuration, opaque.", secret)
        .example(r#"hmac::sha256(secret("key"), "data").len == 64"#)
        .hidden("to_string(secret)", |_: &mut Handle| "***")
        .hidden("to_debug(secret)", |_: &mut Handle| "***");
}

fn secret(context: NativeCallContext, name: &str) -> Outcome<Handle> {
    let state = State::of(&context)?;
    let found = state.facts().secrets.get(name).cloned().map(Handle);
    found.ok_or_else(|| fail("denied", format!("this filter has no secret {name}")))
}

/// The bytes of a Secret, a string or a blob.
pub fn key_of(value: &Dynamic) -> Outcome<Vec<u8>> {
    match value.read_lock::<Handle>() {
        Some(secret) => Ok(secret.0.expose().to_vec()),
        None => bytes_of(value),
    }
}
