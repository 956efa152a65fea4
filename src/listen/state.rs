//! What is known of one client connection. Its stream, the sweeper and every hook share it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Instant;

use http::HeaderValue;
use once_cell::sync::Lazy;
use parking_lot::Mutex;
use pingora::http::RequestHeader;

use super::intake::body_length;
use super::limits::{ConnCounters, Cut};
use crate::tls::TlsInfo;

/// Where a connection stands; times in `ConnState::since` count from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between requests.
    Idle = 0,
    /// Some bytes of a request head came.
    Head = 1,
    /// A request is served.
    Active = 2,
    /// Upgraded: no longer HTTP.
    Tunnel = 3,
}

impl Phase {
    fn from_u8(value: u8) -> Phase {
        match value {
            1 => Phase::Head,
            2 => Phase::Active,
            3 => Phase::Tunnel,
            _ => Phase::Idle,
        }
    }
}

/// In `ConnState::body`: a chunked body.
const UNKNOWN_LENGTH: u64 = u64::MAX;

/// One client connection.
#[derive(Debug)]
pub struct ConnState {
    /// Who opened the socket; behind a PROXY sender, that sender.
    pub peer: SocketAddr,
    /// The client: the peer, or what a trusted PROXY header says.
    pub client: SocketAddr,
    /// The client's address as headers name it.
    pub client_text: HeaderValue,
    /// Where the client connected to.
    pub local: SocketAddr,
    /// The listener's name at the time of the connection.
    pub listener: Arc<str>,
    pub tls: Option<TlsInfo>,
    pub(super) id: u64,
    counters: Arc<ConnCounters>,
    h2: AtomicBool,
    phase: AtomicU8,
    since_ms: AtomicU64,
    active: AtomicU32,
    requests: AtomicU64,
    /// Of the current HTTP/1 request.
    body: AtomicU64,
    /// Since when the client takes nothing of what is sent; 0: it does.
    blocked_ms: AtomicU64,
    /// 0, or 1 + the index in `Cut::ALL`.
    cut: AtomicU8,
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

/// What the handshake found out, for `ConnState::new`.
#[derive(Debug)]
pub(super) struct Arrival {
    pub peer: SocketAddr,
    pub client: SocketAddr,
    pub local: SocketAddr,
    pub listener: Arc<str>,
    pub tls: Option<TlsInfo>,
}

impl ConnState {
    pub(super) fn new(arrival: Arrival, id: u64, counters: Arc<ConnCounters>) -> ConnState {
        let h2 = arrival.tls.as_ref().is_some_and(TlsInfo::is_h2);
        let client_text = arrival.client.ip().to_canonical().to_string();
        // An address is always a valid value.
        let client_text =
            HeaderValue::try_from(client_text).unwrap_or(HeaderValue::from_static("unknown"));
        ConnState {
            peer: arrival.peer,
            client: arrival.client,
            client_text,
            local: arrival.local,
            listener: arrival.listener,
            tls: arrival.tls,
            id,
            counters,
            h2: AtomicBool::new(h2),
            phase: AtomicU8::new(Phase::Idle as u8),
            since_ms: AtomicU64::new(now_ms()),
            active: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            body: AtomicU64::new(0),
            blocked_ms: AtomicU64::new(0),
            cut: AtomicU8::new(0),
            reader: Mutex::new(None),
            writer: Mutex::new(None),
        }
    }

    /// Whether this connection speaks HTTP/2.
    pub fn is_h2(&self) -> bool {
        self.h2.load(Relaxed)
    }

    /// A whole request head was read. To be called once for each request.
    pub fn request_begins(&self, head: &RequestHeader) {
        let length = body_length(head).filter(|length| *length < UNKNOWN_LENGTH);
        self.body.store(length.unwrap_or(UNKNOWN_LENGTH), Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        self.counters.in_flight.fetch_add(1, Relaxed);
        self.enter(Phase::Active);
    }

    /// The request is over, however it went. To be called once for each `request_begins`. An
    /// HTTP/1 connection is idle only when Pingora gives it back, with its body read.
    pub fn request_ends(&self) {
        self.counters.in_flight.fetch_sub(1, Relaxed);
        if self.active.fetch_sub(1, Relaxed) == 1 && self.is_h2() {
            self.enter(Phase::Idle);
        }
    }

    /// The connection was upgraded, or bytes passed since: limits on requests no longer apply, but
    /// one on silence.
    pub fn is_tunnel(&self) {
        self.enter(Phase::Tunnel);
    }

    /// Requests begun on this connection so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Why the server cut this connection, if it did.
    pub fn killed(&self) -> Option<Cut> {
        let index = usize::from(self.cut.load(Relaxed)).checked_sub(1)?;
        Cut::ALL.get(index).copied()
    }

    /// The length of the current body, if its head said one.
    pub(super) fn body(&self) -> Option<u64> {
        Some(self.body.load(Relaxed)).filter(|length| *length != UNKNOWN_LENGTH)
    }

    pub(super) fn speaks_h2(&self) {
        self.h2.store(true, Relaxed);
        self.enter(Phase::Idle);
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.since_ms.store(now_ms(), Relaxed);
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Relaxed))
    }

    /// Milliseconds in the current phase.
    pub(super) fn age_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.since_ms.load(Relaxed))
    }

    /// A write has to wait for the client.
    pub(super) fn write_waits(&self) {
        let _ = self.blocked_ms.compare_exchange(0, now_ms().max(1), Relaxed, Relaxed);
    }

    pub(super) fn write_moves(&self) {
        self.blocked_ms.store(0, Relaxed);
    }

    /// Milliseconds in which the client took nothing.
    pub(super) fn blocked_for(&self, now: u64) -> u64 {
        match self.blocked_ms.load(Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        }
    }

    /// Bytes came in: between HTTP/1 requests, that is the start of a head.
    pub(super) fn bytes_came(&self) {
        if !self.is_h2() && self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    /// Fails the stream's next read or write, and wakes whoever waits for one. The first reason
    /// counts. No descriptor is touched, so none can be mistaken for another.
    pub(super) fn cut(&self, why: Cut) {
        let code = why as u8 + 1;
        if self.cut.compare_exchange(0, code, Relaxed, Relaxed).is_err() {
            return;
        }
        self.counters.count_cut(why);
        for slot in [&self.reader, &self.writer] {
            let waiting = slot.lock().take();
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
    }

    /// Remembers who waits for a read, and says whether the connection was cut meanwhile.
    pub(super) fn wait_read(&self, cx: &Context<'_>) -> bool {
        park(&self.reader, cx);
        self.killed().is_some()
    }

    /// The same for a write.
    pub(super) fn wait_write(&self, cx: &Context<'_>) -> bool {
        park(&self.writer, cx);
        self.killed().is_some()
    }
}

fn park(slot: &Mutex<Option<Waker>>, cx: &Context<'_>) {
    let mut slot = slot.lock();
    match slot.as_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// Milliseconds on a clock of this process.
pub(super) fn now_ms() -> u64 {
    static START: Lazy<Instant> = Lazy::new(Instant::now);
    START.elapsed().as_millis() as u64
}
