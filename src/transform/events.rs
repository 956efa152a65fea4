//! A callback on each server-sent event (HTML standard, 9.2).

use super::{CallbackError, Error, Stage, Verdict};

/// Bytes of an event.
const EVENT: usize = 1 << 20;

/// Is shown an event, and gives it back edited.
pub type OnEvent = Box<dyn FnMut(&Event) -> Result<Verdict<Event>, CallbackError> + Send>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    pub event: Option<String>,
    /// Its lines, joined.
    pub data: Option<String>,
    pub id: Option<String>,
    pub retry: Option<String>,
}

impl Event {
    /// None for what has no field, such as a comment that keeps a connection alive.
    fn parse(block: &str) -> Option<Self> {
        let mut event = Self::default();
        let block = block.strip_prefix('\u{feff}').unwrap_or(block);
        // A lone carriage return ends a line, too.
        let block = block.replace("\r\n", "\n").replace('\r', "\n");
        for line in block.split('\n').filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match name {
                "event" => event.event = Some(value),
                "id" => event.id = Some(value),
                "retry" => event.retry = Some(value),
                "data" => match &mut event.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                    None => event.data = Some(value),
                },
                _ => {}
            }
        }
        (event != Self::default()).then_some(event)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let fields = [("event", &self.event), ("id", &self.id), ("retry", &self.retry)];
        let mut line = |name: &str, value: &str| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            // Of these only data may have several lines.
            out.extend(value.bytes().filter(|byte| !b"\r\n".contains(byte)));
            out.push(b'\n');
        };
        for (name, value) in fields {
            value.iter().for_each(|value| line(name, value));
        }
        if let Some(data) = &self.data {
            data.split('\n').for_each(|part| line("data", part));
        }
        out.push(b'\n');
    }
}

pub struct Events {
    callback: OnEvent,
    /// An event that has not ended.
    held: Vec<u8>,
    /// Whether the line that goes on in `held` is still empty.
    line_empty: bool,
    after_cr: bool,
}

impl Events {
    pub fn new(callback: OnEvent) -> Self {
        Self { callback, held: Vec::new(), line_empty: true, after_cr: false }
    }

    fn show(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let block = std::mem::take(&mut self.held);
        let Some(event) = Event::parse(&String::from_utf8_lossy(&block)) else {
            out.extend_from_slice(&block);
            return Ok(());
        };
        match (self.callback)(&event).map_err(Error::Callback)? {
            Verdict::Keep => out.extend_from_slice(&block),
            Verdict::Replace(new) => new.write(out),
            Verdict::Drop => {}
        }
        Ok(())
    }
}

impl Stage for Events {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        for byte in piece {
            let second_half =
                std::mem::replace(&mut self.after_cr, *byte == b'\r') && *byte == b'\n';
            if second_half && self.held.is_empty() {
                // Of the empty line that ended the event before.
                out.push(*byte);
                continue;
            }
            self.held.push(*byte);
            if second_half {
                continue;
            }
            if !matches!(byte, b'\r' | b'\n') {
                self.line_empty = false;
            } else if std::mem::replace(&mut self.line_empty, true) {
                self.show(out)?;
            }
        }
        if self.held.len() > EVENT {
            return Err(Error::TooLong { what: "an event", most: EVENT });
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.held.is_empty() { Ok(()) } else { self.show(out) }
    }
}
