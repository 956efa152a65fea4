//! Bytes before and after a body.

use super::{Error, Stage};

/// Goes out with the first piece, or alone before the end.
pub struct Prepend(Option<Vec<u8>>);

impl Prepend {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Some(bytes))
    }
}

impl Stage for Prepend {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend(self.0.take().into_iter().flatten());
        out.extend_from_slice(piece);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend(self.0.take().into_iter().flatten());
        Ok(())
    }
}

pub struct Append(pub Vec<u8>);

impl Stage for Append {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(piece);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        out.append(&mut self.0);
        Ok(())
    }
}
