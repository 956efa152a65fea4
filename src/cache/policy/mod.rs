//! What may be stored, for how long it is fresh, and for which request it may be used: pure
//! functions of RFC 9111 (caching), 9110 (semantics), 5861 (stale), 8246 (immutable) and 9213
//! (targeted fields).
//!
//! Nothing here knows a connection, a store or the clock: what time it is, the caller says.

/// Dates as servers write them.
mod dates;
/// Directives of `Cache-Control` and its relatives.
mod directives;
/// Whether a response may be stored, and for how long.
mod freshness;
/// What an unsafe method makes invalid.
mod invalidate;
/// What a 304 changes.
mod merge;
/// Whether a request may have what is stored.
mod reuse;
/// `Cache-Status`.
mod status;
/// `Vary`.
mod vary;

pub use directives::Directives;
pub use freshness::{Answer, Lifetime, Refusal, Verdict, Wishes, judge, stale_on_error};
pub use invalidate::{invalidated, same_host};
pub use merge::{take_private_fields, update};
pub use reuse::{RequestDirectives, Reuse, Stored, reuse};
pub use status::{Forwarded, Handled, cache_status};
pub use vary::variant;
