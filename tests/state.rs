//! What filters keep, in the built binary: through reloads, restarts, crashes and changed files.

#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use peers::{Folder, PLAIN, Site, get, origin, request, until};
use support::client::{Client, exchange};
use support::proxy::Proxy;

const KEEP: &str = r#"
fn on_request(req) {
    let key = req.query["key"];
    if req.path == "/put" { kv("notes").put(key, req.query["value"]); return response(201); }
    if req.path == "/get" { return Response::text(`${kv("notes").get(key)}`); }
    if req.path == "/count" { return Response::text(`${counter("visits").add(1)}`); }
    Response::text(`${rate_limit("few", "all").allowed}`)
}
"#;

fn keeping(state: &str) -> String {
    format!(
        "{PLAIN}
state:
  kv: {{ notes: {{}} }}
  counters: [visits]
  {state}
filters:
  keep: {{ script: keep.rhai, kv: {{ notes: read_write }}, rate_limits: [few], counters: [visits] }}
routes: [{{ name: all, match: {{}}, filters: [keep], respond: {{}} }}]
"
    )
}

const STORE: &str = "store: { path: state.redb }\n  rate_limits: { few: { limit: 2, per: 1h } }";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("keep.rhai", KEEP);
    folder
}

#[test]
fn a_reload_forgets_nothing_and_a_restart_not_what_is_in_the_store() {
    let mut site = Site::start_in(folder(), keeping(STORE));
    assert_eq!(site.get("/put?key=a&value=1").status, 201);
    assert_eq!(site.get("/count").text(), "1");
    assert_eq!(site.get("/limit").text(), "true");
    let stricter = STORE.replace("limit: 2", "limit: 1");
    site.reloaded(keeping(&stricter));
    assert_eq!(site.get("/get?key=a").text(), "1");
    assert_eq!(site.get("/count").text(), "2");
    assert_eq!(site.get("/limit").text(), "false", "the request before the reload counts");
    assert_eq!(
        site.metric(r#"selvedge_rate_limit_requests_total{limit="few",outcome="refused"}"#),
        Some(1.0)
    );
    assert_eq!(
        site.metric(
            r#"selvedge_kv_operations_total{namespace="notes",operation="put",outcome="ok"}"#
        ),
        Some(1.0)
    );
    assert_eq!(site.metric(r#"selvedge_kv_bytes{namespace="notes"}"#), Some(66.0));

    site.configure(keeping(&STORE.replace("state.redb", "other.redb")));
    let refused = site.reload();
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("at a restart only"), "{}", refused.text());

    site.proxy.signal("TERM");
    assert_eq!(site.proxy.wait(Duration::from_secs(10)), Ok(0));
    let Site { folder, .. } = site;
    let site = Site::start_in(folder, keeping(STORE));
    assert_eq!(site.get("/get?key=a").text(), "1");
    assert_eq!(site.get("/count").text(), "1", "a counter is in memory");
    assert!(!site.proxy.log().contains("repaired"), "it was closed well: {}", site.proxy.log());
}

#[test]
fn what_was_acknowledged_survives_a_crash() {
    let mut site = Site::start_in(folder(), keeping(STORE));
    for round in 0..3 {
        let address = site.address("public");
        let (acknowledged, dead) = (AtomicUsize::new(0), AtomicBool::new(false));
        let kept: Vec<String> = std::thread::scope(|scope| {
            let write = |thread: usize| {
                let (acknowledged, dead) = (&acknowledged, &dead);
                move || {
                    let mut kept = Vec::new();
                    let mut client = Client::connect(address).expect("connects");
                    for n in 0.. {
                        let key = format!("{round}-{thread}-{n}");
                        let path = format!("/put?key={key}&value={key}");
                        let sent = client.send(request(&path).as_bytes());
                        match sent.and_then(|()| client.receive(false)) {
                            Ok(response) if response.status == 201 => kept.push(key),
                            _ if dead.load(Relaxed) => break,
                            other => panic!("{other:?}"),
                        }
                        acknowledged.fetch_add(1, Relaxed);
                    }
                    kept
                }
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(write(thread))).collect();
            until("some writes", || acknowledged.load(Relaxed) > 50);
            dead.store(true, Relaxed);
            site.proxy.signal("KILL");
            threads.into_iter().flat_map(|thread| thread.join().expect("joins")).collect()
        });
        assert!(kept.len() > 50, "{}", kept.len());
        let Site { folder, mut proxy } = site;
        proxy.wait(Duration::from_secs(10)).expect("it is dead");
        site = Site::start_in(folder, keeping(STORE));
        for key in kept {
            assert_eq!(site.get(&format!("/get?key={key}")).text(), key, "round {round}");
        }
    }
}

#[test]
fn a_full_disk_takes_no_writes_and_forgets_nothing() {
    let folder = folder();
    let file = folder.write("selvedge.yaml", keeping(STORE));
    // A file may have 4 MiB; without the signal's default, writing more is an error as on a full disk.
    let mut limited = Command::new("sh");
    let script =
        format!("trap '' XFSZ; ulimit -f 8192; exec {} \"$@\"", env!("CARGO_BIN_EXE_selvedge"));
    limited.args(["-c", &script, "sh"]);
    let proxy = Proxy::start_by(limited, &file, &HashMap::new()).expect("starts");
    let site = Site { folder, proxy };
    let put = |key: usize| site.get(&format!("/put?key={key}&value={}", "x".repeat(8000))).status;
    let kept = (0..2000).take_while(|key| put(*key) == 201).count();
    assert!((100..2000).contains(&kept), "{kept} were kept");
    site.logged("the store ");
    for key in [0, kept / 2, kept - 1] {
        let path = format!("/get?key={key}");
        until("it is readable again", || site.get(&path).text().len() == 8000);
    }
    assert_eq!(site.get("/count").status, 200, "all else goes on");
}

/// Overwrites all pages but the first, which says what the file is.
fn damage(file: &std::path::Path) {
    let mut bytes = std::fs::read(file).expect("reads");
    bytes[4096..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 31) as u8);
    // In place, so that a process that has it open sees it.
    let mut file = std::fs::OpenOptions::new().write(true).open(file).expect("opens");
    std::io::Write::write_all(&mut file, &bytes).expect("writes");
}

#[test]
fn a_damaged_file_is_an_error_and_not_the_end_of_the_process() {
    let mut site = Site::start_in(folder(), keeping(STORE));
    for key in 0..100 {
        assert_eq!(site.get(&format!("/put?key={key}&value={key}")).status, 201);
    }
    let file = site.folder.path("state.redb");
    damage(&file);
    for key in 0..100 {
        let status = site.get(&format!("/put?key={key}&value=new")).status;
        assert!([201, 500].contains(&status), "{status}");
    }
    assert_eq!(site.get("/count").text(), "1", "what needs no disk goes on");
    site.proxy.signal("TERM");
    assert_eq!(site.proxy.wait(Duration::from_secs(10)), Ok(0));

    damage(&file);
    let config = site.folder.path("selvedge.yaml");
    let out = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["run", "-c"])
        .arg(&config)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("state.redb cannot be opened: "), "{said}");
}

