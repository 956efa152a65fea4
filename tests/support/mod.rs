//! What tests share: the built proxy, scripted origins, a client that sends exact bytes, cases.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod case;
pub mod client;
pub mod dns;
pub mod expect;
pub mod origin;
pub mod proxy;
