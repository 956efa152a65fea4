//! What the fuzz targets below `fuzz/` call, and what an ordinary test calls with chance inputs.
//! Each panics where a promise is broken, whatever it is given.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use once_cell::sync::Lazy;

use super::compile::{Script, compile_source};
use super::exchange::{Exchange, MessageBody};
use super::fault::Cause;
use super::harness::plain_filter;
use super::hooks::Hook;
use super::host::FakeHost;
use super::meter::Limits;
use super::run::{Outcome, run};
use crate::config::body::{BodyAccess, BodyMode};
use crate::config::filters::{Filter, FilterLimits};
use crate::state::Lists;

/// No source may take longer, on a busy machine and without optimisation.
const LOADED_WITHIN: Duration = Duration::from_secs(20);

fn filter() -> Filter {
    let body = BodyAccess { request: BodyMode::Buffer, ..BodyAccess::NONE };
    Filter { body, ..plain_filter(Path::new("fuzz.rhai")) }
}

/// Any text loads, or is refused with problems that have a message each.
pub fn load(source: &str) {
    let begun = Instant::now();
    if let Err(problems) = compile_source(&filter(), &Lists::default(), source.to_owned()) {
        assert!(!problems.is_empty(), "refused without a word");
        assert!(problems.iter().all(|problem| !problem.message.is_empty()), "without a word");
    }
    assert!(begun.elapsed() < LOADED_WITHIN, "took {:?}", begun.elapsed());
}

/// Takes a text through all that turns it into script values and back. What is taken must come
/// back as it was; what is not taken must be an error that can be caught.
const CONVERSIONS: &str = r#"
    fn same(what, got, wanted) { if got != wanted { throw `DIFFERS: ${what}`; } }
    fn on_request(req) {
        let text = req.body.text();
        try {
            let once = json::stringify(json::parse(text));
            same("json", json::stringify(json::parse(once)), once);
            req.ctx.data = json::parse(text);
            same("ctx", json::stringify(req.ctx.data), once);
        } catch (e) { if type_of(e) == "string" { throw e; } }
        try {
            req.headers["x-text"] = text;
            same("header", req.headers["x-text"], text);
        } catch (e) { if type_of(e) == "string" { throw e; } }
        try {
            req.query["text"] = text;
            same("query", req.query["text"], text);
            same("encoded", url::decode(url::encode(text)), text);
        } catch (e) { if type_of(e) == "string" { throw e; } }
        try { req.query = text; req.query.sort(); req.query.to_string(); } catch { }
        try { req.path = text; } catch { }
        try { req.host = text; } catch { }
        try { url(text).to_string(); } catch { }
        response(200, text)
    }
"#;

static CONVERTING: Lazy<Arc<Script>> =
    Lazy::new(|| match compile_source(&filter(), &Lists::default(), CONVERSIONS.to_owned()) {
        Ok(script) => Arc::new(script),
        Err(problems) => panic!("{}", problems[0]),
    });

/// Any text goes through the conversions, and comes back as the answer's body.
pub fn convert(text: &str) {
    let mut exchange = Exchange::for_test();
    Arc::make_mut(&mut exchange.request).body =
        MessageBody::Held(Bytes::copy_from_slice(text.as_bytes()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    let limits = Limits::from(&FilterLimits::default());
    let host = Arc::new(FakeHost::default());
    let ran = runtime.block_on(run(&CONVERTING, Hook::Request, exchange, host, limits));
    match ran.outcome {
        Outcome::Answer(answer) => {
            let body = MessageBody::Replaced(Bytes::copy_from_slice(text.as_bytes()));
            assert_eq!(answer.body, body, "the body");
        }
        Outcome::Continue => panic!("no answer"),
        Outcome::Fault(fault) if matches!(fault.cause, Cause::Limit(_)) => {}
        Outcome::Fault(fault) => panic!("{fault:?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// Pieces that make sources and texts which come further than noise does.
    const PIECES: &[&str] = &[
        "fn on_request(req) ",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "#{",
        "let x = ",
        "x",
        "1",
        "\"a\"",
        "`${",
        "`",
        ";",
        ",",
        ".",
        "|x| ",
        "req.headers",
        "if ",
        "else ",
        "loop ",
        "for i in ",
        "try ",
        "catch ",
        "throw ",
        "const A = ",
        "import \"a\" as a;",
        "private ",
        "=",
        "==",
        "+",
        "-",
        "::",
        "json::parse",
        "\\u0000",
        "\u{e9}",
        "\u{1f600}",
        "null",
        "true",
        "1e400",
        "-9223372036854775809",
        "\\\"",
        "%zz",
        "&",
        "?",
        "/",
        ":",
        "//a\n",
        "/*",
        "\n",
        "\0",
        "\t",
    ];

    fn texts() -> impl Strategy<Value = String> {
        let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..40);
        prop_oneof![pieces.prop_map(|pieces| pieces.concat()), ".{0,200}"]
    }

    fn with(cases: u32, of: impl Strategy<Value = String>, test: fn(&str)) {
        let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
        let ran = TestRunner::new(config).run(&of, |text| {
            test(&text);
            Ok(())
        });
        ran.unwrap_or_else(|failure| panic!("{failure}"));
    }

    #[test]
    fn any_source_loads_or_is_refused() {
        with(200, texts(), load);
    }

    #[test]
    fn any_value_comes_back_as_it_was_or_is_refused() {
        with(200, texts(), convert);
    }

    #[test]
    fn what_has_been_hard_before() {
        let deep = "[".repeat(100_000);
        let lets: String = (0..3_000).map(|i| format!("let a{i} = {i};")).collect();
        for text in
            ["", "\u{feff}", "{\"a\":1e999}", "{\"a\":1,\"a\":2}", "\u{2028}", deep.as_str()]
        {
            convert(text);
        }
        for source in ["", "\u{0}", "fn on_request(req) {", &deep, &lets, &"(".repeat(10_000)] {
            load(source);
        }
    }
}
