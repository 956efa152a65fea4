//! MB/s of transforms, each beside the plain crate on the same text in the same run:
//! `cargo bench --bench transforms`.
//!
//! Time is CPU time of the process, which does nothing else.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use selvedge::config::body::BodyAccess;
use selvedge::config::filters::{Fetch, Filter, FilterLimits, Lowering, OnFault, Tests};
use selvedge::script::{
    Exchange, FakeHost, From, Hook, Limits, MessageBody, ResponseDraft, compile, run,
};
use selvedge::state::Lists;
use selvedge::transform::Stage;

const PIECE: usize = 64 << 10;
const PIECES: usize = 512;

fn main() {
    let page = page();
    println!("{:28} {:>10} {:>10} {:>8}", "", "MB/s", "plain", "ratio");
    let plain = speed(|| lol_html(&page));
    let filter = "fn on_response(res, req) { res.rewrite_html(html_rewriter().on(\"a[href]\", |el| {
        let href = el.attr(\"href\");
        if href.starts_with(\"http://old.test\") { el.set_attr(\"href\", \"https://new.test\" + href.sub_string(15)); }
    })); }";
    tell("rewrite_html, links", speed(|| through(filter, &page)), plain);
    let plain = speed(|| replaced(&page));
    let filter =
        "fn on_response(res, req) { res.replace_text(\"http://old.test\", \"https://new.test\"); }";
    tell("replace_text", speed(|| through(filter, &page)), plain);
    let plain = speed(|| matched(&page));
    let filter =
        "fn on_response(res, req) { res.replace_regex(regex(\"old\\\\.[a-z]+\"), \"new\"); }";
    tell("replace_regex", speed(|| through(filter, &page)), plain);
}

fn tell(name: &str, ours: f64, plain: f64) {
    println!("{name:28} {ours:>10.0} {plain:>10.0} {:>8.2}", ours / plain);
}

/// About one link in 400 bytes.
fn page() -> Vec<u8> {
    let words = "lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. ";
    let part = format!(
        "<div class=\"item\"><p>{}</p><a href=\"http://old.test/item\">item</a></div>\n",
        words.repeat(4)
    );
    part.repeat(PIECE / part.len()).into_bytes()
}

/// MB of text in a second of CPU time.
fn speed(mut work: impl FnMut()) -> f64 {
    work();
    let before = cpu();
    work();
    let used = cpu() - before;
    (PIECES * PIECE) as f64 / 1e6 / used.as_secs_f64()
}

fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "the clock can be read");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a filter's transform makes of the text, as a stage that is fed piece by piece.
fn through(source: &str, page: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("bench.rhai");
    std::fs::write(&script, source).expect("written");
    let mut stage = stage(script);
    let mut out = Vec::new();
    for _ in 0..PIECES {
        stage.push(page, &mut out).expect("no fault");
        black_box(&out);
        out.clear();
    }
    stage.end(&mut out).expect("no fault");
}

fn stage(script: std::path::PathBuf) -> Box<dyn Stage> {
    let filter = Filter {
        name: "bench".into(),
        script,
        config: serde_json::Value::Null,
        secrets: Default::default(),
        fetch: Fetch { allow: vec![], max: 0, timeout: Duration::from_secs(1), max_body: 0 },
        state: Default::default(),
        schedule: Vec::new(),
        body: BodyAccess::NONE,
        limits: FilterLimits { body_cpu: Duration::from_secs(600), ..FilterLimits::default() },
        on_fault: OnFault::Closed,
        breaker: None,
        tests: Tests::Optional,
        lowering: Lowering::On,
    };
    let script = Arc::new(compile(&filter, &Lists::default()).expect("a sound script"));
    let mut exchange = Exchange::for_test();
    let mut draft = ResponseDraft::new(http::StatusCode::OK, "");
    (draft.body, draft.from) = (MessageBody::Untouched, From::Origin);
    exchange.response = Some(Arc::new(draft));
    let host = Arc::new(FakeHost::default());
    let limits = Limits::from(&filter.limits);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let run = run(&script, Hook::Response, exchange, host, limits);
    runtime.expect("a runtime").block_on(run).body.expect("a transform")
}

fn lol_html(page: &[u8]) {
    let links = lol_html::element!("a[href]", |el| {
        let href = el.get_attribute("href").unwrap_or_default();
        if let Some(rest) = href.strip_prefix("http://old.test") {
            el.set_attribute("href", &format!("https://new.test{rest}"))?;
        }
        Ok(())
    });
    let settings = lol_html::Settings::new().append_element_content_handler(links);
    let mut rewriter = lol_html::HtmlRewriter::new(settings, |piece: &[u8]| {
        black_box(piece);
    });
    for _ in 0..PIECES {
        rewriter.write(page).expect("HTML");
    }
    rewriter.end().expect("HTML");
}

fn replaced(page: &[u8]) {
    let finder = memchr::memmem::Finder::new("http://old.test");
    let mut out = Vec::new();
    for _ in 0..PIECES {
        let mut at = 0;
        for found in finder.find_iter(page) {
            out.extend_from_slice(&page[at..found]);
            out.extend_from_slice(b"https://new.test");
            at = found + "http://old.test".len();
        }
        out.extend_from_slice(&page[at..]);
        black_box(&out);
        out.clear();
    }
}

fn matched(page: &[u8]) {
    let regex = regex::bytes::Regex::new("old\\.[a-z]+").expect("an expression");
    for _ in 0..PIECES {
        black_box(regex.replace_all(page, &b"new"[..]));
    }
}
