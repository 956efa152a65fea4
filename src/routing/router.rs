//! The router: built once from all routes, then asked once per request.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::conditions::Conditions;
use super::conflict::{Conflict, Ties};
use super::params::{Params, Spans};
use super::tree::Tree;
use crate::config::pattern::{HostPattern, canonical_host};
use crate::config::routes::{Match, Route};

/// What routes look at in a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// As in `Host` or `:authority`; a port does no harm.
    pub host: &'a str,
    /// In normal form, see `path::normalise`.
    pub path: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// Without the `?`.
    pub query: Option<&'a str>,
}

/// Which route a request takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Index into the routes that the router was built from.
    Route { index: usize, params: Params },
    /// 405; `allow` is the header's value.
    MethodNotAllowed { allow: String },
    /// 404.
    NotFound,
}

/// All routes, arranged for finding. See the module for the order among them.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<Box<str>, Tree>,
    /// By what follows `*.`
    wildcard: HashMap<Box<str>, Tree>,
    /// Bytes of the longest key of `wildcard`: longer ends of a host need no look.
    longest_wildcard: usize,
    any: Tree,
    entries: Vec<Entry>,
}

/// The methods of a route that names none, as far as they have a standard. TRACE is not among
/// them: it shows the client what the proxy and its filters added for the origin.
const ANY: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// What is tested of a route once its host and path fit.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) matches: Match,
    pub(super) conditions: Conditions,
    names: Arc<[Box<str>]>,
}

/// How an entry takes a request that fits its host and path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    AllButMethod,
    No,
}

impl Router {
    /// Fails with every conflict among `routes`.
    pub fn build(routes: &[Route]) -> Result<Self, Vec<Conflict>> {
        let (entries, mut conflicts) = entries(routes);
        let mut ties = Ties::default();
        for (index, entry) in &entries {
            conflicts.extend(ties.add(routes, *index, &entry.conditions));
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let mut router = Self {
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
            ..Self::default()
        };
        let mut order: Vec<usize> = (0..router.entries.len()).collect();
        order.sort_by_key(|index| router.entries[*index].rank());
        for index in order {
            router.insert(index);
        }
        Ok(router)
    }

    fn insert(&mut self, index: usize) {
        let Match { host, path, .. } = &self.entries[index].matches;
        let tree = match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Wildcard(suffix) => {
                self.longest_wildcard = self.longest_wildcard.max(suffix.len());
                self.wildcard.entry(suffix.clone()).or_default()
            }
        };
        tree.insert(path, index);
    }

    /// The route that takes `request`. Its cost grows with the request's host and path and with
    /// routes of one host and path that differ in conditions, not with the number of routes.
    pub fn find(&self, request: &RequestView<'_>) -> Found {
        let mut spans = Spans::default();
        let mut wrong_method = false;
        let found = self.walk(request, &mut spans, &mut |index| {
            let fit = self.entries[index].fit(request);
            wrong_method |= fit == Fit::AllButMethod;
            fit == Fit::Yes
        });
        match found {
            Some(index) => Found::Route {
                index,
                params: Params::new(self.entries[index].names.clone(), spans),
            },
            None if wrong_method => Found::MethodNotAllowed { allow: self.allow(request) },
            None => Found::NotFound,
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The methods with which `request` would find a route.
    fn allow(&self, request: &RequestView<'_>) -> String {
        let mut methods = BTreeSet::new();
        self.walk(request, &mut Spans::default(), &mut |index| {
            let entry = &self.entries[index];
            if entry.fit(request) == Fit::AllButMethod {
                methods.extend(entry.methods().iter().map(Method::as_str));
            }
            false
        });
        methods.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Offers all routes whose host and path fit, best first, until one is taken.
    fn walk(
        &self,
        request: &RequestView<'_>,
        spans: &mut Spans,
        take: &mut dyn FnMut(usize) -> bool,
    ) -> Option<usize> {
        let host = canonical_host(request.host);
        if let Some(found) =
            self.exact.get(&*host).and_then(|tree| tree.walk(request.path, spans, take))
        {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            let dots = host.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
            for suffix in dots
                .map(|at| &host[at + 1..])
                .filter(|suffix| suffix.len() <= self.longest_wildcard)
            {
                let tree = self.wildcard.get(suffix);
                if let Some(found) = tree.and_then(|tree| tree.walk(request.path, spans, take)) {
                    return Some(found);
                }
            }
        }
        self.any.walk(request.path, spans, take)
    }
}

impl Entry {
    fn new(matches: &Match) -> Result<Self, String> {
        Ok(Self {
            matches: matches.clone(),
            conditions: Conditions::new(&matches.conditions)?,
            names: matches.path.names().map(Box::from).collect(),
        })
    }

    fn fit(&self, request: &RequestView<'_>) -> Fit {
        if !self.conditions.hold(request) {
            return Fit::No;
        }
        if self.takes_method(request.method) { Fit::Yes } else { Fit::AllButMethod }
    }

    pub(super) fn takes_method(&self, method: &Method) -> bool {
        match &*self.matches.methods {
            [] => *method != Method::TRACE,
            given => given.contains(method),
        }
    }

    /// What `Allow` says of this route.
    fn methods(&self) -> &[Method] {
        if self.matches.methods.is_empty() { &ANY } else { &self.matches.methods }
    }

    /// The order among routes of one host and path; what is equal stays as written.
    fn rank(&self) -> (Reverse<(usize, usize)>, bool) {
        (Reverse(self.conditions.weight()), self.matches.methods.is_empty())
    }
}

/// The routes that can be reached, with their indexes, and the conflicts of the others.
fn entries(routes: &[Route]) -> (Vec<(usize, Entry)>, Vec<Conflict>) {
    let (mut entries, mut conflicts) = (Vec::with_capacity(routes.len()), Vec::new());
    for (index, route) in routes.iter().enumerate() {
        match Entry::new(&route.matches) {
            Ok(entry) => entries.push((index, entry)),
            Err(why) => conflicts.push(Conflict::Unreachable {
                route: index,
                name: route.name.clone(),
                why,
            }),
        }
    }
    (entries, conflicts)
}
