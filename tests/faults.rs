//! Origins that fail under load. Each test counts what was sent, failed, tried again and run twice;
//! the targets are in counts, and times are only printed (`--nocapture`).
//!
//! In all of them nine requests in ten are GETs, of which none may be lost, and one is a POST, of
//! which none may reach origins twice.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peers::{PLAIN, Site, origin, raw_origin, read_head, until};
use socket2::{Domain, SockRef, Socket, Type};
use support::client::Client;
use support::dns::{Mood, NameServer, Record};
use support::origin::Origin;

/// Clients at once.
const CLIENTS: usize = 8;
/// Requests in all.
const REQUESTS: usize = 400;
/// An answer that takes longer was held up.
const SLOW: Duration = Duration::from_millis(100);

/// What came of one request.
struct Outcome {
    post: bool,
    ended: Instant,
    took: Duration,
    wrong: Option<String>,
}

/// Requests from several clients, and what came of them.
struct Load {
    began: Instant,
    next: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<Vec<Outcome>>>,
}

impl Load {
    fn start(site: &Site) -> Self {
        let (next, done) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let address = site.address("public");
        let clients = (0..CLIENTS).map(|_| {
            let (next, done) = (Arc::clone(&next), Arc::clone(&done));
            std::thread::spawn(move || run_client(address, &next, &done))
        });
        let clients = clients.collect();
        Self { began: Instant::now(), next, done, clients }
    }

    /// Waits until `share` hundredths of the requests are answered.
    fn at(&self, share: usize) {
        until(&format!("{share}% of the requests"), || {
            self.done.load(SeqCst) >= REQUESTS * share / 100
        });
    }

    fn end(self) -> Vec<Outcome> {
        let ended = self.clients.into_iter().flat_map(|c| c.join().expect("no panic"));
        let outcomes: Vec<_> = ended.collect();
        assert!(self.next.load(SeqCst) >= REQUESTS && self.began.elapsed() > Duration::ZERO);
        outcomes
    }
}

fn run_client(address: SocketAddr, next: &AtomicUsize, done: &AtomicUsize) -> Vec<Outcome> {
    let (mut outcomes, mut kept) = (Vec::new(), None);
    loop {
        let id = next.fetch_add(1, SeqCst);
        if id >= REQUESTS {
            return outcomes;
        }
        let (began, post) = (Instant::now(), id.is_multiple_of(10));
        let wrong = ask(address, &mut kept, id, post).err();
        outcomes.push(Outcome { post, ended: Instant::now(), took: began.elapsed(), wrong });
        done.fetch_add(1, SeqCst);
    }
}

fn ask(
    address: SocketAddr,
    kept: &mut Option<Client>,
    id: usize,
    post: bool,
) -> Result<(), String> {
    let mut client = match kept.take() {
        Some(client) => client,
        None => Client::connect(address)?,
    };
    let text = match post {
        true => format!("POST /{id} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        false => format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n"),
    };
    client.send(text.as_bytes())?;
    let answer = client.receive(false)?;
    let closes = answer.values("connection").contains(&"close");
    match (answer.complete, answer.status, answer.text().as_str()) {
        (false, ..) => Err("broken off".to_owned()),
        (true, 200, "ok") => {
            *kept = (!closes).then_some(client);
            Ok(())
        }
        (true, 200, other) => panic!("a broken answer looks complete: {other:?}"),
        (true, status, _) => Err(status.to_string()),
    }
}

/// What a fault cost.
struct Tally {
    lost_gets: Vec<String>,
    lost_posts: usize,
    retries: f64,
}

