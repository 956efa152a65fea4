//! A fill that is too large for memory, on its way into a file.

use std::fs::{File, OpenOptions};
use std::io::Result;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use parking_lot::Mutex;

use super::file::{Layout, SUM, read_now};
use super::{Complete, Disk};
use crate::cache::store::head::Head;
use crate::cache::store::{CHUNK, Store};

pub struct Spill {
    file: File,
    path: PathBuf,
    layout: Layout,
    sums: Mutex<Vec<u8>>,
}

impl Spill {
    /// Blocks, as all of this does but `read_now`.
    pub fn create(disk: &Disk, key: u128, head: &Head) -> Result<Spill> {
        disk.faults.check()?;
        let path = disk.temporary();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let layout = Layout::new(key, 0, head);
        Ok(Spill { file, path, layout, sums: Mutex::default() })
    }

    /// Adds the next piece of the body at `at`.
    pub fn write(&self, disk: &Disk, at: u64, piece: &[u8]) -> Result<()> {
        disk.faults.check()?;
        self.file.write_all_at(piece, self.layout.body_at() + at)?;
        // By its place: a write that was given up comes again.
        let number = at as usize / CHUNK;
        let mut sums = self.sums.lock();
        sums.truncate(number * SUM);
        sums.extend_from_slice(&self.layout.sum(number as u64, piece));
        Ok(())
    }

    pub fn read(&self, at: u64, count: usize) -> Result<Bytes> {
        let mut data = vec![0; count];
        self.file.read_exact_at(&mut data, self.layout.body_at() + at)?;
        Ok(data.into())
    }

    /// If the kernel has it in memory.
    pub fn read_now(&self, at: u64, count: usize) -> Result<Option<Bytes>> {
        let mut data = vec![0; count];
        let there = read_now(&self.file, &mut data, self.layout.body_at() + at)?;
        Ok(there.then(|| data.into()))
    }

    /// Makes it an object of the disk tier, `len` bytes long.
    pub fn publish(&self, store: &Store, disk: &Disk, head: &Head, len: u64) -> Result<bool> {
        disk.faults.check()?;
        let mut layout = self.layout;
        layout.len = len;
        self.file.write_all_at(&self.sums.lock(), layout.body_at() + len)?;
        self.file.write_all_at(&layout.front(head)?, 0)?;
        disk.publish(store, &Complete { temporary: &self.path, layout, head }, || true)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // It is not there any more if it was published.
        let _ = std::fs::remove_file(&self.path);
    }
}
