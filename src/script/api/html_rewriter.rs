//! `html_rewriter`: rules for HTML, and the elements that their callbacks see.

use std::sync::Arc;

use parking_lot::Mutex;
use rhai::{Dynamic, FnPtr, NativeCallContext};

use super::convert::scalar_text;
use super::state::State;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::script::callback::Callback;
use crate::transform::{Element, Html, Markup, OnElement, OnText, Place, Rule, Stage};

/// The number of a rewriter in its run.
#[derive(Clone)]
pub struct Rewriter(pub usize);

/// A selector and what is called for it.
#[derive(Clone)]
pub struct Selected {
    selector: String,
    whole: Whole,
    callback: FnPtr,
}

#[derive(Clone, Copy)]
enum Whole {
    Element,
    Text,
}

/// An element while its callback runs; none afterwards.
#[derive(Clone)]
pub struct ElementHandle(Arc<Mutex<Option<Element>>>);

pub fn area(table: &mut Table) {
    table.area("HtmlRewriter");
    rewriter(table);
    attributes(table);
    content(table);
}

fn rewriter(table: &mut Table) {
    table
        .function(
            "html_rewriter()",
            "Rules for `res.rewrite_html`.",
            |c: NativeCallContext| -> Outcome<Rewriter> {
                Ok(Rewriter(State::of(&c)?.given()?.add_rewriter()?))
            },
        )
        .example("res.rewrite_html(html_rewriter()); true")
        .function(
            "rewriter.on(selector, callback)",
            "Calls back with each element that a CSS selector selects.",
            |c: NativeCallContext, r: &mut Rewriter, selector: &str, callback: FnPtr| {
                select(&c, r, selector, Whole::Element, callback)
            },
        )
        .example(r#"html_rewriter().on("img[src]", |el| el.set_attr("loading", "lazy")); true"#)
        .function(
            "rewriter.on_text(selector, callback)",
            "Calls back with each text directly in such an element, whole and without character \
             references. The callback returns a text in its place, `()` to keep it, `false` to \
             drop it.",
            |c: NativeCallContext, r: &mut Rewriter, selector: &str, callback: FnPtr| {
                select(&c, r, selector, Whole::Text, callback)
            },
        )
        .example(r#"html_rewriter().on_text("title", |text| text + " | Shop"); true"#);
}

fn select(
    context: &NativeCallContext,
    rewriter: &mut Rewriter,
    selector: &str,
    whole: Whole,
    callback: FnPtr,
) -> Outcome<Rewriter> {
    Rule::check(selector).map_err(|error| invalid(error.to_string()))?;
    let selected = Selected { selector: selector.to_owned(), whole, callback };
    State::of(context)?.given()?.edit_rewriter(rewriter.0, |rules| rules.push(selected));
    Ok(rewriter.clone())
}

fn attributes(table: &mut Table) {
    table
        .get("el.tag", "The element's name, in lower case.", |el: &mut ElementHandle| {
            el.read(|element| element.tag.clone())
        })
        .example(r#"html_rewriter().on("h1", |el| if el.tag == "h1" { el.remove() }); true"#)
        .function(
            "el.attr(name)",
            "An attribute's value as it is written, or `()`.",
            |el: &mut ElementHandle, name: &str| {
                el.read(|element| element.attribute(name).map_or(Dynamic::UNIT, Into::into))
            },
        )
        .example(r#"html_rewriter().on("a", |el| if el.attr("href") == () { el.unwrap() }); true"#)
        .function(
            "el.set_attr(name, value)",
            "Sets an attribute; quotes in the value are escaped.",
            |el: &mut ElementHandle, name: &str, value: Dynamic| -> Outcome<()> {
                let value = scalar_text(&value)?;
                let set = el.edit(|element| element.set_attribute(name, &value))?;
                set.map_err(|error| invalid(error.to_string()))
            },
        )
        .example(r#"html_rewriter().on("a", |el| el.set_attr("rel", "nofollow")); true"#)
        .function(
            "el.remove_attr(name)",
            "Removes an attribute.",
            |el: &mut ElementHandle, name: &str| el.edit(|element| element.remove_attribute(name)),
        )
        .example(r#"html_rewriter().on("[onclick]", |el| el.remove_attr("onclick")); true"#);
}

/// Two methods for a place: text is escaped, HTML is not.
macro_rules! inserts {
    ($table:expr, $place:expr, $name:literal, $what:literal) => {
        $table
            .function(
                concat!("el.", $name, "_text(text)"),
                concat!("Puts text ", $what, ", escaped."),
                |el: &mut ElementHandle, text: &str| {
                    el.edit(|element| element.insert($place, Markup::Text(text.to_owned())))
                },
            )
            .example(concat!("html_rewriter().on(\"p\", |el| el.", $name, "_text(\"<\")); true"))
            .function(
                concat!("el.", $name, "_html(html)"),
                concat!("Puts HTML ", $what, ", as it is."),
                |el: &mut ElementHandle, html: &str| {
                    el.edit(|element| element.insert($place, Markup::Html(html.to_owned())))
                },
            )
            .example(concat!("html_rewriter().on(\"p\", |el| el.", $name, "_html(\"<hr>\")); true"))
    };
}

fn content(table: &mut Table) {
    use Place::{After, Append, Before, Inner, Prepend};
    inserts!(table, Inner, "set", "in place of the content");
    inserts!(table, Prepend, "prepend", "before the content");
    inserts!(table, Append, "append", "behind the content");
    inserts!(table, Before, "before", "before the element");
    inserts!(table, After, "after", "behind the element");
    table
        .function("el.remove()", "Removes it with all that is in it.", |el: &mut ElementHandle| {
            el.edit(Element::remove)
        })
        .example(r#"html_rewriter().on("script", |el| el.remove()); true"#)
        .function(
            "el.unwrap()",
            "Removes its tags, and keeps the content.",
            |el: &mut ElementHandle| el.edit(Element::unwrap),
        )
        .example(r#"html_rewriter().on("font", |el| el.unwrap()); true"#);
}

impl ElementHandle {
    fn read<R>(&self, read: impl FnOnce(&Element) -> R) -> Outcome<R> {
        self.edit(|element| read(element))
    }

    fn edit<R>(&self, edit: impl FnOnce(&mut Element) -> R) -> Outcome<R> {
        let gone = || fail("unavailable", "this element has gone by");
        self.0.lock().as_mut().map(edit).ok_or_else(gone)
    }
}

/// The stage of a rewriter.
pub fn stage(
    rules: Vec<Selected>,
    charset: Option<&str>,
    callback: &dyn Fn(FnPtr) -> Callback,
) -> Outcome<Box<dyn Stage>> {
    let rules = rules.into_iter().map(|rule| {
        let called = callback(rule.callback);
        match rule.whole {
            Whole::Element => Rule::Element(rule.selector, on_element(called)),
            Whole::Text => Rule::Text(rule.selector, on_text(called)),
        }
    });
    let html = Html::new(rules.collect(), charset).map_err(|error| invalid(error.to_string()))?;
    Ok(Box::new(html))
}

fn on_element(callback: Callback) -> OnElement {
    Box::new(move |element| {
        let shared = Arc::new(Mutex::new(Some(element)));
        let handle = Dynamic::from(ElementHandle(shared.clone()));
        let _returned = callback.run([handle])?;
        // Taken away, should the script have kept a handle.
        Ok(shared.lock().take().unwrap_or_default())
    })
}

fn on_text(callback: Callback) -> OnText {
    Box::new(move |text| callback.call([text.into()], |value| scalar_text(&value)))
}