/// Judges what every fault has in common, and prints the rest.
fn tally(
    name: &str,
    site: &Site,
    outcomes: &[Outcome],
    seen: &HashMap<String, usize>,
    fault: Instant,
) -> Tally {
    assert_eq!(outcomes.len(), REQUESTS, "{name}: every request ends");
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{name}: POSTs that reached origins twice: {twice:?}");
    let lost = |post: bool| outcomes.iter().filter(move |o| o.post == post && o.wrong.is_some());
    let lost_gets: Vec<_> = lost(false).filter_map(|o| o.wrong.clone()).collect();
    let lost_posts = lost(true).count();
    let mut took: Vec<Duration> = outcomes.iter().map(|outcome| outcome.took).collect();
    took.sort();
    let disturbed = outcomes.iter().filter(|o| o.wrong.is_some() || o.took > SLOW);
    let recovered = disturbed.map(|o| o.ended.saturating_duration_since(fault)).max();
    let reasons = ["connect", "reset", "timeout", "status", "refused_stream", "stale_connection"];
    let series = |reason: &&str| {
        let name = "selvedge_upstream_retries_total";
        site.metric(&format!("{name}{{reason=\"{reason}\",upstream=\"o\"}}"))
    };
    let retries = reasons.iter().filter_map(series).sum::<f64>() + 0.0;
    println!(
        "{name}: sent {REQUESTS}, lost GETs {}, lost POSTs {lost_posts}, retries {retries}, \
         POSTs run twice 0, p99 {:?}, recovered after {:?}",
        lost_gets.len(),
        took[took.len() * 99 / 100],
        recovered.unwrap_or_default(),
    );
    Tally { lost_gets, lost_posts, retries }
}

/// The POSTs that origins saw, with how often.
fn posts(origins: &[Origin]) -> HashMap<String, usize> {
    let mut posts = HashMap::new();
    for seen in origins.iter().flat_map(Origin::take).filter(|seen| seen.method == "POST") {
        *posts.entry(seen.target).or_default() += 1;
    }
    posts
}

fn origins(count: usize) -> Vec<Origin> {
    (0..count).map(|_| origin("[{ body: ok, delay_ms: 2 }]")).collect()
}

fn site(endpoints: &[String], more: &str) -> Site {
    Site::start(format!(
        "{PLAIN}upstreams: {{ o: {{ endpoints: [{}], {more} }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o }}]\n",
        endpoints.join(", ")
    ))
}

fn endpoint(address: SocketAddr) -> String {
    format!("{{ address: \"{address}\" }}")
}

fn endpoints(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(|origin| endpoint(origin.address)).collect()
}

const CHECKED: &str = "health: { interval: 100ms, timeout: 200ms }";

/// One origin that is bad from the start among two good ones.
fn beside_good_ones(name: &str, bad: SocketAddr, more: &str, at_bad: &Seen) -> Tally {
    let good = origins(2);
    let mut all = endpoints(&good);
    all.push(endpoint(bad));
    let site = site(&all, more);
    let fault = Instant::now();
    let outcomes = Load::start(&site).end();
    let mut seen = posts(&good);
    for target in at_bad.lock().expect("no panic while held").drain(..) {
        *seen.entry(target).or_default() += 1;
    }
    let tally = tally(name, &site, &outcomes, &seen, fault);
    assert!(tally.retries > 0.0, "{name}: the bad origin was met");
    tally
}

/// Targets of POSTs that a bad origin has read.
type Seen = Arc<Mutex<Vec<String>>>;

/// An origin that reads a request's head and then does as told.
fn bad_origin(then: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let address = raw_origin(move |mut stream| {
        let head = read_head(&mut stream);
        let head = String::from_utf8_lossy(&head);
        let mut words = head.split(' ');
        if let (Some("POST"), Some(target)) = (words.next(), words.next()) {
            kept.lock().expect("no panic while held").push(target.to_owned());
        }
        if !head.is_empty() {
            then(&mut stream);
        }
    });
    (address, seen)
}

fn none_lost(name: &str, tally: &Tally) {
    let lost = &tally.lost_gets;
    assert!(lost.is_empty(), "{name}: GETs were lost: {lost:?}");
}

#[test]
fn an_origin_is_killed_and_comes_back() {
    let origins = origins(4);
    let site = site(&endpoints(&origins), &format!("retries: 3, {CHECKED}"));
    let load = Load::start(&site);
    load.at(25);
    let fault = Instant::now();
    origins[0].kill();
    load.at(60);
    origins[0].revive();
    let tally = tally("kill and restart", &site, &load.end(), &posts(&origins), fault);
    none_lost("kill and restart", &tally);
}

