//! Content codings: bodies are unpacked for the stages, and packed again.

use std::io::{self, Write};

use brotli::CompressorWriter;
use flate2::write::GzEncoder;

use super::Error;

/// Bytes that a decoder or encoder works on at a time.
const BUFFER: usize = 32 << 10;
/// Of brotli: fast enough to be done for each response.
const BROTLI_QUALITY: u32 = 4;
/// Of brotli, as a power of two: what decoders must hold.
const BROTLI_WINDOW: u32 = 19;
const ZSTD_LEVEL: i32 = 3;
/// Of zstd, as a power of two: what browsers are bound to accept (RFC 9659).
const ZSTD_WINDOW: u32 = 23;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Deflate, Self::Brotli, Self::Zstd];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// By its name in `Content-Encoding`.
    pub fn of(name: &str) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case("x-gzip") { "gzip" } else { name };
        Self::ALL.into_iter().find(|coding| coding.name().eq_ignore_ascii_case(name))
    }

    fn error(self, error: impl ToString) -> Error {
        Error::Coding { coding: self.name(), text: error.to_string() }
    }
}

/// Unpacks into `W`, in pieces of a bounded size.
pub enum Decoder<W: Write> {
    Plain(W),
    Gzip(flate2::write::MultiGzDecoder<W>),
    /// RFC 9110 means zlib's format.
    Deflate(flate2::write::ZlibDecoder<W>),
    Brotli(Box<brotli::DecompressorWriter<W>>),
    Zstd(zstd::stream::write::Decoder<'static, W>),
}

impl<W: Write> Decoder<W> {
    pub fn new(coding: Option<Coding>, to: W) -> Result<Self, Error> {
        Ok(match coding {
            None => Self::Plain(to),
            Some(Coding::Gzip) => Self::Gzip(flate2::write::MultiGzDecoder::new(to)),
            Some(Coding::Deflate) => Self::Deflate(flate2::write::ZlibDecoder::new(to)),
            Some(Coding::Brotli) => {
                Self::Brotli(Box::new(brotli::DecompressorWriter::new(to, BUFFER)))
            }
            Some(Coding::Zstd) => {
                let decoder = zstd::stream::write::Decoder::new(to);
                let mut decoder = decoder.map_err(|error| Coding::Zstd.error(error))?;
                let set = decoder.window_log_max(ZSTD_WINDOW);
                set.map_err(|error| Coding::Zstd.error(error))?;
                Self::Zstd(decoder)
            }
        })
    }

    fn coding(&self) -> Option<Coding> {
        match self {
            Self::Plain(_) => None,
            Self::Gzip(_) => Some(Coding::Gzip),
            Self::Deflate(_) => Some(Coding::Deflate),
            Self::Brotli(_) => Some(Coding::Brotli),
            Self::Zstd(_) => Some(Coding::Zstd),
        }
    }

    /// Unpacks a piece. What is ready must be there at once, so nothing stays in a buffer.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        let written = match self {
            Self::Plain(to) => to.write_all(piece),
            Self::Gzip(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
            Self::Deflate(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
            Self::Brotli(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
            Self::Zstd(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
        };
        written.map_err(|error| self.error(error))
    }

    /// The end must be the end of the packed stream too.
    pub fn end(&mut self) -> Result<(), Error> {
        let ended = match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Deflate(decoder) => decoder.try_finish(),
            Self::Brotli(decoder) => decoder.close(),
            Self::Zstd(decoder) => decoder.do_finish(),
        };
        ended.map_err(|error| self.error(error))
    }

    pub fn get_mut(&mut self) -> &mut W {
        match self {
            Self::Plain(to) => to,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }

    /// An error of what follows travels through the decoder inside of an I/O error.
    fn error(&self, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => match self.coding() {
                Some(coding) => coding.error(error),
                // Nothing but `to` can have failed, by an error of ours.
                None => Error::Callback(error.into()),
            },
        }
    }
}

/// Packs into a buffer that is taken piece by piece.
pub enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// None for deflate, which nobody needs who accepts it.
    pub fn new(coding: Coding) -> Result<Option<Self>, Error> {
        let to = Vec::new();
        Ok(Some(match coding {
            Coding::Deflate => return Ok(None),
            Coding::Gzip => Self::Gzip(GzEncoder::new(to, flate2::Compression::default())),
            Coding::Brotli => {
                let (quality, window) = (BROTLI_QUALITY, BROTLI_WINDOW);
                Self::Brotli(Box::new(CompressorWriter::new(to, BUFFER, quality, window)))
            }
            Coding::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL);
                Self::Zstd(encoder.map_err(|error| Coding::Zstd.error(error))?)
            }
        }))
    }

    /// Packs what came, so that the client can unpack all of it at once.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (coding, written) = match self {
            Self::Gzip(to) => (Coding::Gzip, to.write_all(piece).and_then(|()| to.flush())),
            Self::Brotli(to) => (Coding::Brotli, to.write_all(piece).and_then(|()| to.flush())),
            Self::Zstd(to) => (Coding::Zstd, to.write_all(piece).and_then(|()| to.flush())),
        };
        written.map_err(|error| coding.error(error))?;
        out.append(match self {
            Self::Gzip(to) => to.get_mut(),
            Self::Brotli(to) => to.get_mut(),
            Self::Zstd(to) => to.get_mut(),
        });
        Ok(())
    }

    /// The end of the packed stream, without which a strict client takes it for cut.
    pub fn end(self, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut rest = match self {
            Self::Gzip(to) => to.finish().map_err(|error| Coding::Gzip.error(error))?,
            Self::Brotli(to) => to.into_inner(),
            Self::Zstd(to) => to.finish().map_err(|error| Coding::Zstd.error(error))?,
        };
        out.append(&mut rest);
        Ok(())
    }
}
