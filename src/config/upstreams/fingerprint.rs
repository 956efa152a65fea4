//! The SHA-256 of a certificate, as people hand it on.

use std::fmt;

use serde_yaml::Value;

use crate::config::read::{Read, Reader, Schema};
use crate::config::yaml::Node;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02X}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse(text: &str) -> Option<Fingerprint> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?;
    bytes.try_into().ok().map(Fingerprint)
}

impl Read for Fingerprint {
    fn read(node: &Node, cx: &mut Reader<'_>) -> Option<Self> {
        let text = String::read(node, cx)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            let message =
                format!("\"{text}\" is not 32 bytes in hexadecimal, with or without colons");
            cx.problem(node.at, message, None);
        }
        parsed
    }
    fn schema() -> Schema {
        Schema::Leaf { name: "a SHA-256 in hexadecimal", json: &["string"] }
    }
    fn show(&self) -> Value {
        self.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_are_read_and_nothing_else() {
        let bare = "0F".repeat(32);
        let with_colons = parse(&bare).expect("valid").to_string();
        assert_eq!(parse(&with_colons), Some(Fingerprint([15; 32])));
        for bad in ["", "0F", &bare[1..], &format!("{bare}00"), &bare.replace('F', "G")] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
