//! From host, path, method and conditions to the one route that a request takes; no I/O.
//!
//! # Precedence
//! Of all routes that fit a request, the first in this order takes it:
//! 1. Host: a name, before the longest wildcard, before any host.
//! 2. Path, segment by segment from the left: text, before `{name}`, before `{rest*}`; a pattern
//!    that ends with the path, before `{rest*}` matching nothing.
//! 3. More conditions before fewer; among as many, more `equals` before fewer. Conditions that
//!    others imply do not count.
//! 4. Given methods before any method.
//! 5. The order they are written in.
//!
//! A route that fails on one of its conditions or on its method leaves the request to the next
//! in that order, also on another path pattern or host. If none is left, and some failed on the
//! method alone, the answer is 405 with their methods, else 404.
//!
//! Only rules 1 to 4 may decide between routes with equal conditions: two that would need rule 5
//! are a [`Conflict`].

mod conditions;
mod conflict;
mod explain;
mod params;
pub mod path;
mod router;
mod split;
#[cfg(test)]
mod tests;
mod tree;

pub use conflict::Conflict;
pub use explain::Reason;
pub use params::Params;
pub use router::{Found, RequestView, Router};
pub use split::Split;
