//! Transforms of a response's body: given in a hook, done while the body streams by.

use std::sync::Arc;

use parking_lot::Mutex;
use rhai::{Dynamic, FnPtr, ImmutableString, NativeCallContext, Position};

use super::convert::{bytes_of, scalar_text};
use super::html_rewriter::{Rewriter, Selected};
use super::objects::Response;
use super::state::State;
use super::table::Table;
use super::text::{Regex, groups_map};
use super::{Outcome, fail, invalid};
use crate::script::callback::Callback;
use crate::transform::{
    Append, Chunks, Events, Json, Lines, Prepend, ReplaceRegex, ReplaceText, Replacement, Stage,
    Verdict,
};

/// Transforms of one run.
const MOST: usize = 64;

/// What a run was given for bodies.
///
/// Responses and rewriters hold numbers of it only, so that no closure can hold what holds it.
#[derive(Clone, Default)]
pub struct Given(Arc<Mutex<Lists>>);

#[derive(Default)]
struct Lists {
    transforms: Vec<(Transform, Position)>,
    rewriters: Vec<Vec<Selected>>,
}

/// One transform, as a script gave it.
#[derive(Clone)]
enum Transform {
    ReplaceText(Vec<u8>, Vec<u8>),
    Prepend(Vec<u8>),
    Append(Vec<u8>),
    Html(usize),
    Chunks(FnPtr),
    Lines(FnPtr),
    Events(FnPtr),
    Json(FnPtr),
    /// By a template.
    Regex(String, String),
    RegexBy(String, FnPtr),
}

impl Transform {
    fn calls_back(&self) -> bool {
        !matches!(
            self,
            Self::ReplaceText(..) | Self::Prepend(_) | Self::Append(_) | Self::Regex(..)
        )
    }
}

impl Given {
    fn add(&self, transform: Transform, position: Position) -> Outcome<usize> {
        let transforms = &mut self.0.lock().transforms;
        if transforms.len() >= MOST {
            return Err(fail("limit", format!("a hook gives at most {MOST} transforms")));
        }
        transforms.push((transform, position));
        Ok(transforms.len() - 1)
    }

    pub fn add_rewriter(&self) -> Outcome<usize> {
        let rewriters = &mut self.0.lock().rewriters;
        if rewriters.len() >= MOST {
            return Err(fail("limit", format!("a hook makes at most {MOST} rewriters")));
        }
        rewriters.push(Vec::new());
        Ok(rewriters.len() - 1)
    }

    pub fn edit_rewriter<R>(&self, id: usize, edit: impl FnOnce(&mut Vec<Selected>) -> R) -> R {
        edit(&mut self.0.lock().rewriters[id])
    }

    /// Whether any of these needs the script, and so its fiber.
    pub fn call_back(&self, ids: &[usize]) -> bool {
        let lists = self.0.lock();
        ids.iter().any(|id| lists.transforms[*id].0.calls_back())
    }

    /// The stage of one transform, for a body in `charset`, and where it was given.
    pub fn stage(
        &self,
        id: usize,
        charset: Option<&str>,
        callback: &dyn Fn(FnPtr) -> Callback,
    ) -> (Outcome<Box<dyn Stage>>, Position) {
        let (transform, position) = self.0.lock().transforms[id].clone();
        (self.stage_of(transform, charset, callback), position)
    }

    fn stage_of(
        &self,
        transform: Transform,
        charset: Option<&str>,
        callback: &dyn Fn(FnPtr) -> Callback,
    ) -> Outcome<Box<dyn Stage>> {
        Ok(match transform {
            Transform::ReplaceText(from, to) => {
                let stage = ReplaceText::new(&from, to);
                Box::new(stage.ok_or_else(|| invalid("an empty text cannot be replaced"))?)
            }
            Transform::Prepend(bytes) => Box::new(Prepend::new(bytes)),
            Transform::Append(bytes) => Box::new(Append(bytes)),
            Transform::Html(rewriter) => {
                let rules = self.edit_rewriter(rewriter, |rules| rules.clone());
                super::html_rewriter::stage(rules, charset, callback)?
            }
            Transform::Chunks(function) => Box::new(Chunks(chunks(callback(function)))),
            Transform::Lines(function) => Box::new(Lines::new(lines(callback(function)))),
            Transform::Events(function) => {
                Box::new(Events::new(super::events::on_event(callback(function))))
            }
            Transform::Json(function) => {
                Box::new(Json::new(super::document::on_json(callback(function))))
            }
            Transform::Regex(pattern, by) => regex(&pattern, Replacement::Template(by))?,
            Transform::RegexBy(pattern, function) => {
                regex(&pattern, Replacement::Callback(matches(callback(function))))?
            }
        })
    }

    /// Frees the closures, whatever still holds this.
    pub fn clear(&self) {
        *self.0.lock() = Lists::default();
    }
}

fn chunks(callback: Callback) -> crate::transform::OnChunk {
    Box::new(move |piece, last| {
        let shown = Dynamic::from_blob(piece.to_vec());
        callback.call([shown, last.into()], |value| bytes_of(&value))
    })
}

fn lines(callback: Callback) -> crate::transform::OnLine {
    Box::new(move |line| callback.call([line.into()], |value| scalar_text(&value)))
}

fn matches(callback: Callback) -> crate::transform::OnMatch {
    Box::new(move |groups| {
        let shown = Dynamic::from_map(groups_map(groups));
        callback.call([shown], |value| Ok(scalar_text(&value)?.into_bytes()))
    })
}

fn regex(pattern: &str, by: Replacement) -> Outcome<Box<dyn Stage>> {
    let stage = ReplaceRegex::new(pattern, by).map_err(|error| invalid(error.to_string()))?;
    Ok(Box::new(stage))
}

