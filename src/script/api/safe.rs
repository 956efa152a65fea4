//! Rhai natives that build a result before they check its size, replaced by ones that check.

use rhai::{Array, Dynamic, ImmutableString, NativeCallContext};

use super::table::Table;
use super::{Outcome, fail};

/// Bytes of a string, as in the engine's own limit.
const STRING: usize = 1 << 20;
/// Items of an array.
const ARRAY: usize = 10_000;

pub fn check_length(length: usize) -> Outcome<()> {
    if length <= STRING {
        return Ok(());
    }
    Err(fail("limit", format!("a string holds at most {STRING} bytes")))
}

pub fn replaced(text: &str, from: &str, to: &str) -> Outcome<String> {
    let matches = text.matches(from).count();
    check_length(text.len() + matches * to.len().saturating_sub(from.len()))?;
    Ok(text.replace(from, to))
}

pub fn area(table: &mut Table) {
    table
        .overload("replace(text, from, to)", replace::<ImmutableString, ImmutableString>)
        .overload("replace(text, from, to)", replace::<char, ImmutableString>)
        .overload("replace(text, from, to)", replace::<ImmutableString, char>)
        .overload("replace(text, from, to)", replace::<char, char>)
        .overload("pad(text, length, by)", pad::<ImmutableString>)
        .overload("pad(text, length, by)", pad::<char>)
        .overload("pad(array, length, by)", pad_array)
        .overload("split(text, by)", split::<ImmutableString>)
        .overload("split(text, by)", split::<char>)
        .overload("to_chars(text)", |text: &str| -> Outcome<Array> {
            check_items(text.chars().count())?;
            Ok(text.chars().map(Into::into).collect())
        })
        .overload("parse_json(text)", |text: &str| super::json::parse(text))
        .overload("blob(length)", |length: i64| blob(length, 0))
        .overload("blob(length, value)", blob);
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

fn split<B: ToString>(text: &mut ImmutableString, by: B) -> Outcome<Array> {
    let by = by.to_string();
    check_items(text.matches(&by).count() + 1)?;
    Ok(text.split(&by).map(Into::into).collect())
}

fn blob(length: i64, value: i64) -> Outcome<rhai::Blob> {
    let length = usize::try_from(length).unwrap_or(0);
    check_items(length)?;
    Ok(vec![(value & 0xff) as u8; length])
}
