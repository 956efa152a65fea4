//! `selvedge purge`: has the running server forget stored responses.

use std::process::ExitCode;

use clap::Args;

use super::admin::Admin;
use super::print::{answer, fail};

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false)]
pub struct What {
    /// A URL, with all of its variants
    url: Option<String>,
    /// All URLs that begin like this
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// All URLs of a host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// All responses with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Everything
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub struct Purge {
    #[command(flatten)]
    what: What,
    /// Make them stale instead: they are revalidated, and may be served meanwhile
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    server: Admin,
}

impl Purge {
    pub fn run(self) -> ExitCode {
        let admin = self.server.admin;
        match self.server.ask("POST", &self.target()) {
            Ok((200, body)) => answer(&body),
            Ok((status @ (400 | 404 | 503), body)) if !body.is_empty() => {
                fail(format!("{admin}: status {status}: {}", body.trim_end()))
            }
            Ok((status, _)) => fail(format!("{admin}: status {status}: no admin address?")),
            Err(error) => fail(format!("{admin}: {error}")),
        }
    }

    fn target(&self) -> String {
        let What { url, prefix, host, tag, all } = &self.what;
        let mut query = form_urlencoded::Serializer::new(String::from("/purge?"));
        let given = [("url", url), ("prefix", prefix), ("host", host), ("tag", tag)];
        for (name, value) in given {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if *all {
            query.append_key_only("all");
        }
        if self.soft {
            query.append_key_only("soft");
        }
        query.finish()
    }
}
