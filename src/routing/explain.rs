//! Why each route takes a request or does not, for the command line: linear in the routes.

use super::router::{Found, RequestView, Router};
use crate::config::pattern::canonical_host;

/// What came of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Taken,
    Outranked {
        by: usize,
    },
    Host,
    Path,
    /// The condition that does not hold.
    Condition(String),
    Method,
}

impl Router {
    /// The reason for each route, in the order they were given.
    pub fn explain(&self, request: &RequestView<'_>) -> Vec<(usize, Reason)> {
        let host = canonical_host(request.host);
        let taken = match self.find(request) {
            Found::Route { index, .. } => Some(index),
            Found::MethodNotAllowed { .. } | Found::NotFound => None,
        };
        let reason = |index: usize| {
            let entry = &self.entries()[index];
            if !entry.matches.host.matches(&host) {
                return Reason::Host;
            }
            if !entry.matches.path.matches(request.path) {
                return Reason::Path;
            }
            if let Some(condition) = entry.conditions.failing(request) {
                return Reason::Condition(condition);
            }
            match taken {
                _ if !entry.takes_method(request.method) => Reason::Method,
                Some(by) if by != index => Reason::Outranked { by },
                _ => Reason::Taken,
            }
        };
        (0..self.entries().len()).map(|index| (index, reason(index))).collect()
    }
}