/// What a callback returned: `()` keeps, `false` drops, all else replaces.
pub fn verdict<T>(
    value: Dynamic,
    replacement: impl FnOnce(Dynamic) -> Outcome<T>,
) -> Outcome<Verdict<T>> {
    if value.is_unit() {
        return Ok(Verdict::Keep);
    }
    if value.as_bool() == Ok(false) {
        return Ok(Verdict::Drop);
    }
    replacement(value).map(Verdict::Replace)
}

pub fn area(table: &mut Table) {
    table.area("Transforms");
    replacing(table);
    mapping(table);
}

fn replacing(table: &mut Table) {
    table
        .function(
            "res.replace_text(text, by)",
            "Replaces a text everywhere in the body, as it streams by.",
            |c: NativeCallContext, r: &mut Response, from: ImmutableString, to: ImmutableString| {
                replace_text(&c, r, &from, &to)
            },
        )
        .example(r#"res.replace_text("http://old.test", "https://new.example"); true"#)
        .function(
            "res.replace_regex(re, by)",
            "Replaces all matches, as if the body were one text. `by` is a text, in which `$1` is \
             a group, or a callback that gets the groups as a map (`m[\"0\"]` is the match) and \
             returns a text, `()` to keep the match, or `false` to drop it.",
            |c: NativeCallContext, r: &mut Response, re: Regex, by: ImmutableString| {
                replace_regex(&c, r, &re, |pattern| Transform::Regex(pattern, by.to_string()))
            },
        )
        .overload(
            "res.replace_regex(re, by)",
            |c: NativeCallContext, r: &mut Response, re: Regex, by: FnPtr| {
                replace_regex(&c, r, &re, |pattern| Transform::RegexBy(pattern, by))
            },
        )
        .example(r#"res.replace_regex(regex("[0-9]{4} (?P<last>[0-9]{4})"), |m| "**** " + m.last); true"#)
        .function(
            "res.prepend(data)",
            "Puts text or bytes before the body.",
            |c: NativeCallContext, r: &mut Response, data: Dynamic| {
                give(&c, r, Transform::Prepend(bytes_of(&data)?))
            },
        )
        .example(r#"res.prepend("<!doctype html>"); true"#)
        .function(
            "res.append(data)",
            "Puts text or bytes behind the body.",
            |c: NativeCallContext, r: &mut Response, data: Dynamic| {
                give(&c, r, Transform::Append(bytes_of(&data)?))
            },
        )
        .example(r#"res.append("\n"); true"#);
}

fn mapping(table: &mut Table) {
    table
        .function(
            "res.rewrite_html(rewriter)",
            "Rewrites the body, which is HTML, by a rewriter's rules.",
            |c: NativeCallContext, r: &mut Response, rewriter: Rewriter| {
                give(&c, r, Transform::Html(rewriter.0))
            },
        )
        .example(
            r#"res.rewrite_html(html_rewriter().on("a", |el| el.set_attr("rel", "nofollow"))); true"#,
        )
        .function(
            "res.map_chunks(callback)",
            "Shows each piece as it comes, as bytes, and whether it is the last (which may be \
             empty). The callback returns bytes or text in its place, `()` to keep it, `false` to \
             drop it.",
            |c: NativeCallContext, r: &mut Response, callback: FnPtr| {
                give(&c, r, Transform::Chunks(callback))
            },
        )
        .example(r#"res.map_chunks(|piece, last| if last { "." } else { () }); true"#)
        .function(
            "res.map_lines(callback)",
            "Shows each line, without its end. The callback returns a text in its place, `()` to \
             keep it, `false` to drop it.",
            |c: NativeCallContext, r: &mut Response, callback: FnPtr| {
                give(&c, r, Transform::Lines(callback))
            },
        )
        .example(r##"res.map_lines(|line| if line.starts_with("#") { false } else { () }); true"##)
        .function(
            "res.map_events(callback)",
            "Shows each server-sent event, which can be edited. `false` drops it.",
            |c: NativeCallContext, r: &mut Response, callback: FnPtr| {
                give(&c, r, Transform::Events(callback))
            },
        )
        .example(r#"res.map_events(|ev| if ev.event == "debug" { false } else { ev.id = () }); true"#)
        .function(
            "res.map_json(callback)",
            "Shows the body as one JSON document of at most 4 MiB, which can be edited; what is \
             not touched keeps its order and digits. A value that is returned takes its place. A \
             body that is no JSON passes as it is, and is logged.",
            |c: NativeCallContext, r: &mut Response, callback: FnPtr| {
                give(&c, r, Transform::Json(callback))
            },
        )
        .example(r#"res.map_json(|doc| { doc.remove("secret"); doc.seen = true; }); true"#);
}

fn give(context: &NativeCallContext, response: &mut Response, transform: Transform) -> Outcome<()> {
    let id = State::of(context)?.given()?.add(transform, context.call_position())?;
    response.0.write(|draft| draft.transforms.push(id));
    Ok(())
}

fn replace_regex(
    context: &NativeCallContext,
    response: &mut Response,
    re: &Regex,
    transform: impl FnOnce(String) -> Transform,
) -> Outcome<()> {
    if re.0.is_match("") {
        return Err(invalid("an expression that matches the empty text has no use here"));
    }
    give(context, response, transform(re.0.as_str().to_owned()))
}

fn replace_text(
    context: &NativeCallContext,
    response: &mut Response,
    from: &str,
    to: &str,
) -> Outcome<()> {
    if from.is_empty() {
        return Err(invalid("an empty text cannot be replaced"));
    }
    if from.len() > ReplaceText::MOST {
        let most = ReplaceText::MOST;
        return Err(fail("limit", format!("a text to replace has at most {most} bytes")));
    }
    give(context, response, Transform::ReplaceText(from.into(), to.into()))
}
