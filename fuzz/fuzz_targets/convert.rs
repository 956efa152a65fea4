//! Any text through the conversions between script values and the host's plain types.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| selvedge::script::fuzz::convert(text));
