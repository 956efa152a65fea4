//! What operators see: metrics, the access log, the process's own log, trace and request ids.
//!
//! Nothing here knows a request, a route or a filter: callers hand in names and numbers.

mod access_format;
pub mod access_log;
mod clock;
pub mod handles;
pub mod log;
pub mod metrics;
mod slots;
pub mod table;
pub mod trace;