#[test]
fn all_origins_are_restarted_one_after_the_other() {
    let origins = origins(3);
    let site = site(&endpoints(&origins), &format!("retries: 3, {CHECKED}"));
    let load = Load::start(&site);
    let fault = Instant::now();
    for (index, origin) in origins.iter().enumerate() {
        load.at(20 + 25 * index);
        origin.kill();
        load.at(35 + 25 * index);
        origin.revive();
        until("it is well again", || {
            site.upstreams()["upstreams"][0]["endpoints"][index]["healthy"] == true
        });
    }
    let tally = tally("rolling restart", &site, &load.end(), &posts(&origins), fault);
    none_lost("rolling restart", &tally);
}

#[test]
fn a_region_is_lost() {
    let origins = origins(4);
    let regions = ["eu", "eu", "us", "us"];
    let endpoints = origins
        .iter()
        .zip(regions)
        .map(|(origin, region)| format!("{{ address: \"{}\", region: {region} }}", origin.address));
    let endpoints = endpoints.collect::<Vec<_>>();
    let site = site(&endpoints, &format!("regions: [eu, us], retries: 3, {CHECKED}"));
    let load = Load::start(&site);
    load.at(30);
    let fault = Instant::now();
    origins[..2].iter().for_each(Origin::kill);
    let outcomes = load.end();
    let moved = origins[2..].iter().map(|origin| origin.seen.lock().expect("seen").len());
    assert!(moved.sum::<usize>() > 0, "the other region took over");
    let tally = tally("region loss", &site, &outcomes, &posts(&origins), fault);
    none_lost("region loss", &tally);
}

#[test]
fn an_origin_refuses_connections() {
    let tally =
        beside_good_ones("refuse", ([127, 0, 0, 1], 1).into(), "retries: 1", &Seen::default());
    none_lost("refuse", &tally);
    assert_eq!(tally.lost_posts, 0, "nothing was sent, so a POST is tried elsewhere as well");
}

#[test]
fn an_origins_backlog_is_full() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port");
    socket.listen(0).expect("listens");
    let address = socket.local_addr().expect("bound").as_socket().expect("an address");
    // These fill the backlog; nobody accepts them.
    let _full: Vec<_> =
        (0..4).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50))).collect();
    let more = format!("retries: 1, timeouts: {{ connect: 100ms }}, {CHECKED}");
    let tally = beside_good_ones("backlog full", address, &more, &Seen::default());
    none_lost("backlog full", &tally);
    assert_eq!(tally.lost_posts, 0, "nothing was sent, so a POST is tried elsewhere as well");
}

#[test]
fn an_origin_takes_requests_and_hangs() {
    let (bad, seen) = bad_origin(|_| std::thread::sleep(Duration::from_secs(20)));
    let more = "retries: 1, timeouts: { first_byte: 200ms }, outlier: { consecutive_local: 3 }";
    let tally = beside_good_ones("accept and hang", bad, more, &seen);
    none_lost("accept and hang", &tally);
}

#[test]
fn an_origin_resets_connections() {
    let (bad, seen) = bad_origin(|stream| {
        let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
    });
    let tally = beside_good_ones("reset", bad, "retries: 1", &seen);
    none_lost("reset", &tally);
}

#[test]
fn an_origin_answers_garbage() {
    let (bad, seen) = bad_origin(|stream| {
        let _ = stream.write_all(b"\x16\x03\x01 not HTTP at all\r\n\r\n");
    });
    let tally = beside_good_ones("garbage", bad, "retries: 1", &seen);
    none_lost("garbage", &tally);
}

#[test]
fn an_origin_breaks_off_before_its_head_is_whole() {
    for (name, half) in
        [("half a status line", "HTTP/1.1 20"), ("half a head", "HTTP/1.1 200 OK\r\nContent-Le")]
    {
        let (bad, seen) = bad_origin(move |stream| {
            let _ = stream.write_all(half.as_bytes());
        });
        let tally = beside_good_ones(name, bad, "retries: 1", &seen);
        none_lost(name, &tally);
    }
}

