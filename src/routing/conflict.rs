//! Routes that cannot all be meant: two that tie, or one that no request can reach.
//!
//! Since conditions come without implied ones, and more specific ones go first, a route takes
//! all requests of another only if both have equal conditions and share methods: a tie.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::conditions::Conditions;
use super::tree::Shape;
use crate::config::pattern::HostPattern;
use crate::config::routes::Route;

/// Why a set of routes is refused. Indexes are those of the slice given to `Router::build`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// `second` would never get what both take.
    #[error(
        "routes `{first_name}` and `{second_name}` both take {methods} of {host}{path} under the same conditions: add a condition to one, or remove it"
    )]
    Tie {
        first: usize,
        first_name: Arc<str>,
        second: usize,
        second_name: Arc<str>,
        methods: String,
        host: String,
        path: String,
    },
    /// No request can fulfil the route's conditions.
    #[error("route `{name}` can never be reached: {why}")]
    Unreachable { route: usize, name: Arc<str>, why: String },
}

/// Finds ties, one route at a time; linear in the number of routes.
#[derive(Default)]
pub(super) struct Ties<'a> {
    seen: HashMap<(&'a HostPattern, Shape<'a>, &'a Conditions), HashMap<Option<&'a Method>, usize>>,
}

impl<'a> Ties<'a> {
    /// Adds `routes[second]`, and reports each earlier route that it ties with, once.
    pub(super) fn add(
        &mut self,
        routes: &'a [Route],
        second: usize,
        conditions: &'a Conditions,
    ) -> Vec<Conflict> {
        let Some(route) = routes.get(second) else {
            return Vec::new();
        };
        let key = (&route.matches.host, Shape::of(&route.matches.path), conditions);
        let owners = self.seen.entry(key).or_default();
        let mut shared: Vec<(usize, Vec<&str>)> = Vec::new();
        for method in methods(route) {
            let first = *owners.entry(method).or_insert(second);
            let name = method.map_or("all methods", Method::as_str);
            match shared.iter_mut().find(|(other, _)| *other == first) {
                Some((_, names)) => names.push(name),
                None if first != second => shared.push((first, vec![name])),
                None => {}
            }
        }
        let tie = |(first, names): (usize, Vec<&str>)| Conflict::Tie {
            first,
            first_name: routes[first].name.clone(),
            second,
            second_name: route.name.clone(),
            methods: names.join(", "),
            host: route.matches.host.to_string(),
            path: route.matches.path.to_string(),
        };
        shared.into_iter().map(tie).collect()
    }
}

/// The methods of a route; `None` stands for any.
fn methods(route: &Route) -> impl Iterator<Item = Option<&Method>> {
    let given = &route.matches.methods;
    given.iter().map(Some).chain(given.is_empty().then_some(None))
}
