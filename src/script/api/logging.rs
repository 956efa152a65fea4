//! `log` and `print`: lines in the proxy's log.

use log::Level;
use rhai::{Array, Dynamic, ImmutableString, Map, NativeCallContext};

use super::Outcome;
use super::state::State;
use super::table::Table;

/// Bytes of one message.
const MESSAGE: usize = 8 << 10;
/// Fields of one line.
const FIELDS: usize = 32;

pub fn area(table: &mut Table) {
    table.area("Log");
    level(table, "log::debug(message, fields)", Level::Debug);
    level(table, "log::info(message, fields)", Level::Info);
    level(table, "log::warn(message, fields)", Level::Warn);
    level(table, "log::error(message, fields)", Level::Error);
    // Rhai has its own `print` for each of these types, so each is replaced.
    table
        .function("print(value)", "As log::info.", |c: NativeCallContext, v: Dynamic| print(&c, &v))
        .overload("print(text)", |c: NativeCallContext, v: ImmutableString| print(&c, &v.into()))
        .overload("print(int)", |c: NativeCallContext, v: i64| print(&c, &v.into()))
        .overload("print(float)", |c: NativeCallContext, v: f64| print(&c, &v.into()))
        .overload("print(bool)", |c: NativeCallContext, v: bool| print(&c, &v.into()))
        .overload("print(char)", |c: NativeCallContext, v: char| print(&c, &v.into()))
        .overload("print(unit)", |c: NativeCallContext, (): ()| print(&c, &"".into()))
        .overload("print(array)", |c: NativeCallContext, v: Array| print(&c, &v.into()))
        .overload("print(map)", |c: NativeCallContext, v: Map| print(&c, &v.into()));
}

fn level(table: &mut Table, signature: &'static str, level: Level) {
    table
        .function(
            signature,
            "A line in the log; the fields may be left out.",
            move |c: NativeCallContext, message: Dynamic, fields: Map| {
                write(&c, level, &message, &fields)
            },
        )
        .overload(signature, move |c: NativeCallContext, message: Dynamic| {
            write(&c, level, &message, &Map::new())
        });
}

fn print(context: &NativeCallContext, value: &Dynamic) -> Outcome<ImmutableString> {
    write(context, Level::Info, value, &Map::new())?;
    // Rhai hands this on to its own printing, which is off.
    Ok(ImmutableString::new())
}

fn write(
    context: &NativeCallContext,
    level: Level,
    message: &Dynamic,
    fields: &Map,
) -> Outcome<()> {
    let state = State::of(context)?;
    let fields: Vec<(String, String)> =
        fields.iter().take(FIELDS).map(|(k, v)| (k.to_string(), text(v))).collect();
    // While a script is loaded there is no host, and nobody to tell.
    if let Ok(host) = state.host() {
        host.log(level, &text(message), &fields);
    }
    Ok(())
}

fn text(value: &Dynamic) -> String {
    let mut text = value.to_string();
    if text.len() > MESSAGE {
        let end = (0..=MESSAGE).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}
