//! Coverage sees each line once, and changes nothing else.

use super::*;
use crate::script::compile::compile_covered;
use crate::script::coverage::Coverage;

const SOURCE: &str = r##"const LIST = [1, 2];

fn on_request(req) {
    let total = 0; // a { comment ; in code
    for item in LIST {
        total += item;
    }
    let text = `a ${ if total > 2 { "}" } else { `b` } } c`;
    if text == #"x"y"# { total = 7; } /* } ; */
    let double = |x| x * 2;
    let kind = switch total {
        3 => "three",
        4 => { "four" }
        _ => "many",
    };
    log::info("seen");
    if kind == "never" {
        req.path = "/never";
        return;
    } else if double.call(2) == 5 {
        req.path = "/five";
    }
    req.headers["x-a"] = text;
    helper(req);
}

fn helper(req) {
    try { throw "a" } catch { req.path = "/caught"; }
    while false { }
    ()
}
"##;

async fn covered(source: &str) -> (Run, Vec<Covered>) {
    let folder = tempfile::tempdir().unwrap();
    let mut filter = filter();
    filter.script = folder.path().join("a.rhai");
    std::fs::write(&filter.script, source).unwrap();
    let coverage = Coverage::default();
    let script =
        compile_covered(&filter, &lists(), &coverage).map_err(|p| p[0].to_string()).unwrap();
    let host = Arc::new(FakeHost::default());
    let run = run(&Arc::new(script), Hook::Request, Exchange::for_test(), host, limits()).await;
    (run, coverage.files())
}

#[tokio::test]
async fn lines_that_ran_are_told_from_those_that_did_not() {
    let (run, files) = covered(SOURCE).await;
    assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
    assert_eq!(run.exchange.request.path, "/caught");
    assert_eq!(files[0].missed, [13, 18, 19, 21]);
    assert_eq!(files[0].lines, 18, "{files:?}");
    assert_eq!(files[0].percent(), 77);
}

#[tokio::test]
async fn a_covered_run_costs_what_a_plain_one_does() {
    for source in [SOURCE, "fn on_request(req) { for i in 0..500 {\n let a = i;\n a += 1;\n } }"] {
        let source = source.replace("try { throw \"a\" } catch { req.path = \"/caught\"; }", "");
        let (counted, _) = covered(&source).await;
        let plain = run_with(&source, Exchange::for_test(), Arc::new(FakeHost::default())).await;
        assert_eq!(counted.figures.operations, plain.figures.operations, "{source}");
    }
}

#[tokio::test]
async fn a_fault_is_where_it_is_in_the_text_as_written() {
    let source = "fn on_request(req) {\n    let a = 1; throw \"x\";\n}";
    let (run, _) = covered(source).await;
    let coverage = Coverage::default();
    assert_eq!(coverage.column(Path::new("other"), 1, 9), 9);
    assert_eq!(fault(&run).line, 2);
    let plain = run_with(source, Exchange::for_test(), Arc::new(FakeHost::default())).await;
    assert_eq!(fault(&plain).column, 16);
}
