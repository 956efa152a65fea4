//! CSV as in RFC 4180: fields in quotes where they hold a comma, a quote (written twice) or a line
//! break. Empty lines are skipped.

use super::lists::Bad;

/// The records, each with the line that it begins on; nothing follows an error.
pub fn records(text: &str) -> impl Iterator<Item = Result<(usize, Vec<String>), Bad>> + '_ {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut next_line = 1;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let line = next_line;
            match record(rest) {
                Ok((fields, next, lines)) => {
                    (rest, next_line) = (next, line + lines);
                    if !matches!(fields.as_slice(), [empty] if empty.is_empty()) {
                        return Some(Ok((line, fields)));
                    }
                }
                Err(message) => {
                    rest = "";
                    return Some(Err(Bad::at(line, 1, message)));
                }
            }
        }
        None
    })
}

/// The fields of the first record, what follows it, and the lines that it takes.
fn record(text: &str) -> Result<(Vec<String>, &str, usize), String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let field;
        (field, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find([',', '\n']).unwrap_or(rest.len());
                let (field, rest) = rest.split_at(end);
                let field =
                    if rest.starts_with(',') { field } else { field.trim_end_matches('\r') };
                (field.to_owned(), rest)
            }
        };
        fields.push(field);
        if let Some(next) = rest.strip_prefix(',') {
            rest = next;
            continue;
        }
        let after = rest.strip_prefix('\r').unwrap_or(rest);
        let next = match after.strip_prefix('\n') {
            Some(next) => next,
            None if after.is_empty() => after,
            None => return Err("text after a closing quote".to_owned()),
        };
        let taken = &text[..text.len() - next.len()];
        return Ok((fields, next, taken.matches('\n').count()));
    }
}

/// What stands before the closing quote, and what follows that.
fn quoted_field(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let Some((before, after)) = rest.split_once('"') else {
            return Err("a quote is not closed".to_owned());
        };
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Ok((field, after)),
        }
    }
}
