//! What filters keep: grants, limits, and what a script is told when it asks for too much.

use super::*;
use crate::state::State;

/// The text that a script made, each run on the same state.
async fn told(state: &Arc<State>, body: &str) -> String {
    let host = FakeHost { state: Arc::clone(state), ..FakeHost::default() };
    let source = format!("fn on_request(req) {{ response(200, `${{ {{ {body} }} }}`) }}");
    let run = run_with(&source, Exchange::for_test(), Arc::new(host)).await;
    match &run.outcome {
        Outcome::Answer(answer) => match &answer.body {
            MessageBody::Replaced(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            MessageBody::Held(_) | MessageBody::Untouched => String::new(),
        },
        other => panic!("{body}: {other:?}"),
    }
}

fn kind_of(call: &str) -> String {
    format!("let kind = \"none\"; try {{ {call} }} catch (e) {{ kind = e.kind; }} kind")
}

#[tokio::test]
async fn wrong_calls_are_caught_by_their_kind() {
    let state = Arc::new(State::default());
    let long = "let long = \"x\"; for i in 0..11 { long += long; }";
    for (call, kind) in [
        (r#"let name = "users2"; kv(name)"#, "denied"),
        (r#"let flags = kv("flags"); flags.put("a", 1)"#, "denied"),
        (r#"let flags = kv("flags"); flags.delete("a")"#, "denied"),
        (r#"let name = "x"; rate_limit(name, "a")"#, "denied"),
        (r#"let name = "x"; counter(name)"#, "denied"),
        (r#"let name = "x"; lock(name)"#, "denied"),
        (r#"let name = "x"; dict(name)"#, "denied"),
        (r#"let name = "x"; ipset(name)"#, "denied"),
        (r#"kv("users").get("")"#, "invalid"),
        (r#"kv("users").put("a", ())"#, "invalid"),
        (r#"kv("users").put("a", req)"#, "invalid"),
        (r#"kv("users").put("a", 1, #{ tll: 1 })"#, "invalid"),
        (r#"kv("users").put("a", 1, #{ ttl: -1 })"#, "invalid"),
        (r#"kv("users").put("a", 1, #{ ttl: "1h" })"#, "invalid"),
        (r#"kv("users").list("", #{ limit: 0 })"#, "invalid"),
        (r#"kv("users").list("", #{ limit: 1001 })"#, "invalid"),
        (r#"kv("users").put("raw", blob(1, 255)); kv("users").get("raw")"#, "invalid"),
        (r#"kv("users").put("a", "{"); kv("users").get_json("a")"#, "parse"),
        (&format!(r#"{long} kv("users").put(long, 1)"#), "invalid"),
        (&format!(r#"{long} kv("users").put("a", long)"#), "too_large"),
        (r#"rate_limit("few", ())"#, "invalid"),
        (r#"counter("visits").set(1); counter("visits").add(9223372036854775807)"#, "invalid"),
        (r#"lock("room", #{ wait: -1 })"#, "invalid"),
        (r#"lock("room", #{ weight: 1 })"#, "invalid"),
        (r#"let held = lock("room"); lock("room", #{ wait: 0.01 })"#, "timeout"),
        (r#"ipset("office").contains("10.0.0")"#, "invalid"),
    ] {
        assert_eq!(told(&state, &kind_of(call)).await, kind, "{call}");
    }
}

#[tokio::test]
async fn what_is_kept_outlives_the_request() {
    let state = Arc::new(State::default());
    for expected in ["true 1 true", "false 2 true", "false 3 false"] {
        let body = r#"let first = kv("users").put_if_absent("k", "v");
            `${first} ${counter("visits").add(1)} ${rate_limit("few", req.client.ip).allowed}`"#;
        assert_eq!(told(&state, body).await, expected);
    }
    assert_eq!(told(&state, r#"rate_limit("few", "other").allowed"#).await, "true");
    let refused = told(
        &state,
        r#"let r = rate_limit("few", req.client.ip); `${r.remaining} ${r.retry_after}`"#,
    )
    .await;
    assert_eq!(refused, "0 60");
}

#[tokio::test]
async fn a_lock_ends_with_its_hook() {
    let state = Arc::new(State::default());
    told(&state, r#"let held = lock("room"); "held""#).await;
    let both = (
        told(&state, r#"let held = lock("room", #{ wait: 0.5 }); sleep(0.05); "one""#),
        told(&state, r#"let held = lock("room", #{ wait: 0.5 }); sleep(0.05); "two""#),
    );
    let begun = Instant::now();
    assert_eq!(tokio::join!(both.0, both.1), ("one".to_owned(), "two".to_owned()));
    assert!(begun.elapsed() >= Duration::from_millis(100), "one after the other");
    told(&state, r#"lock("room", "a"); let other = lock("room", "b", #{ wait: 0.01 }); """#).await;
    // A request that is given up while it holds the lock, and one while it waits.
    let holds = told(&state, r#"let held = lock("room"); sleep(5); """#);
    assert!(tokio::time::timeout(Duration::from_millis(30), holds).await.is_err());
    told(&state, r#"lock("room", #{ wait: 0.5 }).release(); """#).await;
}

#[test]
fn handles_of_grants_may_be_constants() {
    let source = r#"const CODES = dict("codes"); const OFFICE = ipset("office"); const USERS = kv("users");
        fn on_request(req) { if OFFICE.contains(req.client.ip) { req.headers["x"] = CODES.get("a"); } USERS.get("a"); }"#;
    script(source);
    let found = problem("const V = counter(\"visits\"); fn on_request(req) { V.add(1); }");
    assert!(found.to_string().contains("not possible while the script is loaded"), "{found}");
}
