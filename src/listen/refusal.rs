//! Requests that end before the application sees them: their answers, and who is told.

use std::fmt;

use http::StatusCode;

use super::limits::Refusal;
use super::state::ConnState;
use crate::telemetry::trace::request_id;

/// Is told of each request that was refused.
pub trait Witness: Send + Sync {
    fn refused(&self, connection: &ConnState, why: Refusal, request_id: &str);
}

impl fmt::Debug for dyn Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Malformed => StatusCode::BAD_REQUEST,
            Refusal::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    fn public(self) -> &'static str {
        match self {
            Refusal::Malformed => "The request is malformed.",
            Refusal::HeadTooLarge => "The request's head is too large.",
            Refusal::HeadTimeout => "The request did not come in time.",
        }
    }
}

/// The whole answer of HTTP/1.1, in the form of the application's own pages, and its request id.
pub(super) fn page(why: Refusal) -> (Vec<u8>, String) {
    let id = String::from_utf8_lossy(request_id().as_bytes()).into_owned();
    let status = why.status();
    let reason = status.canonical_reason().unwrap_or("Error");
    let body = serde_json::json!({
        "status": status.as_u16(), "error": reason, "message": why.public(), "request_id": id,
    });
    let body = format!("{body}\n");
    let page = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n\
         Content-Length: {}\r\nX-Request-Id: {id}\r\nConnection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len(),
    );
    (page.into_bytes(), id)
}
