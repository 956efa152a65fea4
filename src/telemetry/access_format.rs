//! One line of the access log from one entry. Runs on the writer's thread only.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::clock::Utc;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// An object per line; durations in seconds.
    #[default]
    Json,
    /// The NCSA common log format, with referer and user agent ("combined").
    Common,
}

/// What is known of a request at its end.
///
/// There is no field for other headers, so credentials and cookies cannot get in.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When the request's head came.
    pub time: SystemTime,
    pub request_id: Arc<str>,
    pub trace_id: Option<u128>,
    pub client: Option<IpAddr>,
    pub method: String,
    pub host: String,
    /// With the query.
    pub path: String,
    /// As in `HTTP/1.1`.
    pub protocol: &'static str,
    pub user_agent: Option<String>,
    pub referer: Option<String>,
    pub route: Option<Arc<str>>,
    pub upstream: Option<Arc<str>>,
    pub endpoint: Option<Arc<str>>,
    /// The filter that answered.
    pub filter: Option<Arc<str>>,
    /// What the cache did, on a route that has one.
    pub cache: Option<&'static str>,
    /// 0 if the client got no answer.
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub ttfb: Option<Duration>,
    /// Time waiting for the upstream.
    pub upstream_time: Option<Duration>,
    pub retries: u32,
    /// The endpoints that failed before, and why.
    pub tried: Vec<(String, &'static str)>,
    /// The kind of error that ended the request.
    pub error: Option<&'static str>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            time: SystemTime::UNIX_EPOCH,
            request_id: Arc::from(""),
            trace_id: None,
            client: None,
            method: String::new(),
            host: String::new(),
            path: String::new(),
            protocol: "HTTP/1.1",
            user_agent: None,
            referer: None,
            route: None,
            upstream: None,
            endpoint: None,
            filter: None,
            cache: None,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            ttfb: None,
            upstream_time: None,
            retries: 0,
            tried: Vec::new(),
            error: None,
        }
    }
}

/// Writes the line of an entry, with its newline.
pub(super) fn write(out: &mut impl Write, format: Format, entry: &Entry) -> io::Result<()> {
    match format {
        Format::Json => serde_json::to_writer(&mut *out, &JsonLine::from(entry))?,
        Format::Common => common(out, entry)?,
    }
    out.write_all(b"\n")
}

/// The JSON form: absent things are left out.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'a str>,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_time: Option<f64>,
    retries: u32,
    #[serde(skip_serializing_if = "<[Tried<'_>]>::is_empty")]
    tried: Vec<Tried<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Tried<'a> {
    endpoint: &'a str,
    error: &'a str,
}

impl<'a> From<&'a Entry> for JsonLine<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            time: Utc::from(entry.time).rfc3339(),
            request_id: &entry.request_id,
            trace_id: entry.trace_id.map(|id| format!("{id:032x}")),
            client: entry.client,
            method: &entry.method,
            host: &entry.host,
            path: &entry.path,
            protocol: entry.protocol,
            user_agent: entry.user_agent.as_deref(),
            referer: entry.referer.as_deref(),
            route: entry.route.as_deref(),
            upstream: entry.upstream.as_deref(),
            endpoint: entry.endpoint.as_deref(),
            filter: entry.filter.as_deref(),
            cache: entry.cache,
            status: entry.status,
            bytes_in: entry.bytes_in,
            bytes_out: entry.bytes_out,
            duration: seconds(entry.duration),
            ttfb: entry.ttfb.map(seconds),
            upstream_time: entry.upstream_time.map(seconds),
            retries: entry.retries,
            tried: entry.tried.iter().map(|(endpoint, error)| Tried { endpoint, error }).collect(),
            error: entry.error,
        }
    }
}

/// Seconds to the microsecond: more digits are noise in a log.
fn seconds(duration: Duration) -> f64 {
    let micros =
        u32::try_from(duration.as_micros()).map_or(duration.as_secs_f64() * 1e6, f64::from);
    micros / 1e6
}

fn common(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let client = entry.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
    write!(
        out,
        "{client} - - [{}] \"{} {} {}\" {:03} {} \"{}\" \"{}\"",
        Utc::from(entry.time).common(),
        quotable(&entry.method),
        quotable(&entry.path),
        entry.protocol,
        entry.status,
        entry.bytes_out,
        quotable(entry.referer.as_deref().unwrap_or("-")),
        quotable(entry.user_agent.as_deref().unwrap_or("-")),
    )
}

/// As Apache and nginx do: quotes, backslashes and controls as `\xNN`.
fn quotable(text: &str) -> Cow<'_, str> {
    escape(text, |char| char.is_control() || char == '"' || char == '\\')
}

/// Controls as `\xNN`, so that nothing in a line can begin another or steer a terminal.
pub(super) fn escape_controls(text: &str) -> Cow<'_, str> {
    escape(text, char::is_control)
}

fn escape(text: &str, unwanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&unwanted) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if unwanted(char) {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\x{:02x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            client: Some(IpAddr::from([192, 0, 2, 1])),
            method: "GET".to_owned(),
            path: "/a?b=\"c\"\n".to_owned(),
            user_agent: Some("\u{1b}[31mcurl\\".to_owned()),
            status: 200,
            bytes_out: 42,
            duration: Duration::from_nanos(1_234_567),
            ..Entry::default()
        }
    }

    fn line(format: Format, entry: &Entry) -> String {
        let mut line = Vec::new();
        write(&mut line, format, entry).expect("memory takes it");
        String::from_utf8(line).expect("text")
    }

    #[test]
    fn common_escapes() {
        assert_eq!(
            line(Format::Common, &entry()),
            "192.0.2.1 - - [01/Jan/1970:00:00:00 +0000] \"GET /a?b=\\x22c\\x22\\x0a HTTP/1.1\" \
             200 42 \"-\" \"\\x1b[31mcurl\\x5c\"\n"
        );
    }

    #[test]
    fn json_is_one_line_and_leaves_out_what_is_absent() {
        let entry = Entry { trace_id: Some(0xab), error: Some("timeout"), ..entry() };
        let line = line(Format::Json, &entry);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["path"], "/a?b=\"c\"\n");
        assert_eq!(value["user_agent"], "\u{1b}[31mcurl\\");
        assert_eq!(value["duration"], 0.001_234);
        assert_eq!(value["trace_id"], format!("{:032x}", 0xab));
        assert_eq!(value["error"], "timeout");
        assert!(value.get("upstream").is_none());
    }
}
