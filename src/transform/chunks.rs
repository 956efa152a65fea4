//! A callback on each piece as it comes: the only stage whose pieces are those of the network.

use super::{CallbackError, Error, Stage, Verdict};

/// Is given a piece, and whether it is the last (which may be empty).
pub type OnChunk = Box<dyn FnMut(&[u8], bool) -> Result<Verdict<Vec<u8>>, CallbackError> + Send>;

pub struct Chunks(pub OnChunk);

impl Chunks {
    fn show(&mut self, piece: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        match (self.0)(piece, last).map_err(Error::Callback)? {
            Verdict::Keep => out.extend_from_slice(piece),
            Verdict::Replace(new) => out.extend(new),
            Verdict::Drop => {}
        }
        Ok(())
    }
}

impl Stage for Chunks {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.show(piece, false, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.show(&[], true, out)
    }
}
