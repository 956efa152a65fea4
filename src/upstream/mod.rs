//! Origins: which endpoint a request goes to, whether it is well, and how it is reached.
//!
//! Nothing here knows of routes, filters or the proxy's phases: those begin an [`attempt::Attempt`]
//! at a [`pool::Pool`] and tell it what came of it, or ask the [`client::Client`] for a whole
//! exchange. What changes by itself (checks, discovery, ejections that end) is [`watch`]'s.

pub mod attempt;
pub mod balance;
pub mod circuit;
pub mod client;
pub mod clock;
pub mod dial;
mod discovery;
pub mod egress;
pub mod endpoint;
pub mod error;
mod exchange;
mod health;
mod latency;
pub mod outlier;
mod peer;
pub mod pool;
pub mod retry;
pub mod sticky;
mod tls;
pub mod watch;

#[cfg(test)]
mod origin;
#[cfg(test)]
mod tests;
