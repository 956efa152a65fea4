//! The file of one object.
//!
//! ```text
//! fixed head | head slot A | head slot B | body | a checksum for each piece of the body
//! ```
//!
//! A new head goes into the slot that does not hold the current one, so no crash leaves a torn
//! head. The body never changes. Checksums are seeded with key and position: a piece of another
//! object is no piece of this one.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, IoSliceMut, Result};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::cache::store::CHUNK;
use crate::cache::store::head::{Head, MAX_HEAD};
use crate::cache::store::wire::{Reader, Writer};

/// The last byte is the version of the format.
const MAGIC: [u8; 8] = *b"slvdgob1";
const FIXED: usize = 64;
/// A slot's length and checksum.
const SLOT_HEAD: usize = 12;
/// What is read at once when a file is opened: most heads.
const FIRST_READ: usize = 4096;
/// Bytes of a checksum.
pub const SUM: usize = 8;

/// Where things are in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub key: u128,
    /// Bytes of the body.
    pub len: u64,
    /// Bytes of a head slot.
    slot: usize,
}

impl Layout {
    /// With room for a head that is half as long again.
    pub fn new(key: u128, len: u64, head: &Head) -> Layout {
        let needed = head.encoded().len() + SLOT_HEAD;
        let slot = (needed + needed / 2).next_multiple_of(256);
        Layout { key, len, slot }
    }

    pub fn body_at(&self) -> u64 {
        (FIXED + 2 * self.slot) as u64
    }

    pub fn pieces(&self) -> u64 {
        self.len.div_ceil(CHUNK as u64)
    }

    pub fn total(&self) -> u64 {
        self.body_at() + self.len + self.pieces() * SUM as u64
    }

    /// Everything before the body.
    pub fn front(&self, head: &Head) -> Result<Vec<u8>> {
        let mut out = Writer::default();
        out.0.extend_from_slice(&MAGIC);
        out.0.extend_from_slice(&self.key.to_be_bytes());
        out.u64(self.len);
        out.u32(self.slot as u32);
        out.0.resize(FIXED - SUM, 0);
        out.u64(xxh3_64(&out.0));
        out.0.extend_from_slice(&self.slot(head)?);
        out.0.resize(FIXED + 2 * self.slot, 0);
        Ok(out.0)
    }

    /// The checksum of a piece of the body.
    pub fn sum(&self, piece: u64, data: &[u8]) -> [u8; SUM] {
        xxh3_64_with_seed(data, self.key as u64 ^ piece).to_le_bytes()
    }

    fn read(bytes: &[u8], key: u128) -> Option<Layout> {
        let sum = xxh3_64(bytes.get(..FIXED - SUM)?);
        let mut from = Reader(bytes);
        (from.array::<8>()? == MAGIC).then_some(())?;
        (u128::from_be_bytes(from.array()?) == key).then_some(())?;
        let (len, slot) = (from.u64()?, from.u32()? as usize);
        from.take(FIXED - SUM - 36)?;
        (from.u64()? == sum && slot <= 2 * MAX_HEAD).then_some(Layout { key, len, slot })
    }

    fn slot(&self, head: &Head) -> Result<Vec<u8>> {
        let encoded = head.encoded();
        if encoded.len() + SLOT_HEAD > self.slot {
            return Err(Error::new(ErrorKind::FileTooLarge, "no room for the new head"));
        }
        let mut out = Writer::default();
        out.u32(encoded.len() as u32);
        out.u64(xxh3_64(encoded));
        out.0.extend_from_slice(encoded);
        Ok(out.0)
    }
}

fn read_slot(bytes: &[u8]) -> Option<Head> {
    let mut from = Reader(bytes);
    let (len, sum) = (from.u32()?, from.u64()?);
    let encoded = from.take(len as usize)?;
    (xxh3_64(encoded) == sum).then(|| Head::decode(encoded))?
}

/// An open file of an object.
pub struct Stored {
    file: File,
    pub layout: Layout,
    /// Whether the current head is in the first slot.
    first: bool,
}

