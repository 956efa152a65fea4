//! What the parameters of a path pattern stand for in one path.

use std::sync::Arc;

use crate::config::pattern::MAX_PARAMS;

/// Where in a path each parameter's value lies. Does not borrow the path, and never allocates:
/// values are read with the very path that was searched. They are in normal form, not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    names: Arc<[Box<str>]>,
    spans: Spans,
}

impl Params {
    pub(super) fn new(names: Arc<[Box<str>]>, spans: Spans) -> Self {
        Self { names, spans }
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The value of `{name}` or `{name*}` in `path`.
    pub fn get<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        self.iter(path).find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Names and values, in the order of the pattern.
    pub fn iter<'s, 'p>(&'s self, path: &'p str) -> impl Iterator<Item = (&'s str, &'p str)> {
        let values =
            self.spans.as_slice().iter().map(|(from, to)| path.get(*from..*to).unwrap_or_default());
        self.names.iter().map(|name| &**name).zip(values)
    }
}

/// Byte ranges, as many as a pattern may have parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spans {
    spans: [(usize, usize); MAX_PARAMS],
    len: usize,
}

impl Spans {
    /// With one more. The pattern's parser keeps to [`MAX_PARAMS`]; what is beyond is dropped.
    pub(super) fn push(&mut self, from: usize, to: usize) {
        if let Some(slot) = self.spans.get_mut(self.len) {
            *slot = (from, to);
            self.len += 1;
        }
    }

    pub(super) fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    fn as_slice(&self) -> &[(usize, usize)] {
        &self.spans[..self.len]
    }
}
