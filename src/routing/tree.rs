//! All path patterns of one host, as a tree of segments: a search takes as long as the path has
//! segments (times two per level where both text and `{name}` go on), however many routes.

use std::collections::HashMap;

use super::params::Spans;
use crate::config::pattern::{PathPattern, Segment};

/// A pattern without its parameters' names: patterns of equal shape take the same paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape<'a>(Vec<Step<'a>>);

/// A [`Segment`] without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step<'a> {
    Static(&'a str),
    Param,
    Rest,
}

impl<'a> Shape<'a> {
    pub(super) fn of(pattern: &'a PathPattern) -> Self {
        let step = |segment: &'a Segment| match segment {
            Segment::Static(text) => Step::Static(text),
            Segment::Param(_) => Step::Param,
            Segment::Rest(_) => Step::Rest,
        };
        Self(pattern.segments().iter().map(step).collect())
    }
}

/// The routes whose patterns agree up to here.
#[derive(Debug, Default)]
pub(super) struct Tree {
    statics: HashMap<Box<str>, Tree>,
    param: Option<Box<Tree>>,
    /// Routes whose pattern ends here, best first.
    end: Vec<usize>,
    /// Routes whose pattern goes on with `{name*}`, best first.
    rest: Vec<usize>,
}

impl Tree {
    /// Adds a route. Among equal shapes the one added first comes first.
    pub(super) fn insert(&mut self, pattern: &PathPattern, route: usize) {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Static(text) => node.statics.entry(text.clone()).or_default(),
                Segment::Param(_) => &mut **node.param.get_or_insert_default(),
                Segment::Rest(_) => return node.rest.push(route),
            };
        }
        node.end.push(route);
    }

    /// Offers the routes whose pattern fits `path`, best first, until one is taken. Leaves the
    /// taken route's parameters in `spans`.
    pub(super) fn walk(
        &self,
        path: &str,
        spans: &mut Spans,
        take: &mut dyn FnMut(usize) -> bool,
    ) -> Option<usize> {
        // `from` is the first byte after the slash.
        self.step(path, path.starts_with('/').then_some(1)?, spans, take)
    }

    /// `from` is where the next segment begins; beyond the path's end if there is none.
    fn step(
        &self,
        path: &str,
        from: usize,
        spans: &mut Spans,
        take: &mut dyn FnMut(usize) -> bool,
    ) -> Option<usize> {
        let Some(left) = path.get(from..) else {
            let ended = self.end.iter().copied().find(|route| take(*route));
            return ended.or_else(|| self.step_rest(path.len(), path.len(), spans, take));
        };
        let to = left.find('/').map_or(path.len(), |at| from + at);
        let segment = &path[from..to];
        if let Some(found) =
            self.statics.get(segment).and_then(|next| next.step(path, to + 1, spans, take))
        {
            return Some(found);
        }
        if let Some(next) = self.param.as_deref().filter(|_| !segment.is_empty()) {
            spans.push(from, to);
            if let Some(found) = next.step(path, to + 1, spans, take) {
                return Some(found);
            }
            spans.pop();
        }
        self.step_rest(from, path.len(), spans, take)
    }

    fn step_rest(
        &self,
        from: usize,
        to: usize,
        spans: &mut Spans,
        take: &mut dyn FnMut(usize) -> bool,
    ) -> Option<usize> {
        let found = self.rest.iter().copied().find(|route| take(*route))?;
        spans.push(from, to);
        Some(found)
    }
}
