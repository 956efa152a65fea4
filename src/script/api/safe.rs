//! Rhai natives that build a result before they check its size, replaced by ones that check.

use rhai::{Array, Dynamic, FnPtr, ImmutableString, NativeCallContext};

use super::table::Table;
use super::{Outcome, fail};
use crate::script::fiber;

/// Bytes of a string, as in the engine's own limit.
pub const STRING: usize = 1 << 20;
/// Items of an array.
const ARRAY: usize = 10_000;

pub fn check_length(length: usize) -> Outcome<()> {
    if length <= STRING {
        return Ok(());
    }
    Err(fail("limit", format!("a string holds at most {STRING} bytes")))
}

pub fn replaced(text: &str, from: &str, to: &str) -> Outcome<String> {
    fiber::charge(text.len());
    let matches = text.matches(from).count();
    check_length(text.len() + matches * to.len().saturating_sub(from.len()))?;
    Ok(text.replace(from, to))
}

pub fn area(table: &mut Table) {
    strings(table);
    lists(table);
    sorting(table);
    table
        .hidden("parse_json(text)", |text: &str| super::json::parse(text))
        .hidden("blob(length)", |length: i64| blob(length, 0))
        .hidden("blob(length, value)", blob);
}

fn strings(table: &mut Table) {
    table
        .hidden("replace(text, from, to)", replace::<ImmutableString, ImmutableString>)
        .hidden("replace(text, from, to)", replace::<char, ImmutableString>)
        .hidden("replace(text, from, to)", replace::<ImmutableString, char>)
        .hidden("replace(text, from, to)", replace::<char, char>)
        .hidden("pad(text, length, by)", pad::<ImmutableString>)
        .hidden("pad(text, length, by)", pad::<char>)
        .hidden("index_of(text, part)", |text: &str, part: &str| index_of(text, part, 0))
        .hidden("index_of(text, part, from)", index_of);
}

fn lists(table: &mut Table) {
    table
        .hidden("pad(array, length, by)", pad_array)
        .hidden("split(text)", |text: &str| listed(text, text.split_whitespace()))
        .hidden("split(text, by)", |text: &str, by: &str| listed(text, text.split(by)))
        .hidden("split(text, by)", |text: &str, by: char| listed(text, text.split(by)))
        .hidden("split(text, by, most)", |text: &str, by: &str, most: i64| {
            listed(text, text.splitn(segments(most), by))
        })
        .hidden("split(text, by, most)", |text: &str, by: char, most: i64| {
            listed(text, text.splitn(segments(most), by))
        })
        .hidden("split_rev(text, by)", |text: &str, by: &str| listed(text, text.rsplit(by)))
        .hidden("split_rev(text, by)", |text: &str, by: char| listed(text, text.rsplit(by)))
        .hidden("split_rev(text, by, most)", |text: &str, by: &str, most: i64| {
            listed(text, text.rsplitn(segments(most), by))
        })
        .hidden("split_rev(text, by, most)", |text: &str, by: char, most: i64| {
            listed(text, text.rsplitn(segments(most), by))
        })
        .hidden("to_chars(text)", |text: &str| -> Outcome<Array> {
            check_items(text.chars().count())?;
            Ok(text.chars().map(Into::into).collect())
        });
}

/// Rhai sorts by the standard library, which panics when a script's comparison contradicts itself.
fn sorting(table: &mut Table) {
    for name in ["sort(array, by)", "sort_by(array, by)"] {
        table.hidden(name, |c: NativeCallContext, array: &mut Array, by: FnPtr| -> Outcome<()> {
            *array = sorted(&c, std::mem::take(array), &by)?;
            Ok(())
        });
    }
    for name in ["order(array, by)", "order_by(array, by)"] {
        table.hidden(name, |c: NativeCallContext, array: &mut Array, by: FnPtr| {
            sorted(&c, array.clone(), &by)
        });
    }
}

/// Merges ever longer runs; stable.
fn sorted(context: &NativeCallContext, mut items: Array, by: &FnPtr) -> Outcome<Array> {
    let mut run = 1;
    while run < items.len() {
        let mut merged = Array::with_capacity(items.len());
        let mut rest = items.into_iter();
        loop {
            let left: Array = rest.by_ref().take(run).collect();
            let right: Array = rest.by_ref().take(run).collect();
            if left.is_empty() {
                break;
            }
            merge(context, left, right, by, &mut merged)?;
        }
        items = merged;
        run *= 2;
    }
    Ok(items)
}

fn merge(
    context: &NativeCallContext,
    left: Array,
    right: Array,
    by: &FnPtr,
    into: &mut Array,
) -> Outcome<()> {
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let order: i64 = by.call_within_context(context, (a.clone(), b.clone()))?;
        into.extend(if order > 0 { right.next() } else { left.next() });
    }
    into.extend(left);
    into.extend(right);
    Ok(())
}

fn segments(most: i64) -> usize {
    usize::try_from(most).unwrap_or(1).max(1)
}

/// Parts as an array, unless there are too many.
pub fn listed<'a>(text: &str, parts: impl Iterator<Item = &'a str>) -> Outcome<Array> {
    fiber::charge(text.len());
    let mut array = Array::new();
    for part in parts {
        check_items(array.len() + 1)?;
        array.push(part.into());
    }
    Ok(array)
}

/// In characters, from a place that is counted from the end when it is negative; -1 for none.
fn index_of(text: &str, part: &str, from: i64) -> i64 {
    fiber::charge(text.len());
    let from = if from < 0 { text.chars().count() as i64 + from } else { from };
    let skip = usize::try_from(from).unwrap_or(0);
    let Some((start, _)) = text.char_indices().nth(skip) else { return -1 };
    let found = text[start..].find(part);
    found.map_or(-1, |at| (skip + text[start..start + at].chars().count()) as i64)
}

fn check_items(count: usize) -> Outcome<()> {
    if count <= ARRAY {
        return Ok(());
    }
    Err(fail("limit", format!("an array holds at most {ARRAY} items")))
}

fn replace<A: ToString, B: ToString>(text: &mut ImmutableString, from: A, to: B) -> Outcome<()> {
    *text = replaced(text, &from.to_string(), &to.to_string())?.into();
    Ok(())
}

fn pad<B: ToString>(text: &mut ImmutableString, length: i64, by: B) -> Outcome<()> {
    let by = by.to_string();
    let wanted = usize::try_from(length).unwrap_or(0);
    check_length(wanted)?;
    let have = text.chars().count();
    let per = by.chars().count();
    if wanted > have && per > 0 {
        let times = (wanted - have).div_ceil(per);
        check_length(text.len() + times * by.len())?;
        *text = format!("{text}{}", by.repeat(times)).into();
    }
    Ok(())
}

fn pad_array(_: NativeCallContext, array: &mut Array, length: i64, by: Dynamic) -> Outcome<()> {
    let wanted = usize::try_from(length).unwrap_or(0);
    check_items(wanted)?;
    if wanted > array.len() {
        array.resize(wanted, by);
    }
    Ok(())
}

fn blob(length: i64, value: i64) -> Outcome<rhai::Blob> {
    let length = usize::try_from(length).unwrap_or(0);
    check_items(length)?;
    Ok(vec![(value & 0xff) as u8; length])
}
