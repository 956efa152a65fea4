//! A callback on each line.

use memchr::memchr;

use super::{CallbackError, Error, Stage, Verdict};

/// Bytes of a line.
const LINE: usize = 1 << 20;

/// Is shown a line without its end.
pub type OnLine = Box<dyn FnMut(&str) -> Result<Verdict<String>, CallbackError> + Send>;

pub struct Lines {
    callback: OnLine,
    /// A line that has not ended.
    held: Vec<u8>,
}

impl Lines {
    pub fn new(callback: OnLine) -> Self {
        Self { callback, held: Vec::new() }
    }

    /// A line that is dropped takes its end with it.
    fn show(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let shown = String::from_utf8_lossy(text);
        match (self.callback)(&shown).map_err(Error::Callback)? {
            Verdict::Keep => out.extend_from_slice(line),
            Verdict::Replace(new) => {
                out.extend_from_slice(new.as_bytes());
                out.extend_from_slice(&line[text.len()..]);
            }
            Verdict::Drop => {}
        }
        Ok(())
    }
}

impl Stage for Lines {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut rest = piece;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            if self.held.is_empty() && line.len() <= LINE {
                self.show(line, out)?;
                continue;
            }
            let mut whole = std::mem::take(&mut self.held);
            whole.extend_from_slice(line);
            bounded(&whole)?;
            self.show(&whole, out)?;
        }
        self.held.extend_from_slice(rest);
        bounded(&self.held)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        match std::mem::take(&mut self.held) {
            line if line.is_empty() => Ok(()),
            line => self.show(&line, out),
        }
    }
}

fn bounded(line: &[u8]) -> Result<(), Error> {
    if line.len() <= LINE { Ok(()) } else { Err(Error::TooLong { what: "a line", most: LINE }) }
}
