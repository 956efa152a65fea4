//! The single values of a configuration: durations, sizes, addresses, patterns, names.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use ipnet::IpNet;
use serde_yaml::Value;

use super::pattern::{HostPattern, PathPattern};
use super::read::{Read, Reader, Schema};
use super::yaml::{Kind, Node};

/// A number of bytes: `512`, `64KiB`, `4MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A whole share of a hundred: `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(pub u32);

/// `host:port` of an origin, resolved when the configuration is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub text: String,
    pub resolved: SocketAddr,
}

/// An address to listen on; `:8080` means every IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind(pub SocketAddr);

/// Free-form data, as JSON has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Free {
    pub value: serde_json::Value,
    /// The same with `***` for what came from the environment.
    shown: serde_json::Value,
}

/// Reads a scalar through `parse`, whose error says what is wrong.
fn scalar<T>(
    node: &Node,
    what: &str,
    cx: &mut Reader<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Kind::Scalar { text, .. } = &node.kind else {
        cx.expected(node, what);
        return None;
    };
    if node.is_null() {
        cx.expected(node, what);
        return None;
    }
    parse(text).map_err(|message| cx.problem(node.at, message, None)).ok()
}

/// A leaf that is written as text and read by a function.
macro_rules! leaf {
    ($ty:ty, $name:literal, $json:expr, $parse:expr, $show:expr) => {
        impl Read for $ty {
            fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
                scalar(node, $name, cx, $parse)
            }
            fn schema() -> Schema {
                Schema::Leaf { name: $name, json: $json }
            }
            fn show(&self) -> Value {
                let show: fn(&$ty) -> Value = $show;
                show(self)
            }
        }
    };
}

const TEXT: &[&str] = &["string"];
/// Text that YAML may take for something else, such as `yes` or `404`.
const ANY_TEXT: &[&str] = &["string", "number", "boolean"];
const NUMBER: &[&str] = &["integer", "string"];

leaf!(String, "text", ANY_TEXT, |t| Ok(t.to_owned()), |v| v.clone().into());
leaf!(bool, "true or false", &["boolean"], parse_bool, |v| (*v).into());
leaf!(u16, "a number", NUMBER, parse_number, |v| (*v).into());
leaf!(u32, "a number", NUMBER, parse_number, |v| (*v).into());
leaf!(u64, "a number", NUMBER, parse_number, |v| (*v).into());
leaf!(Duration, "a duration such as 500ms, 2s, 1m", TEXT, parse_duration, |v| show_duration(*v)
    .into());
leaf!(Bytes, "a size such as 512, 64KiB, 4MiB", NUMBER, parse_size, |v| show_size(v.0).into());
leaf!(Percent, "a share such as 50%", TEXT, parse_percent, |v| format!("{}%", v.0).into());
leaf!(Bind, "an address such as 127.0.0.1:8080", TEXT, parse_bind, |v| v.0.to_string().into());
leaf!(HostPort, "host:port", TEXT, parse_host_port, |v| v.text.clone().into());
leaf!(IpNet, "an address or a network such as 10.0.0.0/8", TEXT, parse_net, |v| v
    .to_string()
    .into());
leaf!(
    HostPattern,
    "a host pattern such as shop.test or *.shop.test",
    ANY_TEXT,
    HostPattern::parse,
    |v| { v.to_string().into() }
);
leaf!(PathPattern, "a path pattern such as /api/{id}/{rest*}", TEXT, PathPattern::parse, |v| {
    v.to_string().into()
});
leaf!(HeaderName, "a header name", ANY_TEXT, |t| named(t, "a header name"), |v| v.as_str().into());
leaf!(Method, "a method such as GET", TEXT, parse_method, |v| v.as_str().into());
leaf!(StatusCode, "a status code", NUMBER, parse_status, |v| v.as_u16().into());

impl Read for PathBuf {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        let path: PathBuf = scalar(node, "a file's path", cx, |t| Ok(t.into()))?;
        Some(cx.problems.base().join(path))
    }
    fn schema() -> Schema {
        Schema::Leaf { name: "a file's path, relative to the configuration", json: ANY_TEXT }
    }
    fn show(&self) -> Value {
        self.display().to_string().into()
    }
}

impl Read for Free {
    fn read(node: &Node, _: &mut Reader<'_>) -> Option<Self> {
        Some(Self { value: free(node, false), shown: free(node, true) })
    }
    fn schema() -> Schema {
        Schema::Any
    }
    fn show(&self) -> Value {
        serde_yaml::to_value(&self.shown).unwrap_or(Value::Null)
    }
}

fn free(node: &Node, masked: bool) -> serde_json::Value {
    match &node.kind {
        Kind::Scalar { from_env: true, .. } if masked => "***".into(),
        Kind::Seq(nodes) => nodes.iter().map(|node| free(node, masked)).collect(),
        Kind::Map(entries) => {
            entries.iter().map(|(key, node)| (key.text.clone(), free(node, masked))).collect()
        }
        Kind::Scalar { text, quoted: true, .. } => text.clone().into(),
        Kind::Scalar { .. } if node.is_null() => serde_json::Value::Null,
        Kind::Refused => serde_json::Value::Null,
        Kind::Scalar { text, .. } => match text.as_str() {
            "true" => true.into(),
            "false" => false.into(),
            _ => number(text).unwrap_or_else(|| text.clone().into()),
        },
    }
}