#[test]
fn a_store_has_one_process_and_check_does_not_need_it() {
    let site = Site::start_in(folder(), keeping(STORE));
    let selvedge = |command: &str| {
        let file = site.folder.path("selvedge.yaml");
        let mut selvedge = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        selvedge.args([command, "-c"]).arg(file).output().expect("runs")
    };
    assert!(selvedge("check").status.success());
    let second = selvedge("run");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("state.redb is in use by another process"), "{said}");
    assert_eq!(site.get("/put?key=a&value=1").status, 201);
}

const LIMITED: &str = r#"
fn on_request(req) {
    let asked = rate_limit("api", req.headers["x-api-key"]);
    if !asked.allowed {
        return response(429, #{ "retry-after": asked.retry_after, "ratelimit-remaining": asked.remaining });
    }
}
"#;

#[test]
fn ac_044_fifty_at_once_get_exactly_the_limit() {
    let seen = origin("[{}]");
    let folder = Folder::new();
    folder.write("limited.rhai", LIMITED);
    let config = format!(
        "{PLAIN}
upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}
state: {{ rate_limits: {{ api: {{ limit: 10, per: 2s }} }} }}
filters: {{ limited: {{ script: limited.rhai, rate_limits: [api] }} }}
routes: [{{ name: api, match: {{}}, filters: [limited], upstream: o }}]
",
        seen.address
    );
    let site = Site::start_in(folder, config);
    let address = site.address("public");
    let ask = |key: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n");
        exchange(address, request.as_bytes()).expect("answers")
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..50).map(|_| scope.spawn(|| ask("one"))).collect();
        clients.into_iter().map(|client| client.join().expect("joins")).collect()
    });
    let allowed = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((allowed, seen.take().len()), (10, 10));
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(refused.status, 429);
        assert_eq!(refused.values("ratelimit-remaining"), ["0"]);
        let after = refused.values("retry-after").concat();
        assert!(after == "1" || after == "2", "retry-after: {after}");
    }
    assert_eq!(ask("two").status, 200, "another key");
    let refused = r#"selvedge_requests_total{code="429",method="GET",route="api"}"#;
    assert_eq!(site.metric(refused), Some(40.0));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(ask("one").status, 200, "after two seconds");
}

