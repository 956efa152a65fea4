//! `selvedge demo`: the proxy in front of two origins of its own, with the shipped filters.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::demo_origin;
use super::run::{Process, serve};
use crate::config::{self, Input};

/// The demo's files, as they stand in the source tree.
const FILES: [(&str, &str); 6] = [
    ("conf/demo.yaml", include_str!("../../conf/demo.yaml")),
    ("conf/demo.key", include_str!("../../conf/demo.key")),
    ("scripts/auth.rhai", include_str!("../../scripts/auth.rhai")),
    ("scripts/ab.rhai", include_str!("../../scripts/ab.rhai")),
    ("scripts/aggregate.rhai", include_str!("../../scripts/aggregate.rhai")),
    ("scripts/security_headers.rhai", include_str!("../../scripts/security_headers.rhai")),
];
/// Where `conf/demo.yaml` expects its origins.
const ORIGINS: [&str; 2] = ["127.0.0.1:3001", "127.0.0.1:3002"];

#[derive(Debug, Args)]
pub struct Demo {
    /// Use free ports instead of 8080, 9900 and 9901
    #[arg(long)]
    free_ports: bool,
    #[command(flatten)]
    process: Process,
}

impl Demo {
    pub fn run(self) -> ExitCode {
        let folder = std::env::temp_dir().join(format!("selvedge-demo-{}", std::process::id()));
        let ended = match self.unpack(&folder) {
            Ok(file) => self.serve(&file),
            Err(error) => super::print::fail(format!("{}: {error}", folder.display())),
        };
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&folder);
        ended
    }

    /// Starts the origins and writes the files, with the origins' real addresses.
    fn unpack(&self, folder: &Path) -> io::Result<PathBuf> {
        let origins = [demo_origin::start("shop")?, demo_origin::start("users")?];
        for (name, text) in FILES {
            let mut text = text.to_owned();
            if name.ends_with(".yaml") {
                for (expected, real) in ORIGINS.iter().zip(origins) {
                    text = text.replace(expected, &real.to_string());
                }
                if self.free_ports {
                    for port in [8080, 9900, 9901] {
                        text = text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
                    }
                }
            }
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
            std::fs::write(path, text)?;
        }
        Ok(folder.join("conf/demo.yaml"))
    }

    fn serve(&self, file: &Path) -> ExitCode {
        let shown = file.to_owned();
        match config::load(file) {
            Ok(config) => {
                serve(Input::File(file.to_owned()), config, &self.process, None, move |addresses| {
                    super::run::announce(addresses);
                    // A closed stdout is no reason not to serve.
                    let _ = super::print::out(&what_to_try(addresses, &shown));
                })
            }
            Err(problems) => super::print::report(&problems),
        }
    }
}

fn what_to_try(addresses: &[(String, SocketAddr)], file: &Path) -> String {
    let at = |name: &str| {
        let found = addresses.iter().find(|(known, _)| known == name);
        found.map_or_else(String::new, |(_, address)| format!("http://{address}"))
    };
    let (public, admin, metrics) = (at("public"), at("admin"), at("metrics"));
    format!(
        "
Selvedge is serving {file}
with two origins of its own. Try, in another terminal:

  curl -i {public}/
      plain proxying; a filter adds security headers
  curl -i {public}/private/report
      401: the auth filter asks for a key
  curl -i -H 'Authorization: Bearer demo-key' {public}/private/report
      200: the key is right, and the origin does not see it
  curl -i {public}/landing/page
      an A/B test: the origin sees /test or /control, a cookie keeps you there
  curl -s {public}/api/home
      one answer, merged from both origins, fetched at the same time
  curl -i {public}/old/page
      a redirect
  curl -s {admin}/upstreams
      the origins and their health
  curl -s -X POST {admin}/reload
      a reload that drops nothing: edit the file above first
  curl -s {metrics}/metrics
      metrics for Prometheus

Ctrl-C ends it. Access log lines follow.

",
        file = file.display(),
    )
}
