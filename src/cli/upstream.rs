//! `selvedge upstream`: shows upstreams of a running server, and takes endpoints out and in again.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::admin::Admin;
use super::print::{answer, fail};

#[derive(Debug, Args)]
pub struct Upstream {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print all upstreams with the state of their endpoints, as JSON
    Show(Admin),
    /// Give an endpoint no more requests but those that stick to it
    Drain(One),
    /// Take an endpoint out altogether; its checks stop
    Disable(One),
    /// Undo drain and disable
    Enable(One),
}

#[derive(Debug, Args)]
struct One {
    /// The upstream's name
    upstream: String,
    /// The endpoint's address, as `upstream show` prints it
    endpoint: String,
    #[command(flatten)]
    admin: Admin,
}

impl Upstream {
    pub fn run(self) -> ExitCode {
        match &self.action {
            Action::Show(admin) => ask(admin, "GET", "/upstreams"),
            Action::Drain(one) => one.ask("drain"),
            Action::Disable(one) => one.ask("disable"),
            Action::Enable(one) => one.ask("enable"),
        }
    }
}

impl One {
    fn ask(&self, action: &str) -> ExitCode {
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let (upstream, endpoint) = (encoded(&self.upstream), encoded(&self.endpoint));
        ask(&self.admin, "POST", &format!("/upstreams/{upstream}/{action}?endpoint={endpoint}"))
    }
}

fn ask(admin: &Admin, method: &str, target: &str) -> ExitCode {
    match admin.ask(method, target) {
        Ok((200, body)) => answer(&body),
        Ok((404, body)) => fail(body.trim_end()),
        Ok((status, _)) => fail(format!("{}: status {status}: no admin address?", admin.admin)),
        Err(error) => fail(format!("{}: {error}", admin.admin)),
    }
}
