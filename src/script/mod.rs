//! The script runtime: compiles filters, runs their hooks on fibers, and bounds what they may use.
//!
//! It knows nothing of Pingora: hooks work on an [`Exchange`], and reach the world by a [`Host`].

mod after;
mod api;
mod caches;
mod callback;
mod compile;
mod coverage;
mod crypto;
mod diagnostic;
mod exchange;
mod fault;
mod fiber;
pub mod fuzz;
mod guard;
mod harness;
mod hooks;
mod host;
mod imports;
mod leaks;
mod lint;
mod lower;
mod meter;
mod rest;
mod run;
#[cfg(test)]
mod tests;
mod verify;

pub use after::{After, AfterQueue, Done};
pub use api::{definitions, reference};
pub use compile::{Script, compile};
pub use coverage::{Cost, Coverage, Covered};
pub use crypto::KeySets;
pub use diagnostic::Diagnostic;
pub use exchange::{
    CertInfo, Client, Ctx, Ending, ErrorInfo, Event, Exchange, From, MessageBody, RequestDraft,
    ResponseDraft, TlsInfo,
};
pub use fault::{Cause, Fault};
pub use fiber::CountingAlloc;
pub use guard::{Guard, Passed};
pub use harness::{
    Failure, Report, ReportedFailure, ReportedFile, ReportedTest, Tested, required, test_file,
    tests_of,
};
pub use hooks::Hook;
pub use host::{
    BoxFuture, FakeHost, FetchError, FetchErrorKind, FetchRequest, FetchResponse, Host,
};
pub use leaks::left_behind;
pub use lower::{FunctionCost, Slow};
pub use meter::{LimitHit, LimitKind, Limits, RunFigures};
pub use run::{Outcome, Run, run};
pub use verify::Verified;
