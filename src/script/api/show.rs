//! Values as text, within bounds: a map may hold one long text a thousand times.

use std::fmt::{self, Write};

use rhai::{Array, Dynamic, Map};

use super::convert::to_json;
use super::table::Table;
use super::{Outcome, safe};
use crate::script::fiber;

/// Text that refuses to grow above its bound.
struct Bounded {
    text: String,
    most: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = self.most - self.text.len();
        if more.len() <= room {
            self.text.push_str(more);
            return Ok(());
        }
        let end = (0..=room).rev().find(|at| more.is_char_boundary(*at)).unwrap_or(0);
        self.text.push_str(&more[..end]);
        Err(fmt::Error)
    }
}

/// The first bytes of a value's text, at most so many.
pub fn text(value: &Dynamic, most: usize) -> String {
    shown(format_args!("{value}"), most)
}

fn shown(value: fmt::Arguments, most: usize) -> String {
    let mut bounded = Bounded { text: String::new(), most };
    // An error says that the bound is reached, and what fits is there.
    let _ = bounded.write_fmt(value);
    fiber::charge(bounded.text.len());
    bounded.text
}

/// Longer texts are cut.
const MOST: usize = safe::STRING;

/// Rhai's own forms build the whole text first. Its fallback, for what is too large to pass its
/// size check, does so too: so a value that is too large is taken away.
fn cut<T: fmt::Debug + Default>(value: &mut T) -> String {
    let text = shown(format_args!("{value:?}"), MOST);
    if text.len() == MOST {
        *value = T::default();
    }
    text
}

pub fn area(table: &mut Table) {
    for name in ["to_string(value)", "to_debug(value)"] {
        table.hidden(name, cut::<Map>).hidden(name, cut::<Array>);
    }
    table.hidden("to_json(map)", |v: &mut Map| -> Outcome<String> {
        Ok(to_json(&Dynamic::from(v.clone()))?.to_string())
    });
}
