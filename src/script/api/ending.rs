//! `req.outcome`: how the request ended, for `on_log`.

use std::sync::Arc;
use std::time::Duration;

use rhai::Dynamic;

use super::Outcome;
use super::objects::Request;
use super::table::Table;
use crate::script::exchange::Ending;

#[derive(Clone)]
pub struct EndingHandle(Arc<Ending>);

pub fn area(table: &mut Table) {
    table.area("Outcome");
    table
        .get("req.outcome", "How the request ended; in `on_log` only.", outcome)
        .example("req.outcome.status == 200")
        .get(
            "outcome.status",
            "The status that the client got, 0 if it got none.",
            |o: &mut EndingHandle| i64::from(o.0.status),
        )
        .example("req.outcome.status == 200")
        .get(
            "outcome.bytes_in",
            "Bytes of the request's body as they came; after an upgrade, all that the client sent.",
            |o: &mut EndingHandle| number(o.0.bytes_in),
        )
        .example("req.outcome.bytes_in == 3")
        .get(
            "outcome.bytes_out",
            "Bytes of the response's body as they were sent; after an upgrade, all that the client \
             was sent.",
            |o: &mut EndingHandle| number(o.0.bytes_out),
        )
        .example("req.outcome.bytes_out == 5")
        .get(
            "outcome.aborted",
            "Whether the client left before the end.",
            |o: &mut EndingHandle| o.0.aborted,
        )
        .example("!req.outcome.aborted")
        .get(
            "outcome.error",
            "What went wrong, a word as in the access log, or `()`.",
            |o: &mut EndingHandle| o.0.error.map_or(Dynamic::UNIT, Into::into),
        )
        .example("req.outcome.error == ()");
    times(table);
    origins(table);
}

fn times(table: &mut Table) {
    table
        .get(
            "outcome.ms",
            "Milliseconds from the request's head to the end of the response.",
            |o: &mut EndingHandle| ms(o.0.took),
        )
        .example("req.outcome.ms == 12.5")
        .get(
            "outcome.first_byte_ms",
            "Milliseconds to the response's head, or `()`.",
            |o: &mut EndingHandle| o.0.first_byte.map_or(Dynamic::UNIT, |time| ms(time).into()),
        )
        .example("req.outcome.first_byte_ms <= req.outcome.ms")
        .get(
            "outcome.upstream_ms",
            "Milliseconds that origins were waited for, or `()` if none was tried.",
            |o: &mut EndingHandle| o.0.upstream_time.map_or(Dynamic::UNIT, |time| ms(time).into()),
        )
        .example("req.outcome.upstream_ms <= req.outcome.ms");
}

fn origins(table: &mut Table) {
    table
        .get("outcome.upstream", "The upstream that was tried, or `()`.", |o: &mut EndingHandle| {
            o.0.upstream.as_deref().map_or(Dynamic::UNIT, Into::into)
        })
        .example(r#"req.outcome.upstream == "shop""#)
        .get(
            "outcome.endpoint",
            "The address that was tried last, or `()`.",
            |o: &mut EndingHandle| o.0.endpoint.clone().map_or(Dynamic::UNIT, Into::into),
        )
        .example(r#"req.outcome.endpoint == "127.0.0.1:9000""#)
        .get("outcome.attempts", "How often an origin was tried.", |o: &mut EndingHandle| {
            i64::from(o.0.attempts)
        })
        .example("req.outcome.attempts == 1");
}

fn outcome(request: &mut Request) -> Outcome<EndingHandle> {
    let ending = request.0.read(|draft| draft.ending.clone());
    ending.map(EndingHandle).ok_or_else(|| {
        super::fail("unavailable", "req.outcome is known in on_log, when the request has ended")
    })
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
