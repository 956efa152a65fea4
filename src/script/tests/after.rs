//! Work that hooks leave for after the response.

use super::*;

const DONE: Done = Done { status: 201, bytes: 7, took: Duration::from_millis(12), aborted: false };

/// The hook's run, and where it logs.
async fn left(body: &str) -> (Run, Arc<FakeHost>) {
    let host = Arc::new(FakeHost::default().answering(StatusCode::OK, "seen"));
    let source = format!("fn on_request(req) {{ {body} }}");
    let run = run_with(&source, Exchange::for_test(), host.clone()).await;
    (run, host)
}

fn logged(host: &FakeHost) -> Vec<String> {
    host.logged.lock().iter().map(|(_, message, _)| message.clone()).collect()
}

#[tokio::test]
async fn it_runs_after_the_hook_with_what_it_captured_and_what_came_of_the_response() {
    let (run, host) = left(
        r#"let path = req.path;
           after_response(|done| {
               let seen = fetch("http://api/x").body.text();
               log::info(`${path} ${done.status} ${done.bytes} ${done.ms} ${done.aborted} ${seen}`);
           });
           after_response(|| log::info("second"));
           req.headers["x-a"] = "1";
           log::info("hook")"#,
    )
    .await;
    assert!(matches!(run.outcome, Outcome::Continue), "{:?}", run.outcome);
    assert_eq!(run.exchange.request.headers["x-a"], "1", "the hook's edits count at once");
    assert_eq!(logged(&host), ["hook"], "nothing has run yet");
    let (outcome, figures) = run.after.expect("work is left").run(DONE).await;
    assert!(matches!(outcome, Outcome::Continue), "{outcome:?}");
    assert_eq!(logged(&host), ["hook", "/ 201 7 12 false seen", "second"]);
    assert!(figures.operations > 0 && figures.operations < 200, "{figures:?}");
}

#[tokio::test]
async fn a_client_that_left_is_told_of_only_where_that_is_wanted() {
    let aborted = Done { aborted: true, ..DONE };
    let (run, host) = left(r#"after_response(|| log::info("sent"))"#).await;
    assert!(!run.after.expect("work is left").is_wanted(&aborted));
    assert!(logged(&host).is_empty());
    let (run, host) = left(
        r#"after_response(|| log::info("sent"));
           after_response(|| log::info("any"), #{ if_aborted: true });"#,
    )
    .await;
    let after = run.after.expect("work is left");
    assert!(after.is_wanted(&aborted));
    after.run(aborted).await;
    assert_eq!(logged(&host), ["any"]);
}

#[tokio::test]
async fn its_limits_are_its_own() {
    // The hook uses most of its operations, and so does the work.
    let heavy = "let n = 0; while n < 3000 { n += 1; }";
    let limits = Limits { operations: 20_000, wall: Duration::from_millis(300), ..limits() };
    let host: Arc<dyn Host> = Arc::new(FakeHost::default());
    let source = format!(
        "fn on_request(req) {{ {heavy} after_response(|| {{ {heavy} }}) }}\n\
         fn on_response(res, req) {{ after_response(|| {{ while true {{ }} }}) }}"
    );
    let script = script(&source);
    let begin = |hook| run(&script, hook, with_response(), host.clone(), limits);
    let after = begin(Hook::Request).await.after.expect("work is left");
    // A response may take longer than a hook may.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let (outcome, figures) = after.run(DONE).await;
    assert!(matches!(outcome, Outcome::Continue), "{outcome:?}");
    assert!(figures.operations > 5000 && figures.wall < Duration::from_millis(300), "{figures:?}");
    let after = begin(Hook::Response).await.after.expect("work is left");
    let Outcome::Fault(fault) = after.run(DONE).await.0 else { panic!("it never ends") };
    assert!(matches!(fault.cause, Cause::Limit(_)), "{fault}");
}

fn with_response() -> Exchange {
    let mut exchange = Exchange::for_test();
    exchange.response = Some(Arc::new(ResponseDraft::new(StatusCode::OK, "")));
    exchange
}

#[tokio::test]
async fn a_hook_that_faults_leaves_nothing_and_nothing_nests() {
    let (run, host) = left(r#"after_response(|| log::info("x")); throw "no";"#).await;
    assert!(run.after.is_none() && matches!(run.outcome, Outcome::Fault(_)));
    let (run, _) = left("after_response(|| after_response(|| 1))").await;
    let Outcome::Fault(fault) = run.after.expect("work is left").run(DONE).await.0 else {
        panic!("it nests")
    };
    assert!(fault.message.contains("before the response"), "{fault}");
    assert!(logged(&host).is_empty());
    let (run, _) = left("for n in 0..40 { after_response(|| 1); }").await;
    assert!(fault_text(&run).contains("at most 32 calls"), "{}", fault_text(&run));
    let (run, _) = left("after_response(|| 1, #{ always: true });").await;
    assert!(fault_text(&run).contains("no option always"), "{}", fault_text(&run));
}

fn fault_text(run: &Run) -> String {
    fault(run).message.clone()
}

#[tokio::test]
async fn work_that_is_never_started_ends_with_its_values() {
    let (run, host) = left(r#"let path = req.path; after_response(|| log::info(path))"#).await;
    assert!(Arc::strong_count(&host) > 1, "the fiber rests with its host");
    drop(run);
    assert_eq!((Arc::strong_count(&host), logged(&host).len()), (1, 0));
}
