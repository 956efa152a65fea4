//! A request's way, one file per phase, in order; `gateway.rs` shows which hook enters which phase.

/// Ids, trace context, the client's true address, sanity of the head.
mod accept;
/// What filters left for after the response.
mod after;
/// Routes that answer with several upstreams' answers in one.
mod aggregate;
/// Request bodies that filters ask for.
mod body;
/// The cache: asked before the origin, filled by its responses.
mod cache;
/// Responses that filters ask to see whole.
mod collect;
/// Whether a message can be read in one way only.
mod conform;
/// Per-request state, in groups.
mod ctx;
/// What `selvedge dev` shows of a request.
mod dev;
/// Conversion between Pingora's messages and what scripts see.
mod exchange;
/// Every failure: status, public text, log level, metric label.
mod fail;
/// One run of a filter's hook: its hands, its cost, its faults.
mod filters;
/// The end of a request: metrics, access log, feedback.
mod finish;
/// What the origin sees.
mod forward;
/// Every hook of Pingora, each calling one phase.
mod gateway;
/// Request heads in the form that is cheap to edit.
mod head;
/// What a request is hashed by.
mod key;
/// Copies of requests to another upstream.
mod mirror;
/// Choice of an endpoint.
mod peer;
/// Request filters: may answer, edit, choose the upstream.
mod request;
/// What the client sees.
mod response;
/// Whether to try another endpoint.
mod retry;
/// Host, path and conditions to a route; routes that answer by themselves.
mod route;
/// What filters do by the clock.
pub mod schedule;
/// A session in place of the client's own, with a body that we hold.
mod stand_in;
/// A cookie that keeps a client at an endpoint.
mod sticky;
/// Bodies that filters transform as they stream by.
mod transform;

pub use gateway::Gateway;
