//! One body's whole way: unpacked, through the stages, packed again.

use std::io::{self, Write};

use super::coding::{Decoder, Encoder};
use super::{Coding, Error, Pipeline, Stage};

/// Bytes that may come of one piece. What unpacks to more is a bomb.
const FROM_ONE_PIECE: usize = 32 << 20;
/// Bytes that the stages get at a time: what they hold between them is of this order.
const AT_A_TIME: usize = 64 << 10;

pub struct Body {
    decoder: Decoder<Rest>,
    begun: bool,
}

/// What follows the decoder.
struct Rest {
    stages: Pipeline,
    encoder: Option<Encoder>,
    /// Between the stages and the encoder.
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl Body {
    /// A body in the coding `from`, to be sent in the coding `to`.
    pub fn new(stages: Pipeline, from: Option<Coding>, to: Option<Coding>) -> Result<Self, Error> {
        let encoder = to.map(Encoder::new).transpose()?.flatten();
        let rest = Rest { stages, encoder, plain: Vec::new(), out: Vec::new() };
        Ok(Self { decoder: Decoder::new(from, rest)?, begun: false })
    }

    /// Takes a piece, and the end when it is the last; gives what can be sent.
    pub fn take(&mut self, piece: &[u8], last: bool) -> Result<Vec<u8>, Error> {
        if !piece.is_empty() {
            self.begun = true;
            self.decoder.push(piece)?;
        }
        if last {
            // An empty body is no packed stream.
            if self.begun {
                self.decoder.end()?;
            }
            self.decoder.get_mut().end()?;
        }
        Ok(std::mem::take(&mut self.decoder.get_mut().out))
    }
}

impl Rest {
    fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        for piece in piece.chunks(AT_A_TIME) {
            self.stages.push(piece, &mut self.plain)?;
            self.pack()?;
        }
        Ok(())
    }

    fn pack(&mut self) -> Result<(), Error> {
        match &mut self.encoder {
            Some(encoder) if !self.plain.is_empty() => encoder.push(&self.plain, &mut self.out)?,
            Some(_) => {}
            None => self.out.append(&mut self.plain),
        }
        self.plain.clear();
        if self.out.len() > FROM_ONE_PIECE {
            return Err(Error::TooLong { what: "a piece that becomes", most: FROM_ONE_PIECE });
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        self.stages.end(&mut self.plain)?;
        self.pack()?;
        self.encoder.take().map_or(Ok(()), |encoder| encoder.end(&mut self.out))
    }
}

impl Write for Rest {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.push(piece).map_err(io::Error::other)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