#[test]
fn lists_are_taken_in_when_their_file_changes() {
    let folder = Folder::new();
    folder.write("codes.csv", "a,1\n");
    folder.write("deny.txt", "10.0.0.0/8\n");
    folder.write(
        "look.rhai",
        r#"const CODES = dict("codes"); const DENY = ipset("deny");
        fn on_request(req) { Response::text(`${CODES.get("a")} ${DENY.contains("127.0.0.1")}`) }"#,
    );
    let config = format!(
        "{PLAIN}
state: {{ dicts: {{ codes: {{ file: codes.csv }} }}, ipsets: {{ deny: {{ file: deny.txt }} }} }}
filters: {{ look: {{ script: look.rhai, dicts: [codes], ipsets: [deny] }} }}
routes: [{{ name: all, match: {{}}, filters: [look], respond: {{}} }}]
"
    );
    let site = Site::start_in(folder, &config);
    let address = site.address("public");
    assert_eq!(site.get("/").text(), "1 false");
    site.folder.write("codes.csv", "a,22\n");
    site.folder.write("deny.txt", "127.0.0.0/8\n");
    until("both are read anew", || get(address, "/").text() == "22 true");
    site.folder.write("codes.csv", "nonsense\n");
    site.logged("the dict codes stays as it was: ");
    site.logged("codes.csv:1: a line is key,value, and this one has 1");
    assert_eq!(site.get("/").text(), "22 true");
    let refused = site.reload();
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("this one has 1"), "{}", refused.text());
    site.folder.write("codes.csv", "a,3\n");
    site.reloaded(&config);
    assert_eq!(site.get("/").text(), "3 true", "at once, by a reload");
}

