//! `log` and `print`: lines in the proxy's log.

use log::Level;
use rhai::{Array, Dynamic, ImmutableString, Map, NativeCallContext};

use super::state::State;
use super::table::Table;
use super::{Outcome, show};

/// Bytes of one message.
const MESSAGE: usize = 8 << 10;
/// Bytes of one field.
const FIELD: usize = 1 << 10;
/// Fields of one line.
const FIELDS: usize = 32;

pub fn area(table: &mut Table) {
    table.area("Log");
    level(
        table,
        Level::Info,
        ["log::info(message, fields)", "log::info(message)"],
        r##"log::info("seen", #{ path: req.path }); true"##,
    );
    level(
        table,
        Level::Warn,
        ["log::warn(message, fields)", "log::warn(message)"],
        r##"log::warn("seen", #{ path: req.path }); true"##,
    );
    level(
        table,
        Level::Error,
        ["log::error(message, fields)", "log::error(message)"],
        r##"log::error("seen", #{ path: req.path }); true"##,
    );
    table
        .function("print(value)", "As log::info.", |c: NativeCallContext, v: Dynamic| {
            print(&c, Level::Info, &v)
        })
        .example(r#"print("seen"); true"#)
        .function(
            "debug(value)",
            "As print, at the level debug.",
            |c: NativeCallContext, v: Dynamic| print(&c, Level::Debug, &v),
        )
        .example(r#"debug(#{ a: 1 }); true"#);
    typed(table, "print(value)", Level::Info);
    typed(table, "debug(value)", Level::Debug);
}

/// Rhai has its own `print` and `debug` for each of these types, so each is replaced.
fn typed(table: &mut Table, name: &'static str, level: Level) {
    table
        .hidden(name, move |c: NativeCallContext, v: ImmutableString| print(&c, level, &v.into()))
        .hidden(name, move |c: NativeCallContext, v: i64| print(&c, level, &v.into()))
        .hidden(name, move |c: NativeCallContext, v: f64| print(&c, level, &v.into()))
        .hidden(name, move |c: NativeCallContext, v: bool| print(&c, level, &v.into()))
        .hidden(name, move |c: NativeCallContext, v: char| print(&c, level, &v.into()))
        .hidden(name, move |c: NativeCallContext, (): ()| print(&c, level, &"".into()))
        .hidden(name, move |c: NativeCallContext, v: Array| print(&c, level, &v.into()))
        .hidden(name, move |c: NativeCallContext, v: Map| print(&c, level, &v.into()));
}

fn level(table: &mut Table, level: Level, forms: [&'static str; 2], example: &'static str) {
    let [signature, short] = forms;
    table
        .function(
            signature,
            "A line in the log, with fields of its own.",
            move |c: NativeCallContext, message: Dynamic, fields: Map| {
                write(&c, level, &message, &fields)
            },
        )
        .example(example)
        .overload(short, move |c: NativeCallContext, message: Dynamic| {
            write(&c, level, &message, &Map::new())
        });
}

fn print(context: &NativeCallContext, level: Level, value: &Dynamic) -> Outcome<ImmutableString> {
    write(context, level, value, &Map::new())?;
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
        fields.iter().take(FIELDS).map(|(k, v)| (k.to_string(), show::text(v, FIELD))).collect();
    // While a script is loaded there is no host, and nobody to tell.
    if let Ok(host) = state.host() {
        host.log(level, &show::text(message, MESSAGE), &fields);
    }
    Ok(())
}
