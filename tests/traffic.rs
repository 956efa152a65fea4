//! What routes say of their way to upstreams and one request alone does not show: cookies that
//! stick, copies, shares, and a start that waits for a name server.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use peers::{PLAIN, Site, free_port, origin, until};
use support::client::{Response, exchange};
use support::dns::{NameServer, Record};
use support::origin::Origin;

fn endpoints(origins: &[Origin]) -> String {
    let each = origins.iter().map(|origin| format!("{{ address: \"{}\" }}", origin.address));
    each.collect::<Vec<_>>().join(", ")
}

fn send(site: &Site, method: &str, headers: &str, body: &str) -> Response {
    let length = body.len();
    let text = format!(
        "{method} /x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    exchange(site.address("public"), text.as_bytes()).expect("a response")
}

/// `name=value` of the cookie that was set, if one was.
fn cookie(answer: &Response) -> Option<String> {
    let line = answer.values("set-cookie").first()?.to_string();
    assert!(line.contains("; HttpOnly; SameSite=Lax"), "{line}");
    line.split(';').next().map(str::to_owned)
}

#[test]
fn a_cookie_keeps_a_client_at_its_endpoint_as_long_as_that_is_there() {
    let origins: Vec<_> =
        ["a", "b", "c"].iter().map(|name| origin(&format!("[{{ body: {name} }}]"))).collect();
    let folder = peers::Folder::new();
    let secret = folder.write("secret", "0123456789abcdef0123456789abcdef");
    let site = Site::start_in(
        folder,
        format!(
            "{PLAIN}upstreams: {{ o: {{ endpoints: [{}] }} }}\n\
             routes: [{{ name: all, match: {{}}, upstream: o, sticky: {{ cookie: at, max_age: 1h, secret: {{ file: \"{}\" }} }} }}]\n",
            endpoints(&origins),
            secret.display()
        ),
    );
    let first = send(&site, "GET", "", "");
    let mine = cookie(&first).expect("a cookie is set");
    assert!(first.values("set-cookie")[0].contains("; Max-Age=3600"), "{first:?}");
    for _ in 0..9 {
        let again = send(&site, "GET", &format!("Cookie: x=y; {mine}\r\n"), "");
        assert_eq!(again.text(), first.text());
        assert_eq!(cookie(&again), None, "it is not set anew");
    }
    // A client cannot make one up, and is given a good one.
    let mut met = HashSet::new();
    for _ in 0..6 {
        let forged = send(
            &site,
            "GET",
            "Cookie: at=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n",
            "",
        );
        met.insert(forged.text());
        assert!(cookie(&forged).is_some());
    }
    assert_eq!(met.len(), 3, "round robin takes over");
    let at = ["a", "b", "c"].iter().position(|name| *name == first.text()).expect("one of them");
    origins[at].kill();
    let moved = send(&site, "GET", &format!("Cookie: {mine}\r\n"), "");
    assert_eq!(moved.status, 200);
    assert_ne!(moved.text(), first.text());
    let now = cookie(&moved).expect("a new place");
    let stays = send(&site, "GET", &format!("Cookie: {now}\r\n"), "");
    assert_eq!((stays.text(), cookie(&stays)), (moved.text(), None));
}

fn mirrored(origin: &Origin, mirror: &str, more: &str) -> Site {
    let folder = peers::Folder::new();
    folder.write("hold.rhai", "fn on_request(req) { req.headers[\"x-length\"] = req.body.len; }");
    Site::start_in(
        folder,
        format!(
            "{PLAIN}upstreams:\n  o: {{ endpoints: [{{ address: \"{}\" }}] }}\n  m: {{ {mirror} }}\n\
             filters: {{ hold: {{ script: hold.rhai, body: {{ request: buffer, limit: 1KiB }} }} }}\n\
             routes: [{{ name: all, match: {{}}, upstream: o, {more} }}]\n",
            origin.address
        ),
    )
}

fn outcome(site: &Site, outcome: &str) -> f64 {
    let name = "selvedge_mirror_requests_total";
    site.metric(&format!("{name}{{outcome=\"{outcome}\",route=\"all\"}}")).unwrap_or_default()
}

#[test]
fn copies_change_nothing_for_the_client_and_are_compared() {
    let well = origin("[{ body: answer }]");
    let other = origin("[{ status: 500, body: wrong, delay_ms: 1500, times: 1 }, { body: right }]");
    let to = format!("endpoints: [{{ address: \"{}\" }}]", other.address);
    let site = mirrored(&well, &to, "filters: [hold], mirror: { upstream: m }");
    let began = Instant::now();
    let first = send(&site, "POST", "X-A: b\r\n", "abc");
    assert_eq!((first.status, first.text().as_str()), (200, "answer"));
    assert!(began.elapsed() < Duration::from_secs(1), "it waited for the copy");
    until("the copy's status differed", || outcome(&site, "other_status") > 0.0);
    assert_eq!(send(&site, "GET", "", "").text(), "answer");
    until("then it did not", || outcome(&site, "same_status") > 0.0);
    let seen = other.take();
    assert_eq!((seen[0].method.as_str(), &seen[0].body[..]), ("POST", &b"abc"[..]));
    assert!(
        seen[0]
            .headers
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("x-a") && value == "b")
    );
    let took = "selvedge_mirror_duration_seconds_count{route=\"all\",side=\"mirror\"}";
    assert_eq!(site.metric(took), Some(2.0));
    assert_eq!(well.take().len(), 2);
}

