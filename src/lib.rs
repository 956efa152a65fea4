//! Selvedge: a programmable reverse proxy. The modules, in reading order.

/// The commands.
pub mod cli;
/// YAML to a typed configuration that cannot be invalid.
pub mod config;
/// Host, path and conditions to a route.
pub mod routing;
/// Listeners, connections, drain.
pub mod server;
/// What ops see: metrics, access log, log, trace context.
pub mod telemetry;
/// Certificates by server name.
pub mod tls;
/// Pools of origins: balancing, health, and the client for fetches.
pub mod upstream;
