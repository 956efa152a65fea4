//! Randomness, of the operating system's generator or of a test's seed.

use rhai::{Blob, Dynamic, Map, NativeCallContext};

use super::state::State;
use super::table::Table;
use super::{Outcome, invalid};

/// Bytes in one call.
const MOST_BYTES: i64 = 4096;

pub fn area(table: &mut Table) {
    table.area("Random");
    table
        .function("random::float()", "From 0 up to 1.", float)
        .example("let x = random::float(); x >= 0.0 && x < 1.0")
        .function("random::int(low, high)", "Both included.", int)
        .example("random::int(3, 3) == 3")
        .function("random::bytes(n)", "Up to 4096 bytes.", bytes)
        .example("random::bytes(8).len == 8")
        .function("random::uuid()", "A version 4 UUID.", uuid)
        .example("random::uuid().len == 36")
        .function(
            "random::weighted(choices)",
            "A key of a map of weights, by its weight.",
            weighted,
        )
        .example("random::weighted(#{ a: 1, b: 0 }) == \"a\"");
}

fn word(context: &NativeCallContext) -> Outcome<u64> {
    let mut bytes = [0; 8];
    State::of(context)?.random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn float(context: NativeCallContext) -> Outcome<f64> {
    unit(&context)
}

fn unit(context: &NativeCallContext) -> Outcome<f64> {
    // 53 bits, all that a float holds.
    Ok((word(context)? >> 11) as f64 / (1_u64 << 53) as f64)
}

fn int(context: NativeCallContext, low: i64, high: i64) -> Outcome<i64> {
    if low > high {
        return Err(invalid("low is above high"));
    }
    let span = (i128::from(high) - i128::from(low) + 1) as u128;
    let offset = (u128::from(word(&context)?) * span) >> 64;
    i64::try_from(i128::from(low) + offset as i128).map_err(|_| invalid("out of range"))
}

fn bytes(context: NativeCallContext, count: i64) -> Outcome<Blob> {
    if !(0..=MOST_BYTES).contains(&count) {
        return Err(invalid(format!("0 to {MOST_BYTES} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
    State::of(&context)?.random(&mut bytes)?;
    Ok(bytes)
}

fn uuid(context: NativeCallContext) -> Outcome<String> {
    let value = (u128::from(word(&context)?) << 64) | u128::from(word(&context)?);
    // RFC 9562: the version is in bits 48 to 51, the variant in bits 64 and 65.
    let value = value & !(0xf << 76) | (0x4 << 76);
    let value = value & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{value:032x}");
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

fn weighted(context: NativeCallContext, choices: Map) -> Outcome<Dynamic> {
    let weight = |value: &Dynamic| {
        let float = value.as_float().or_else(|_| value.as_int().map(|int| int as f64));
        float.ok().filter(|weight| weight.is_finite() && *weight >= 0.0)
    };
    let weights: Option<Vec<_>> = choices.iter().map(|(k, v)| Some((k, weight(v)?))).collect();
    let weights = weights.ok_or_else(|| invalid("weights are numbers from 0"))?;
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut left = unit(&context)? * total;
    for (name, weight) in weights.iter().filter(|(_, weight)| *weight > 0.0) {
        left -= weight;
        if left < 0.0 {
            return Ok(name.as_str().into());
        }
    }
    let last = weights.iter().rfind(|(_, weight)| *weight > 0.0);
    last.map(|(name, _)| name.as_str().into()).ok_or_else(|| invalid("all weights are 0"))
}