#[test]
fn copies_fail_and_stay_inside_the_fence_without_anyone_noticing() {
    let well = origin("[{ body: answer }]");
    let outside = origin("[{}]");
    let dead = format!("endpoints: [{{ address: \"{}\" }}]", free_port());
    let site = mirrored(&well, &dead, "mirror: { upstream: m }");
    assert_eq!(send(&site, "GET", "", "").text(), "answer");
    until("the copy failed", || outcome(&site, "failed") > 0.0);
    // Nobody holds this body, so it cannot be sent twice.
    assert_eq!(send(&site, "POST", "", "abc").text(), "answer");
    until("it was not copied", || outcome(&site, "no_body") > 0.0);

    let regions = format!(
        "regions: [eu, us], endpoints: [{{ address: \"{}\", region: eu }}, {{ address: \"{}\", region: us }}]",
        free_port(),
        outside.address
    );
    let folder = peers::Folder::new();
    let site = Site::start_in(
        folder,
        format!(
            "{PLAIN}upstreams:\n  o: {{ regions: [eu], endpoints: [{{ address: \"{}\", region: eu }}] }}\n  m: {{ {regions} }}\n\
             routes: [{{ name: all, match: {{}}, upstream: o, fence: [eu], mirror: {{ upstream: m }} }}]\n",
            well.address
        ),
    );
    assert_eq!(send(&site, "GET", "", "").text(), "answer");
    until("the copy failed inside", || outcome(&site, "failed") > 0.0);
    assert!(outside.take().is_empty(), "the copy crossed the fence");
}

#[test]
fn copies_are_a_share_and_bounded() {
    let well = origin("[{ body: answer }]");
    let slow = origin("[{ delay_ms: 1000 }]");
    let to = format!("endpoints: [{{ address: \"{}\" }}]", slow.address);
    let site = mirrored(&well, &to, "mirror: { upstream: m, max: 2 }");
    for _ in 0..10 {
        assert_eq!(send(&site, "GET", "", "").text(), "answer");
    }
    until("eight had no place", || outcome(&site, "full") >= 6.0);
    assert!(slow.take().len() <= 4, "no more than two at once");

    let few = mirrored(
        &well,
        &format!("endpoints: [{{ address: \"{}\" }}]", well.address),
        "mirror: { upstream: m, percent: 20% }",
    );
    well.take();
    for _ in 0..200 {
        assert_eq!(few.get("/x").text(), "answer");
    }
    until("the copies came", || outcome(&few, "same_status") > 15.0);
    let copies = outcome(&few, "same_status");
    assert!(copies < 80.0, "{copies} of 200 at 20%");
}

#[test]
fn a_split_gives_each_its_share() {
    let origins = [origin("[{ body: stable }]"), origin("[{ body: canary }]")];
    let upstream = |name: &str, origin: &Origin| {
        format!("  {name}: {{ endpoints: [{{ address: \"{}\" }}] }}\n", origin.address)
    };
    let site = Site::start(format!(
        "{PLAIN}upstreams:\n{}{}routes: [{{ name: all, match: {{}}, split: {{ to: [{{ upstream: stable, weight: 80 }}, {{ upstream: canary, weight: 20 }}] }} }}]\n",
        upstream("stable", &origins[0]),
        upstream("canary", &origins[1]),
    ));
    for _ in 0..300 {
        assert_eq!(site.get("/x").status, 200);
    }
    let canary = origins[1].take().len();
    assert!((25..=100).contains(&canary), "{canary} of 300 at 20%");
}

#[test]
fn a_start_waits_for_the_first_answer_of_a_name_server() {
    let (names, origin) = (NameServer::start(), origin("[{ body: found }]"));
    names.set("shop.test", &[Record::A(Ipv4Addr::LOCALHOST)]);
    for _ in 0..5 {
        let site = Site::start(format!(
            "{PLAIN}upstreams: {{ o: {{ discover: {{ dns: \"shop.test:{}\", resolver: \"{}\" }} }} }}\n\
             routes: [{{ name: all, match: {{}}, upstream: o }}]\n",
            origin.address.port(),
            names.address
        ));
        assert_eq!(site.get("/x").text(), "found", "the first request of all");
    }
}