#[test]
fn an_origin_breaks_off_in_its_body() {
    for (name, half) in [
        ("half a body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"),
        ("half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\no"),
        ("no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"),
    ] {
        let (bad, seen) = bad_origin(move |stream| {
            let _ = stream.write_all(half.as_bytes());
        });
        let good = origins(2);
        let site = site(
            &[endpoint(good[0].address), endpoint(good[1].address), endpoint(bad)],
            "retries: 1",
        );
        let fault = Instant::now();
        let outcomes = Load::start(&site).end();
        let mut posts = posts(&good);
        for target in seen.lock().expect("no panic while held").drain(..) {
            *posts.entry(target).or_default() += 1;
        }
        // `ask` has seen to it that none looked complete.
        let tally = tally(name, &site, &outcomes, &posts, fault);
        assert!(!tally.lost_gets.is_empty(), "{name}: the client had a part, so it is told");
        assert!(
            tally.lost_gets.iter().all(|why| why == "broken off" || why.contains("closed")),
            "{name}: {:?}",
            tally.lost_gets
        );
    }
}

#[test]
fn an_origin_answers_500_for_a_while() {
    let bad = origin("[{ status: 500, body: no, times: 40 }, { body: ok }]");
    let mut all = origins(2);
    all.push(bad);
    let more = "retries: 2, retry: { status: 5xx, budget_min: 8 }, outlier: { ejection: 200ms }";
    let site = site(&endpoints(&all), more);
    let fault = Instant::now();
    let outcomes = Load::start(&site).end();
    let tally = tally("500 for a while", &site, &outcomes, &posts(&all), fault);
    none_lost("500 for a while", &tally);
    assert!(tally.retries > 0.0, "it was met");
}

#[test]
fn an_origin_is_slow() {
    let mut all = origins(2);
    all.push(origin("[{ body: ok, delay_ms: 150 }]"));
    let site = site(&endpoints(&all), "balance: peak_ewma");
    let fault = Instant::now();
    let outcomes = Load::start(&site).end();
    let slow = all[2].seen.lock().expect("no panic while held").len();
    let tally = tally("slow", &site, &outcomes, &posts(&all), fault);
    none_lost("slow", &tally);
    assert_eq!((tally.lost_posts, tally.retries), (0, 0.0));
    assert!(slow < REQUESTS / 5, "it got {slow} of {REQUESTS}, less than its turns");
}

#[test]
fn the_name_server_is_lost() {
    let (names, all) = (NameServer::start(), origins(1));
    names.set("shop.test", &[Record::A(Ipv4Addr::LOCALHOST)]);
    let site = Site::start(format!(
        "{PLAIN}upstreams: {{ o: {{ discover: {{ dns: \"shop.test:{}\", resolver: \"{}\", refresh: 100ms }} }} }}\n\
         routes: [{{ name: all, match: {{}}, upstream: o }}]\n",
        all[0].address.port(),
        names.address
    ));
    let load = Load::start(&site);
    load.at(20);
    let fault = Instant::now();
    names.mood(Mood::Fails);
    load.at(60);
    names.mood(Mood::Silent);
    let tally = tally("DNS loss", &site, &load.end(), &posts(&all), fault);
    none_lost("DNS loss", &tally);
    assert_eq!(tally.lost_posts, 0);
}

#[test]
fn repetitions_do_not_multiply_when_all_origins_fail() {
    let all: Vec<_> = (0..4).map(|_| origin("[{ status: 503, body: no, delay_ms: 5 }]")).collect();
    let site = site(&endpoints(&all), "retries: 3, retry: { status: 503, budget_min: 1 }");
    let outcomes = Load::start(&site).end();
    let reached: usize = all.iter().map(|origin| origin.take().len()).sum();
    println!("all fail: sent {REQUESTS}, reached origins {reached}");
    assert!(outcomes.iter().all(|outcome| outcome.wrong.as_deref() == Some("503")));
    assert!(reached < REQUESTS * 2, "{reached}: without a budget it would be {}", REQUESTS * 4);
    let denied = site.metric("selvedge_upstream_retries_over_budget_total{upstream=\"o\"}");
    assert!(denied > Some(0.0), "the budget said no: {denied:?}");
}
