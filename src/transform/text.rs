//! Plain text replaced everywhere, across the edges of pieces too.

use memchr::memmem::Finder;

use super::{Error, Stage};

pub struct ReplaceText {
    from: Finder<'static>,
    to: Vec<u8>,
    /// The end of what came, as far as a match could begin there.
    held: Vec<u8>,
}

impl ReplaceText {
    /// Bytes of the text that is looked for: so much is held back at most.
    pub const MOST: usize = 4 << 10;

    /// None for a text that is empty or longer than [`ReplaceText::MOST`].
    pub fn new(from: &[u8], to: Vec<u8>) -> Option<Self> {
        let fits = !from.is_empty() && from.len() <= Self::MOST;
        fits.then(|| Self { from: Finder::new(from).into_owned(), to, held: Vec::new() })
    }
}

impl Stage for ReplaceText {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut joined = std::mem::take(&mut self.held);
        let text = if joined.is_empty() {
            piece
        } else {
            joined.extend_from_slice(piece);
            &joined
        };
        let (needle, mut at) = (self.from.needle(), 0);
        while let Some(found) = self.from.find(&text[at..]) {
            out.extend_from_slice(&text[at..at + found]);
            out.extend_from_slice(&self.to);
            at += found + needle.len();
        }
        let rest = &text[at..];
        let most = rest.len().min(needle.len() - 1);
        let begun = (1..=most).rev().find(|length| rest.ends_with(&needle[..*length]));
        let (sure, begun) = rest.split_at(rest.len() - begun.unwrap_or(0));
        out.extend_from_slice(sure);
        self.held = begun.to_vec();
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        out.append(&mut self.held);
        Ok(())
    }
}
