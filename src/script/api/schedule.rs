//! What `on_schedule` is given.

use super::table::Table;
use crate::script::exchange::Event;

pub fn area(table: &mut Table) {
    table.area("Schedule");
    table
        .get("ev.name", "The name of the schedule's entry.", |ev: &mut Event| ev.name.clone())
        .example(r#"ev.name == "refresh""#)
        .get("ev.time", "When the run was due, in seconds since 1970.", |ev: &mut Event| {
            i64::try_from(ev.time).unwrap_or(i64::MAX)
        })
        .example("ev.time == 1767225600");
}
