//! `on_schedule` in the built binary, by the real clock.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::time::Duration;

use peers::{Folder, PLAIN, Site, origin, until};

fn config(origin: std::net::SocketAddr, entries: &str) -> String {
    format!(
        "{PLAIN}
upstreams: {{ rates: {{ endpoints: [{{ address: \"{origin}\" }}] }} }}
state: {{ store: {{ path: state.redb }}, kv: {{ documents: {{}} }} }}
filters:
  refresh:
    script: \"{}/scripts/refresh.rhai\"
    fetch: {{ allow: [\"http://rates\"] }}
    kv: {{ documents: read_write }}
    config: {{ url: \"http://rates/latest\" }}
    schedule: [{entries}]
routes: [{{ name: all, match: {{}}, filters: [refresh], respond: {{}} }}]
",
        env!("CARGO_MANIFEST_DIR"),
    )
}

fn runs(site: &Site, entry: &str, outcome: &str) -> f64 {
    let labels = format!("filter=\"refresh\",outcome=\"{outcome}\",schedule=\"{entry}\"");
    site.metric(&format!("selvedge_schedule_runs_total{{{labels}}}")).unwrap_or(0.0)
}

#[test]
fn a_document_is_refreshed_by_the_clock_and_a_reload_changes_the_times() {
    let rates = origin("[{ body: one }]");
    let every_second = "{ name: fast, cron: \"* * * * * *\", once: true, jitter: 10ms }";
    let site = Site::start_in(Folder::new(), config(rates.address, every_second));
    until("it was fetched", || site.get("/").text() == "one");
    until("it was fetched again", || runs(&site, "fast", "continue") >= 3.0);
    let last =
        r#"selvedge_schedule_last_success_timestamp_seconds{filter="refresh",schedule="fast"}"#;
    assert!(site.metric(last).is_some_and(|at| at > 1.6e9));

    site.reloaded(config(rates.address, "{ name: yearly, cron: \"0 0 1 1 *\" }"));
    assert!(rates.take().len() >= 3);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(rates.take().len(), 0, "the old times are over");
}

#[test]
fn a_failure_is_counted_and_told() {
    let rates = origin("[{ status: 500 }]");
    let site = Site::start_in(
        Folder::new(),
        config(rates.address, "{ name: fast, cron: \"* * * * * *\" }"),
    );
    until("a failure is counted", || runs(&site, "fast", "fault") >= 1.0);
    site.logged("filter refresh on_schedule request fast-");
    site.logged("http://rates/latest answers 500");
    assert_eq!(site.get("/").status, 503);
}

#[test]
fn a_run_that_goes_on_is_not_joined_by_another_and_ends_with_the_process() {
    let rates = origin("[{ body: slow, delay_ms: 2500 }]");
    let mut site = Site::start_in(
        Folder::new(),
        config(rates.address, "{ name: slow, cron: \"* * * * * *\" }"),
    );
    until("one run is skipped", || runs(&site, "slow", "skipped") >= 1.0);
    assert_eq!(runs(&site, "slow", "continue"), 1.0);
    assert!(rates.take().len() <= 2, "one at a time");
    until("the next is under way", || !rates.take().is_empty());
    let began = std::time::Instant::now();
    site.proxy.signal("TERM");
    assert_eq!(site.proxy.wait(Duration::from_secs(10)), Ok(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
