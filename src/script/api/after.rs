//! `after_response`: work for when the client has its response.

use rhai::{FnPtr, Map, NativeCallContext};

use super::state::State;
use super::table::Table;
use super::{Outcome, invalid};
use crate::script::after::Work;

pub fn area(table: &mut Table) {
    table.area("After the response");
    table
        .function(
            "after_response(work, options)",
            "Runs a closure once the response has gone, with limits of its own; the client does not \
             wait for it. It may have a parameter: a map with `status`, `bytes`, `ms` and \
             `aborted`. Options: if_aborted (false): also when the client left before the end.",
            after_response,
        )
        .overload("after_response(work)", |c: NativeCallContext, work: FnPtr| {
            after_response(c, work, Map::new())
        })
        .example(r#"after_response(|done| log::info(`sent ${done.status}`), #{ if_aborted: true }); true"#);
}

fn after_response(context: NativeCallContext, function: FnPtr, options: Map) -> Outcome<()> {
    let mut work = Work { function, if_aborted: false };
    for (name, value) in &options {
        match name.as_str() {
            "if_aborted" => {
                let given = value.as_bool();
                work.if_aborted = given.map_err(|_| invalid("if_aborted is true or false"))?;
            }
            _ => return Err(invalid(format!("after_response has no option {name}"))),
        }
    }
    State::of(&context)?.leave(work)
}
