//! What hooks leave on their fibers: callbacks for the body, then work for after the response.

use super::*;
use crate::transform::{Error, Stage};

const DONE: Done = Done { status: 200, bytes: 7, took: Duration::from_millis(12), aborted: false };
const GONE: Done = Done { aborted: true, ..DONE };

/// The run of an `on_response` whose body streams by, and where it logs.
async fn left(body: &str, limits: Limits) -> (Run, Arc<FakeHost>) {
    let host = Arc::new(FakeHost::default().answering(StatusCode::OK, "seen"));
    let source = format!("fn on_response(res, req) {{\n{body}\n}}");
    let mut exchange = Exchange::for_test();
    let mut draft = ResponseDraft::new(StatusCode::OK, "");
    (draft.body, draft.from) = (MessageBody::Untouched, From::Origin);
    exchange.response = Some(Arc::new(draft));
    let run = run(&script(&source), Hook::Response, exchange, host.clone(), limits).await;
    assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
    (run, host)
}

const BOTH: &str = r#"res.map_lines(|line| { log::info(line); line.to_upper() });
    after_response(|done| log::info(`${fetch("http://api/x").body.text()} ${done.status}`), #{ if_aborted: true });"#;

fn logged(host: &FakeHost) -> Vec<String> {
    host.logged.lock().iter().map(|(_, message, _)| message.clone()).collect()
}

fn fault_of(error: Error) -> Box<Fault> {
    let Error::Callback(error) = error else { panic!("{error}") };
    error.downcast::<Fault>().expect("a fault")
}

fn push(stage: &mut Box<dyn Stage>, piece: &str) -> Result<String, Error> {
    let mut out = Vec::new();
    stage.push(piece.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).expect("text"))
}

#[tokio::test]
async fn a_body_streams_by_and_then_the_work_is_done() {
    let (run, host) = left(BOTH, limits()).await;
    let mut body = run.body.expect("a stage");
    assert_eq!(push(&mut body, "one\ntw").expect("no fault"), "ONE\n");
    assert_eq!(push(&mut body, "o").expect("no fault"), "");
    let mut out = Vec::new();
    body.end(&mut out).expect("no fault");
    assert_eq!((out.as_slice(), logged(&host)), (&b"TWO"[..], vec!["one".into(), "two".into()]));
    drop(body);
    let (outcome, _) = run.after.expect("work").run(DONE).await;
    assert!(matches!(outcome, Outcome::Continue), "{outcome:?}");
    assert_eq!(logged(&host), ["one", "two", "seen 200"], "the work may wait, the body may not");
    assert_eq!(Arc::strong_count(&host), 1, "the fiber has ended");
}

#[tokio::test]
async fn each_part_has_limits_of_its_own() {
    let heavy = "let n = 0; while n < 3000 { n += 1; }";
    let body = format!(
        "{heavy} res.map_chunks(|piece, last| {{ {heavy} }}); after_response(|| {{ {heavy} }});"
    );
    let (run, _) = left(&body, Limits { operations: 20_000, ..limits() }).await;
    assert!(run.figures.operations > 5000, "{:?}", run.figures);
    let mut body = run.body.expect("a stage");
    for _ in 0..5 {
        assert_eq!(push(&mut body, "x").expect("within its limits"), "x");
    }
    let (outcome, figures) = run.after.expect("work").run(DONE).await;
    assert!(matches!(outcome, Outcome::Continue), "{outcome:?}");
    assert!((5000..20_000).contains(&figures.operations), "the work's own: {figures:?}");
}

#[tokio::test]
async fn many_pieces_do_not_move_the_count_of_memory() {
    let body = "res.map_chunks(|piece, last| piece); after_response(|| 1);";
    let (run, _) = left(body, limits()).await;
    let mut body = run.body.expect("a stage");
    let piece = "x".repeat(5000);
    for _ in 0..2000 {
        push(&mut body, &piece).expect("no fault");
    }
    let (_, figures) = run.after.expect("work").run(DONE).await;
    assert!((1000..100_000).contains(&figures.peak_memory), "{figures:?}");
}