#[test]
fn a_clients_place_is_looked_up_and_a_new_database_taken_in() {
    let database = |country: &str| {
        let mut database = maxminddb_writer::Database::default();
        database.metadata.binary_format_major_version = 2;
        let record = serde_json::json!({ "country": { "iso_code": country } });
        let place = database.insert_value(record).expect("a value");
        let client = maxminddb_writer::paths::IpAddrWithMask::new([127, 0, 0, 0].into(), 8);
        database.insert_node(client, place);
        database.write_to(Vec::new()).expect("written")
    };
    let folder = Folder::new();
    let file = folder.path("places.mmdb");
    std::fs::write(&file, database("SE")).expect("writes");
    folder.write("own.csv", "network,asn\n127.0.0.1,64500\n");
    folder.write(
        "where.rhai",
        "fn on_request(req) { let geo = req.client.geo;\n\
         Response::text(`${geo.country} ${geo.eu} ${geo.asn} ${geo.city}`) }",
    );
    let config = format!(
        "{PLAIN}
state: {{ geo: [own.csv, places.mmdb] }}
filters: {{ where: {{ script: where.rhai }} }}
routes: [{{ name: all, match: {{}}, filters: [where], respond: {{}} }}]
"
    );
    let site = Site::start_in(folder, &config);
    let address = site.address("public");
    assert_eq!(site.get("/").text(), "SE true 64500 ");
    let next = site.folder.path("next.mmdb");
    std::fs::write(&next, database("NO")).expect("writes");
    std::fs::rename(&next, &file).expect("renames");
    until("it is read anew", || get(address, "/").text() == "NO false 64500 ");
    std::fs::write(&file, "nonsense").expect("writes");
    site.logged("places.mmdb stays as it was: ");
    assert_eq!(site.get("/").text(), "NO false 64500 ");
}

/// A browser with the cookie of the waiting room.
struct Visitor<'s>(&'s Site, Option<String>);

impl Visitor<'_> {
    fn visits(&mut self) -> u16 {
        let cookie = self.1.as_ref().map(|cookie| format!("Cookie: {cookie}\r\n"));
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", cookie.unwrap_or_default());
        let response = exchange(self.0.address("public"), request.as_bytes()).expect("answers");
        let set = response.values("set-cookie").concat();
        self.1 = set.split(';').next().filter(|cookie| !cookie.is_empty()).map(str::to_owned);
        if response.status == 503 {
            assert_eq!(response.values("refresh"), ["2"]);
        }
        response.status
    }
}

#[test]
fn sp_009_a_waiting_room_lets_the_earliest_in_when_a_place_is_free() {
    let seen = origin("[{}]");
    let folder = Folder::new();
    folder.write("key", "a secret");
    let root = env!("CARGO_MANIFEST_DIR");
    let config = format!(
        "{PLAIN}
upstreams: {{ o: {{ endpoints: [{{ address: \"{}\" }}] }} }}
state: {{ store: {{ path: state.redb }}, kv: {{ room: {{}} }}, locks: [room] }}
filters:
  room:
    script: {root}/scripts/waiting_room.rhai
    kv: {{ room: read_write }}
    locks: [room]
    secrets: {{ waiting_room: {{ file: key }} }}
routes: [{{ name: all, match: {{}}, filters: [room], upstream: o }}]
",
        seen.address
    );
    let site = Site::start_in(folder, config);
    let mut visitors: Vec<_> = (0..7).map(|_| Visitor(&site, None)).collect();
    let statuses: Vec<u16> = visitors.iter_mut().map(Visitor::visits).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 503, 503]);
    assert_eq!(seen.take().len(), 5, "the origin saw no other");
    // Four stay; the place of the first one lapses.
    let until_lapsed = std::time::Instant::now() + Duration::from_millis(3200);
    while std::time::Instant::now() < until_lapsed {
        assert!(visitors[1..5].iter_mut().all(|visitor| visitor.visits() == 200));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(visitors[6].visits(), 503, "an earlier one waits");
    assert_eq!(visitors[5].visits(), 200, "the earliest one is let in");
    assert_eq!(visitors[6].visits(), 503);
    let inside = visitors[5].1.clone().expect("a cookie");
    let mut forged = Visitor(&site, Some(format!("{inside}0")));
    assert_eq!(forged.visits(), 503, "a changed cookie is none");
    assert_eq!(visitors[0].visits(), 503, "who lapsed waits anew");
}
