//! Cookies: the request's, and Set-Cookie of responses.

use http::{HeaderValue, header};
use rhai::{Array, Dynamic, Map};

use super::convert::scalar_text;
use super::objects::{Request, Response, check_line};
use super::table::Table;
use super::{Outcome, invalid};

#[derive(Clone)]
pub struct Cookies(pub Request);

pub fn area(table: &mut Table) {
    table.area("Cookies");
    table
        .index_get("cookies[name]", "The value or `()`; set to a string, or `()` to remove.", get)
        .example(r#"req.cookies["new"] = "1"; req.headers["cookie"] == "sid=abc; lang=de; new=1""#)
        .index_set(set)
        .function(
            "cookies.contains(name)",
            "Whether it is there.",
            |c: &mut Cookies, name: &str| pairs(c).iter().any(|(k, _)| k == name),
        )
        .example(r#"req.cookies.contains("sid")"#)
        .function("cookies.names()", "The names.", |c: &mut Cookies| -> Array {
            pairs(c).into_iter().map(|(name, _)| name.into()).collect()
        })
        .example(r#"req.cookies.names() == ["sid", "lang"]"#)
        .function("cookies.remove(name)", "Removes one.", |c: &mut Cookies, name: &str| {
            write(c, pairs(c).into_iter().filter(|(k, _)| k != name))
        })
        .example(r#"req.cookies.remove("sid"); req.headers["cookie"] == "lang=de""#)
        .function("cookies.retain(names)", "Keeps only these.", |c: &mut Cookies, names: Array| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            write(c, pairs(c).into_iter().filter(|(k, _)| names.contains(k)))
        })
        .example(r#"req.cookies.retain(["lang"]); req.headers["cookie"] == "lang=de""#);
}

fn pairs(cookies: &Cookies) -> Vec<(String, String)> {
    cookies.0.0.read(|draft| {
        let lines = draft.headers.get_all(header::COOKIE).iter();
        let lines: Vec<String> =
            lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect();
        let parts = lines.iter().flat_map(|line| line.split(';'));
        let pairs = parts.filter_map(|part| part.trim().split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    })
}

fn write(cookies: &Cookies, pairs: impl Iterator<Item = (String, String)>) -> Outcome<()> {
    let line = pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
    check_line("the Cookie header", line.len())?;
    let value = HeaderValue::from_bytes(line.as_bytes());
    let value = value.map_err(|_| invalid("a cookie has no control characters"))?;
    cookies.0.0.write(|draft| {
        draft.headers.remove(header::COOKIE);
        if !line.is_empty() {
            draft.headers.insert(header::COOKIE, value);
        }
    });
    Ok(())
}

/// The first of this name; most filters ask for one of many.
fn get(cookies: &mut Cookies, name: &str) -> Dynamic {
    cookies.0.0.read(|draft| {
        for line in draft.headers.get_all(header::COOKIE) {
            let line = String::from_utf8_lossy(line.as_bytes());
            let mut pairs = line.split(';').filter_map(|part| part.trim().split_once('='));
            if let Some((_, value)) = pairs.find(|(known, _)| *known == name) {
                return value.into();
            }
        }
        Dynamic::UNIT
    })
}

fn set(cookies: &mut Cookies, name: &str, value: Dynamic) -> Outcome<()> {
    let mut all = pairs(cookies);
    all.retain(|(k, _)| k != name);
    if !value.is_unit() {
        let value = super::convert::scalar_text(&value)?;
        check(name, &value)?;
        all.push((name.to_owned(), value));
    }
    write(cookies, all.into_iter())
}

fn check(name: &str, value: &str) -> Outcome<()> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let octet = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(invalid(format!("\"{}\" is not a cookie's name", name.escape_default())));
    }
    if let Some(bad) = value.chars().find(|c| !c.is_ascii() || !octet(*c as u8)) {
        let message = format!("the value of cookie {name} has {bad:?}, which no cookie can have");
        return Err(invalid(message));
    }
    Ok(())
}

/// An attribute's text, which must not start another attribute or another cookie.
fn attribute_text(cookie: &str, option: &str, value: &Dynamic) -> Outcome<String> {
    let text = scalar_text(value)?;
    let bad = |c: &char| !c.is_ascii() || c.is_ascii_control() || matches!(c, ';' | ',');
    if let Some(bad) = text.chars().find(bad) {
        let message = format!("the {option} of cookie {cookie} has {bad:?}, which it cannot have");
        return Err(invalid(message));
    }
    Ok(text)
}

/// Options and the attributes that they become, in the order in which those are written.
const ATTRIBUTES: [(&str, &str); 6] = [
    ("path", "Path"),
    ("domain", "Domain"),
    ("max_age", "Max-Age"),
    ("secure", "Secure"),
    ("http_only", "HttpOnly"),
    ("same_site", "SameSite"),
];

/// Adds a Set-Cookie, with the attributes that the options ask for and no others.
pub fn set_cookie(response: &Response, name: &str, value: &str, options: &Map) -> Outcome<()> {
    check(name, value)?;
    let known = |option: &str| ATTRIBUTES.iter().any(|(known, _)| *known == option);
    if let Some(unknown) = options.keys().find(|option| !known(option)) {
        return Err(invalid(format!("a cookie has no option {unknown}")));
    }
    let mut line = format!("{name}={value}");
    for (option, attribute) in ATTRIBUTES {
        let Some(value) = options.get(option) else { continue };
        let written = match option {
            "secure" | "http_only" => {
                let wanted = value.as_bool();
                if !wanted.map_err(|_| invalid(format!("{option} is true or false")))? {
                    continue;
                }
                attribute.to_owned()
            }
            "max_age" => {
                let seconds = value.as_int();
                let seconds = seconds.map_err(|_| invalid("max_age is whole seconds"))?;
                format!("{attribute}={seconds}")
            }
            "same_site" => format!("{attribute}={}", site(&attribute_text(name, option, value)?)?),
            _ => format!("{attribute}={}", attribute_text(name, option, value)?),
        };
        line.push_str("; ");
        line.push_str(&written);
    }
    check_line("a cookie", line.len())?;
    let value = HeaderValue::from_str(&line);
    let value = value.map_err(|_| invalid("a cookie has no control characters"))?;
    response.0.write(|draft| draft.headers.append(header::SET_COOKIE, value));
    Ok(())
}

fn site(text: &str) -> Outcome<&'static str> {
    let known = ["Strict", "Lax", "None"].into_iter().find(|site| site.eq_ignore_ascii_case(text));
    known.ok_or_else(|| invalid("same_site is Strict, Lax or None"))
}
