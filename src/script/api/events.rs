//! Server-sent events, as the callbacks of `res.map_events` see them.

use std::sync::Arc;

use parking_lot::Mutex;
use rhai::{Dynamic, ImmutableString};

use super::table::Table;
use crate::script::callback::Callback;
use crate::transform::{Event, OnEvent, Verdict};

#[derive(Clone)]
pub struct EventHandle(Arc<Mutex<Event>>);

type Field = fn(&mut Event) -> &mut Option<String>;

impl EventHandle {
    fn get(&self, field: Field) -> Dynamic {
        field(&mut self.0.lock()).as_deref().map_or(Dynamic::UNIT, Into::into)
    }

    fn set(&self, field: Field, value: Option<ImmutableString>) {
        *field(&mut self.0.lock()) = value.map(Into::into);
    }
}

/// A property that can be read, set, and removed by `()`.
macro_rules! field {
    ($table:expr, $signature:literal, $text:literal, $field:ident) => {
        $table
            .get($signature, $text, |e: &mut EventHandle| e.get(|event| &mut event.$field))
            .set($signature, |e: &mut EventHandle, value: ImmutableString| {
                e.set(|event| &mut event.$field, Some(value));
            })
            .set($signature, |e: &mut EventHandle, (): ()| e.set(|event| &mut event.$field, None))
    };
}

pub fn area(table: &mut Table) {
    table.area("Event");
    field!(table, "ev.data", "Its data, the lines joined, or `()`; can be set.", data)
        .example(r#"res.map_events(|ev| { ev.data = `[${ev.data}]`; }); true"#);
    field!(table, "ev.event", "Its type, or `()`; can be set.", event)
        .example(r#"res.map_events(|ev| ev.event != "debug"); true"#);
    field!(table, "ev.id", "Its id, or `()`; can be set.", id)
        .example(r#"res.map_events(|ev| { ev.id = (); }); true"#);
    field!(table, "ev.retry", "Its reconnection time, or `()`; can be set.", retry)
        .example(r#"res.map_events(|ev| { ev.retry = "1000"; }); true"#);
}

pub fn on_event(callback: Callback) -> OnEvent {
    Box::new(move |event| {
        let shared = Arc::new(Mutex::new(event.clone()));
        let returned = callback.run([Dynamic::from(EventHandle(shared.clone()))])?;
        let edited = shared.lock().clone();
        Ok(match returned.as_bool() {
            Ok(false) => Verdict::Drop,
            _ if edited == *event => Verdict::Keep,
            _ => Verdict::Replace(edited),
        })
    })
}
