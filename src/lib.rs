//! Selvedge: a programmable reverse proxy. The modules, in reading order.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]
// `cli::print` writes, as these panic when the reader has gone.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

/// Health, reload, state and metrics, for operators.
pub mod admin;
/// What is stored of responses, for how long and for whom.
pub mod cache;
/// The commands.
pub mod cli;
/// YAML to a typed configuration that cannot be invalid.
pub mod config;
/// Client connections: sockets, TLS, limits, drain.
pub mod listen;
/// A request's way: open `proxy/gateway.rs` first.
pub mod proxy;
/// Host, path and conditions to a route.
pub mod routing;
/// Filters: compiled scripts on fibers, with their host and their meter.
pub mod script;
/// The running program.
pub mod server;
/// Everything a request needs, built from one configuration and swapped whole.
pub mod snapshot;
/// What filters keep: the store, rate limits, counters, locks, lists.
pub mod state;
/// What ops see: metrics, access log, log, trace context.
pub mod telemetry;
/// Certificates by server name.
pub mod tls;
pub mod transform;
/// Pools of origins: balancing, health, and the client for fetches.
pub mod upstream;

#[global_allocator]
static ALLOCATOR: script::CountingAlloc = script::CountingAlloc::new();
