//! Transforms of a response's body: given in a hook, done while the body streams by.

use std::sync::Arc;

use parking_lot::Mutex;
use rhai::{Dynamic, FnPtr, ImmutableString, NativeCallContext, Position};

use super::convert::bytes_of;
use super::html_rewriter::{Rewriter, Selected};
use super::objects::Response;
use super::state::State;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::script::callback::Callback;
use crate::transform::{Append, Chunks, Prepend, ReplaceText, Stage, Verdict};

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
}

impl Transform {
    fn calls_back(&self) -> bool {
        matches!(self, Self::Html(_) | Self::Chunks(_))
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
        .example(r#"res.append("\n"); true"#)
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
        .example(r#"res.map_chunks(|piece, last| if last { "." } else { () }); true"#);
}

fn give(context: &NativeCallContext, response: &mut Response, transform: Transform) -> Outcome<()> {
    let id = State::of(context)?.given()?.add(transform, context.call_position())?;
    response.0.write(|draft| draft.transforms.push(id));
    Ok(())
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