#[tokio::test]
async fn a_fault_in_the_body_leaves_the_work_and_names_its_line() {
    let body = "res.map_lines(|line| {\n throw \"bad\" });\n\
        after_response(|done| log::info(`${done.aborted}`), #{ if_aborted: true });";
    let (run, host) = left(body, limits()).await;
    let mut body = run.body.expect("a stage");
    let fault = fault_of(push(&mut body, "one\n").expect_err("it throws"));
    assert_eq!((fault.line, fault.message.as_str()), (3, "bad"), "{fault}");
    assert_eq!(push(&mut body, "two\n").expect("it is over"), "");
    let (outcome, _) = run.after.expect("work").run(GONE).await;
    assert!(matches!(outcome, Outcome::Continue), "{outcome:?}");
    assert_eq!(logged(&host), ["true"]);
}

#[tokio::test]
async fn a_body_that_spins_is_stopped_and_its_work_still_done() {
    let body = "res.map_lines(|line| {\n loop {} });\nafter_response(|| log::info(\"done\"));";
    let (run, host) = left(body, Limits { operations: 50_000, ..limits() }).await;
    let mut body = run.body.expect("a stage");
    let fault = fault_of(push(&mut body, "one\n").expect_err("it spins"));
    assert!(matches!(fault.cause, Cause::Limit(hit) if hit.kind == LimitKind::Operations));
    assert!(fault.line > 1, "{fault}");
    let (outcome, _) = run.after.expect("work").run(DONE).await;
    assert!(matches!(outcome, Outcome::Continue), "{outcome:?}");
    assert_eq!(logged(&host), ["done"]);
}

#[tokio::test]
async fn a_callback_cannot_wait() {
    let body = "let later = [|| sleep(1)]; res.map_lines(|line| later[0].call());\n\
        after_response(|| sleep(1));";
    let (run, _) = left(body, limits()).await;
    let fault = fault_of(push(&mut run.body.expect("a stage"), "one\n").expect_err("it waits"));
    assert!(fault.message.contains("cannot wait"), "{fault}");
    let (outcome, _) = run.after.expect("work").run(DONE).await;
    assert!(matches!(outcome, Outcome::Continue), "{outcome:?}");
}

/// A client may leave, or be answered otherwise, wherever the fiber rests.
#[tokio::test]
async fn a_fiber_ends_with_its_values_wherever_it_is_dropped() {
    for pieces in 0..3 {
        for (keep_body, keep_work) in [(false, false), (true, false), (false, true)] {
            let (run, host) = left(BOTH, limits()).await;
            let (mut body, after) = (run.body.expect("a stage"), run.after.expect("work"));
            for _ in 0..pieces {
                push(&mut body, "x\n").expect("no fault");
            }
            let body = keep_body.then_some(body);
            match keep_work {
                true => drop(after.run(GONE).await),
                false => drop(after),
            }
            let mut seen = vec!["x"; pieces];
            seen.extend(keep_work.then_some("seen 200"));
            drop(run.exchange);
            if let Some(mut body) = body {
                assert_eq!(push(&mut body, "y\n").expect("no fault"), "Y\n", "the body goes on");
                seen.push("y");
            }
            assert_eq!(logged(&host), seen);
            assert_eq!(Arc::strong_count(&host), 1, "{pieces} {keep_body} {keep_work}");
        }
    }
    let (run, host) = left(BOTH, limits()).await;
    let (mut body, after) = (run.body.expect("a stage"), run.after.expect("work"));
    after.run(GONE).await;
    let fault = fault_of(push(&mut body, "late\n").expect_err("the response is over"));
    assert!(fault.message.contains("has ended"), "{fault}");
    assert_eq!(logged(&host), ["seen 200"]);
}
