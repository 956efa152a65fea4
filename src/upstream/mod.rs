//! Origins: which endpoint a request goes to, whether it is well, and how it is reached.
//!
//! Nothing here knows of routes, filters or the proxy's phases: those ask a [`pool::Pool`] for an
//! endpoint and a peer, or the [`client::Client`] for a whole exchange.

pub mod balance;
pub mod client;
pub mod egress;
pub mod endpoint;
pub mod error;
mod exchange;
pub mod health;
pub mod pool;
mod tls;

#[cfg(test)]
mod origin;
#[cfg(test)]
mod tests;
