//! What runs leave behind is seen, and what they give out is not taken for it.

use super::*;

/// Bytes left behind by each of so many runs of a hook of `functions` and this body.
async fn left(runs: usize, body: &str) -> Vec<u64> {
    let script = script(&format!("fn on_request(req) {{ {body} }}"));
    let mut left = Vec::with_capacity(runs);
    for _ in 0..runs {
        let host = FakeHost::default().answering(StatusCode::OK, "[1, 2]");
        let mut exchange = Exchange::for_test();
        let request = Arc::make_mut(&mut exchange.request);
        // Takes as much as a shared value when it is copied.
        request.params = vec![("id".into(), "7".into())];
        let before = Arc::clone(&exchange.request);
        let run = run(&script, Hook::Request, exchange, Arc::new(host), limits()).await;
        let wanted = body.contains("FAULT");
        assert_eq!(matches!(run.outcome, Outcome::Fault(_)), wanted, "{body}: {:?}", run.outcome);
        left.push(left_behind(&script, &before, &run));
    }
    left
}

#[tokio::test]
async fn values_that_hold_each_other_are_counted() {
    let text = "let s = \"\"; s.pad(100000, \"y\");";
    let shares = "[1].map(|x| s.len + x);";
    let cycles = [
        "cycle_for_test(s); ()",
        "cycle_for_test(s); let got = fetch(\"http://api/\"); for i in 0..9 { cycle_for_test(\"\"); } ()",
        "cycle_for_test(s); req.headers[\"x-a\"] = \"1\"; response(200, \"body\")",
    ];
    for cycle in cycles {
        for bytes in left(3, &format!("{text} {shares} {cycle}")).await {
            assert!((98_000..110_000).contains(&bytes), "{cycle}: {bytes}");
        }
    }
    let small =
        left(20, "let s = 1; [1].map(|x| s + x); for i in 0..4 { cycle_for_test(\"\"); } ()").await;
    assert!(small.iter().all(|bytes| (1..8000).contains(bytes)), "{small:?}");
}

#[tokio::test]
async fn what_a_run_gives_out_or_keeps_is_none() {
    let sound = [
        "let n = 1; let f = || n + 1; req.headers[\"x-a\"] = f.call(); ()",
        "let n = [1, 2, 3]; let m = n; m.map(|x| x + n.len()); req.query[\"a\"] = \"b\"; ()",
        "let n = 1; let f = || n; req.ctx.all = [#{ a: [1, 2, 3], b: \"c\" }, f.call()]; ()",
        "let n = 1; let f = || n; response(200, #{ \"x-a\": [\"1\", \"2\"] }, \"body\" + f.call())",
        "let n = 1; let f = || n; let got = fetch(\"http://api/\"); let all = got.json(); sleep(0.001); response(200, `${all} ${f.call()}`)",
        "let n = 1; let f = || n; req.headers[\"x-a\"] = \"b\"; req.ctx.a = [1, f.call()]; throw \"FAULT\";",
        "let n = 1; let f = || n; throw #{ status: 400, body: `${f.call()}` };",
        "let text = \"\"; text.pad(5000, \"y\"); req.headers[\"x-a\"] = text; [1].map(|x| text.len + x); ()",
    ];
    for body in sound {
        let bytes = left(20, body).await;
        assert_eq!(bytes.iter().sum::<u64>(), 0, "{body}: {bytes:?}");
    }
}

#[tokio::test]
async fn a_filter_that_leaves_too_much_behind_is_out() {
    let metrics = crate::telemetry::metrics::Metrics::new().unwrap();
    let filter =
        Filter { limits: FilterLimits { leaked: 250, ..FilterLimits::default() }, ..filter() };
    let guard = Guard::new(&filter, &metrics.filter("test"));
    guard.leaked(200);
    assert!(guard.pass().is_some() && guard.is_well());
    guard.leaked(51);
    assert!(guard.pass().is_none() && !guard.is_well());
    let page = metrics.render().unwrap();
    assert!(page.contains("selvedge_filter_leaked_bytes{filter=\"test\"} 251"), "{page}");
    assert!(page.contains("selvedge_filter_out{filter=\"test\"} 1"), "{page}");
}