/// What is no file of ours, or not any more.
fn broken() -> Error {
    Error::new(ErrorKind::InvalidData, "a broken file")
}

impl Stored {
    /// Opens and checks all but the body.
    pub fn open(path: &Path, key: u128) -> Result<(Stored, Head)> {
        let file = OpenOptions::new().read(true).open(path)?;
        let mut front = vec![0; FIRST_READ];
        let read = file.read_at(&mut front, 0)?;
        front.truncate(read);
        let layout = Layout::read(&front, key).ok_or_else(broken)?;
        let body_at = layout.body_at() as usize;
        if front.len() < body_at {
            front.resize(body_at, 0);
            file.read_exact_at(&mut front, 0)?;
        }
        if file.metadata()?.len() != layout.total() {
            return Err(broken());
        }
        let slots = &front[FIXED..body_at];
        let (a, b) = (read_slot(&slots[..layout.slot]), read_slot(&slots[layout.slot..]));
        let seq = |head: &Option<Head>| head.as_ref().map(|head| head.seq);
        let first = seq(&a) >= seq(&b);
        let head = if first { a } else { b }.ok_or_else(broken)?;
        Ok((Stored { file, layout, first }, head))
    }

    /// The whole body, checked.
    pub fn body(&self) -> Result<Bytes> {
        let len = usize::try_from(self.layout.len).map_err(Error::other)?;
        let mut body = vec![0; len];
        self.file.read_exact_at(&mut body, self.layout.body_at())?;
        let mut sums = vec![0; self.layout.pieces() as usize * SUM];
        self.file.read_exact_at(&mut sums, self.layout.body_at() + self.layout.len)?;
        for (piece, (data, sum)) in body.chunks(CHUNK).zip(sums.chunks(SUM)).enumerate() {
            if self.layout.sum(piece as u64, data) != *sum {
                return Err(broken());
            }
        }
        Ok(body.into())
    }

    /// A piece of the body, checked. Blocks.
    pub fn piece(&self, piece: u64) -> Result<Bytes> {
        let mut data = self.room(piece);
        let mut sum = [0; SUM];
        self.file.read_exact_at(&mut data, self.layout.body_at() + piece * CHUNK as u64)?;
        self.file.read_exact_at(&mut sum, self.sum_at(piece))?;
        self.checked(piece, data, sum)
    }

    /// The same, if the kernel has it in memory.
    pub fn piece_now(&self, piece: u64) -> Result<Option<Bytes>> {
        let mut data = self.room(piece);
        let mut sum = [0; SUM];
        let body = self.layout.body_at() + piece * CHUNK as u64;
        if !read_now(&self.file, &mut data, body)?
            || !read_now(&self.file, &mut sum, self.sum_at(piece))?
        {
            return Ok(None);
        }
        self.checked(piece, data, sum).map(Some)
    }

    fn room(&self, piece: u64) -> Vec<u8> {
        let left = self.layout.len.saturating_sub(piece * CHUNK as u64);
        vec![0; left.min(CHUNK as u64) as usize]
    }

    fn sum_at(&self, piece: u64) -> u64 {
        self.layout.body_at() + self.layout.len + piece * SUM as u64
    }

    fn checked(&self, piece: u64, data: Vec<u8>, sum: [u8; SUM]) -> Result<Bytes> {
        if self.layout.sum(piece, &data) != sum {
            return Err(broken());
        }
        Ok(data.into())
    }

    /// Puts a new head into the other slot.
    pub fn renew(&self, path: &Path, head: &Head) -> Result<()> {
        let slot = self.layout.slot(head)?;
        let at = FIXED + if self.first { self.layout.slot } else { 0 };
        OpenOptions::new().write(true).open(path)?.write_all_at(&slot, at as u64)
    }
}

/// Fills `data` without waiting for a disk; says whether it could.
pub fn read_now(file: &File, data: &mut [u8], at: u64) -> Result<bool> {
    let wanted = data.len();
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(data)], at, ReadWriteFlags::NOWAIT);
    match read {
        Ok(read) => Ok(read == wanted),
        // Not in memory, or a file system that cannot tell.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