/// YAML's plain numbers; `0123`, `.5` or `1_000` stay text.
fn number(text: &str) -> Option<serde_json::Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit())
        || digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.")
    {
        return None;
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    text.parse::<f64>().ok().filter(|f| f.is_finite()).map(Into::into)
}

fn named<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String>
where
    T::Err: Display,
{
    text.parse().map_err(|_| format!("\"{text}\" is not {what}"))
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false")),
    }
}

fn parse_number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = if plain { text.parse().ok() } else { None };
    value.ok_or_else(|| format!("\"{text}\" is not a whole number in range"))
}

/// `500ms`, `1.5s`, `2m`, `1h`. A bare number is refused: its unit would be a guess. So is 0: some
/// would take it for "never", and as a limit it would refuse everything.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration: write 500ms, 2s, 5m or 1h");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (digits, unit) = text.split_at(split);
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !digits.starts_with('.');
    let number: f64 = digits.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        _ => return Err(wrong()),
    };
    const LONGEST: f64 = 10.0 * 365.0 * 86400.0;
    if seconds > LONGEST {
        return Err(format!("\"{text}\" is longer than ten years"));
    }
    match Duration::from_nanos((seconds * 1e9).round() as u64) {
        Duration::ZERO => Err(format!("\"{text}\" is no time at all: the shortest is 1us")),
        duration => Ok(duration),
    }
}

pub fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        m if m % 3_600_000_000 == 0 => format!("{}h", m / 3_600_000_000),
        m if m % 60_000_000 == 0 => format!("{}m", m / 60_000_000),
        m if m % 1_000_000 == 0 => format!("{}s", m / 1_000_000),
        m if m % 1000 == 0 => format!("{}ms", m / 1000),
        m => format!("{m}us"),
    }
}

pub fn parse_size(text: &str) -> Result<Bytes, String> {
    let wrong = || format!("\"{text}\" is not a size: write 512, 64KiB, 4MiB or 1GiB");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(Bytes).ok_or_else(wrong)
}

pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        b if b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => b.to_string(),
    }
}

fn parse_percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').and_then(|number| parse_number::<u32>(number).ok());
    let share = number.filter(|number| *number <= 100).map(Percent);
    share.ok_or_else(|| format!("\"{text}\" is not a share: write 0% to 100%"))
}

fn parse_bind(text: &str) -> Result<Bind, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map(Bind).map_err(|_| {
        format!(
            "\"{text}\" is not an address to listen on: write 127.0.0.1:8080, [::1]:8080 or :8080"
        )
    })
}

fn parse_host_port(text: &str) -> Result<HostPort, String> {
    let resolved =
        text.to_socket_addrs().map_err(|e| format!("\"{text}\": {e}; write host:port"))?;
    // IPv4 first: an origin on "localhost" mostly listens there only.
    let mut addresses: Vec<SocketAddr> = resolved.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    match addresses.first() {
        Some(first) if first.port() == 0 => Err(format!("\"{text}\": nobody listens on port 0")),
        Some(first) => Ok(HostPort { text: text.to_owned(), resolved: *first }),
        None => Err(format!("\"{text}\" has no address")),
    }
}

fn parse_net(text: &str) -> Result<IpNet, String> {
    let address = |t: &str| t.parse::<IpAddr>().map(IpNet::from).ok();
    let net = text.parse::<IpNet>().ok().or_else(|| address(text));
    net.ok_or_else(|| format!("\"{text}\" is neither an address nor a network like 10.0.0.0/8"))
}

fn parse_method(text: &str) -> Result<Method, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        return Err(format!(
            "\"{text}\" is not a method: methods are upper-case words such as GET"
        ));
    }
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let near = KNOWN.iter().find(|known| strsim::damerau_levenshtein(known, text) == 1);
    match near {
        Some(known) => Err(format!("\"{text}\" is not a method; did you mean {known}?")),
        None => named(text, "a method"),
    }
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    let number: u16 = parse_number(text)?;
    StatusCode::from_u16(number)
        .ok()
        .filter(|s| (200..600).contains(&s.as_u16()))
        .ok_or_else(|| format!("{number} is not a status of a final response (200 to 599)"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in
            ["5", "", "s", "1 s", "-1s", "1e3s", "1S", ".5s", "11y", "1.2.3s", "9999999d", "0s"]
        {
            assert!(parse_duration(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn sizes_are_binary_and_do_not_overflow() {
        assert_eq!(parse_size("4MiB"), Ok(Bytes(4 << 20)));
        for bad in ["4MB", "-1", "", "1.5MiB", "99999999999GiB", "KiB"] {
            assert!(parse_size(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_share_is_whole_and_has_its_sign() {
        assert_eq!(parse_percent("50%"), Ok(Percent(50)));
        for bad in ["50", "101%", "-1%", "1.5%", "%", "", "0.5", "1e1%"] {
            assert!(parse_percent(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_mistyped_method_is_no_extension_method() {
        assert!(parse_method("GETT").unwrap_err().contains("did you mean GET"));
        assert!(parse_method("get").is_err());
        assert_eq!(parse_method("PURGE").map(|m| m.to_string()), Ok("PURGE".into()));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(micros in 1u64..400_000_000_000, bytes: u64) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(Bytes(bytes)));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_bind(&text));
            let _ = (parse_net(&text), parse_method(&text), parse_status(&text), number(&text));
        }
    }
}
