//! Any text as a filter's source: it loads, or is refused with a word.

#![no_main]

libfuzzer_sys::fuzz_target!(|source: &str| selvedge::script::fuzz::load(source));
