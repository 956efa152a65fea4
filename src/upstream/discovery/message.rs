//! DNS messages (RFC 1035): questions for A, AAAA and SRV, and what answers say. No I/O.
//!
//! Every read is checked against the message's length, and names cannot point in circles.

use std::net::IpAddr;

pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;
pub(super) const SRV: u16 = 33;
const INTERNET: u16 = 1;

/// A question's flags: recursion is desired.
const RECURSE: u16 = 0x0100;
const RESPONSE: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const CODE: u16 = 0x000f;
const NO_SUCH_NAME: u16 = 3;

const HEADER: usize = 12;
/// Labels in a name at most, as its 255 bytes allow.
const MAX_LABELS: usize = 128;
/// Records read of one answer.
const MAX_RECORDS: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Address(IpAddr),
    Service(Service),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: String,
}

/// Of one type, each with its TTL in seconds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Records(Vec<(Data, u32)>),
    Truncated,
    NoSuchName,
    /// The server's code for what is wrong with it.
    Failed(u16),
}

/// A question for records of `kind` of `name`; `None` if the name cannot be asked for.
pub(super) fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER + name.len() + 6);
    for number in [id, RECURSE, 1, 0, 0, 0] {
        message.extend(number.to_be_bytes());
    }
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    Some(message)
}

/// What `message` answers to `question`; `None` for what is no answer to it.
pub(super) fn answer(message: &[u8], question: &[u8]) -> Option<Answer> {
    let asked = question.get(HEADER..)?;
    let same = message.get(..2)? == question.get(..2)?
        && message.get(HEADER..HEADER + asked.len())?.eq_ignore_ascii_case(asked);
    let flags = number(message, 2)?;
    if !same || flags & RESPONSE == 0 || number(message, 4)? != 1 {
        return None;
    }
    match flags & CODE {
        0 => {}
        NO_SUCH_NAME => return Some(Answer::NoSuchName),
        code => return Some(Answer::Failed(code)),
    }
    if flags & TRUNCATED != 0 {
        return Some(Answer::Truncated);
    }
    let kind = number(question, question.len() - 4)?;
    let mut at = HEADER + asked.len();
    let mut records = Vec::new();
    for _ in 0..usize::from(number(message, 6)?).min(MAX_RECORDS) {
        let (_, after) = name(message, at)?;
        let (found, class) = (number(message, after)?, number(message, after + 2)?);
        let ttl = message.get(after + 4..after + 8)?.try_into().map(u32::from_be_bytes).ok()?;
        let length = usize::from(number(message, after + 8)?);
        let start = after + 10;
        let data = message.get(start..start + length)?;
        // Aliases on the way are the resolver's business; it sends what they lead to along.
        if (found, class) == (kind, INTERNET) {
            records.push((read(message, kind, start, data)?, ttl));
        }
        at = start + length;
    }
    Some(Answer::Records(records))
}

fn read(message: &[u8], kind: u16, start: usize, data: &[u8]) -> Option<Data> {
    match kind {
        A => <[u8; 4]>::try_from(data).ok().map(|octets| Data::Address(octets.into())),
        AAAA => <[u8; 16]>::try_from(data).ok().map(|octets| Data::Address(octets.into())),
        _ => Some(Data::Service(Service {
            priority: number(data, 0)?,
            weight: number(data, 2)?,
            port: number(data, 4)?,
            target: name(message, start + 6)?.0,
        })),
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2)?.try_into().map(u16::from_be_bytes).ok()
}

/// The name at `at`, and where what follows it begins.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut text, mut after) = (String::new(), None);
    for _ in 0..MAX_LABELS {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((text, after.unwrap_or(at + 1))),
            1..64 => {
                let label = message.get(at + 1..at + 1 + length)?;
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(label.iter().map(|byte| char::from(*byte)));
                at += 1 + length;
            }
            // A pointer; it may only point back, so that there is no circle.
            192.. => {
                let to = usize::from(number(message, at)? & 0x3fff);
                after.get_or_insert(at + 2);
                at = Some(to).filter(|to| *to < at)?;
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer with one record of `kind` whose owner points to the question.
    fn reply(question: &[u8], flags: u16, kind: u16, data: &[u8]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&(RESPONSE | flags).to_be_bytes());
        message[6..8].copy_from_slice(&1u16.to_be_bytes());
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message.extend(60u32.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
        message
    }

    #[test]
    fn addresses_and_services_are_read() {
        let asked = question(7, "shop.test.", A).unwrap();
        let message = reply(&asked, 0, A, &[192, 0, 2, 1]);
        let address = Data::Address([192, 0, 2, 1].into());
        assert_eq!(answer(&message, &asked), Some(Answer::Records(vec![(address, 60)])));
        let asked = question(7, "_http._tcp.shop.test", SRV).unwrap();
        let data = [&[0, 1, 0, 5, 0x1f, 0x90][..], b"\x01a\x04shop\x04test\0"].concat();
        let service = Service { priority: 1, weight: 5, port: 8080, target: "a.shop.test".into() };
        let found = answer(&reply(&asked, 0, SRV, &data), &asked);
        assert_eq!(found, Some(Answer::Records(vec![(Data::Service(service), 60)])));
    }

    #[test]
    fn what_does_not_answer_the_question_is_no_answer() {
        let asked = question(7, "shop.test", A).unwrap();
        let message = reply(&asked, 0, A, &[192, 0, 2, 1]);
        assert_eq!(answer(&message, &question(8, "shop.test", A).unwrap()), None, "another id");
        assert_eq!(answer(&message, &question(7, "shop.prod", A).unwrap()), None, "another name");
        assert_eq!(answer(&asked, &asked), None, "the question itself");
        let other = reply(&asked, 0, 5, b"\x01a\0");
        assert_eq!(answer(&other, &asked), Some(Answer::Records(Vec::new())), "another type");
    }

    #[test]
    fn failures_are_told_apart() {
        let asked = question(7, "shop.test", A).unwrap();
        let with = |flags| answer(&reply(&asked, flags, A, &[192, 0, 2, 1]), &asked);
        assert_eq!(with(TRUNCATED), Some(Answer::Truncated));
        assert_eq!(with(NO_SUCH_NAME), Some(Answer::NoSuchName));
        assert_eq!(with(2), Some(Answer::Failed(2)));
    }

    #[test]
    fn a_name_that_points_to_itself_ends() {
        let asked = question(7, "shop.test", SRV).unwrap();
        let start = asked.len() + 12;
        let circle = [0xc0 | ((start + 6) >> 8) as u8, (start + 6) as u8];
        let data = [&[0, 1, 0, 5, 0, 80][..], &circle].concat();
        assert_eq!(answer(&reply(&asked, 0, SRV, &data), &asked), None);
    }

    proptest! {
        #[test]
        fn no_message_panics(tail in prop::collection::vec(any::<u8>(), 0..200), count in 0u16..9) {
            let asked = question(7, "shop.test", SRV).unwrap();
            let mut message = asked.clone();
            message[2] = 0x80;
            message[6..8].copy_from_slice(&count.to_be_bytes());
            message.extend(tail);
            answer(&message, &asked);
        }
    }
}
