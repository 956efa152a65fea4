//! Purges, on disk before they are acknowledged.
//!
//! A file of records, each with a checksum. Purges that come together are synced together. Where
//! the journal cannot be trusted, what lies beside it cannot either: purged objects may be among
//! it. So a purge that cannot be written takes the journal away, and a start without one begins
//! with an empty tier.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::faults::Faults;
use crate::cache::store::rules::{Dated, Rules};
use crate::cache::store::wire::{Reader, Writer};

const NAME: &str = "journal";
const NEW_NAME: &str = "journal.new";
const START: u8 = 0;
const RULE: u8 = 1;
/// Bytes of one record: the longest prefix, and some.
const MAX_RECORD: usize = 16 << 10;
/// Bytes from which a journal is written anew, if its rules have become fewer.
const WORTHWHILE: u64 = 1 << 20;

/// What a journal told at the start.
#[derive(Default)]
pub struct Replay {
    /// How often the directory was opened before.
    pub starts: u64,
    pub rules: Vec<Dated>,
    /// Every purge that was acknowledged is in `rules`.
    pub trusted: bool,
}

#[derive(Default)]
struct Batch {
    rules: Vec<Dated>,
    /// Rules that ever were in a batch.
    pushed: u64,
}

struct Open {
    /// `None` while the journal is taken away.
    file: Option<File>,
    len: u64,
    /// Rules that are through, of all that were pushed.
    through: u64,
}

pub struct Journal {
    dir: PathBuf,
    starts: u64,
    batch: Mutex<Batch>,
    open: Mutex<Open>,
}

impl Journal {
    /// Reads what is there; nothing is changed.
    pub fn replay(dir: &Path) -> Replay {
        std::fs::read(dir.join(NAME)).map_or_else(|_| Replay::default(), |bytes| parse(&bytes))
    }

    /// A new journal with the rules at work.
    pub fn create(dir: &Path, starts: u64, rules: &[Dated]) -> Result<Journal> {
        let (file, len) = write_new(dir, starts, rules)?;
        let open = Mutex::new(Open { file: Some(file), len, through: 0 });
        Ok(Journal { dir: dir.to_owned(), starts, batch: Mutex::default(), open })
    }

    /// Writes a rule that works already, and syncs it. Blocks.
    ///
    /// After an error a restart may bring back what was purged.
    pub fn commit(&self, dated: Dated, rules: &Rules, faults: &Faults) -> Result<()> {
        let ticket = {
            let mut batch = self.batch.lock();
            batch.rules.push(dated);
            batch.pushed += 1;
            batch.pushed
        };
        let mut open = self.open.lock();
        if open.through >= ticket {
            return if open.file.is_some() { Ok(()) } else { self.take_away() };
        }
        let (added, pushed) = {
            let mut batch = self.batch.lock();
            (std::mem::take(&mut batch.rules), batch.pushed)
        };
        let written = self.write(&mut open, &added, rules, faults);
        open.through = pushed;
        written.or_else(|error| {
            log::error!("cache: a purge cannot be written to {}: {error}", self.dir.display());
            open.file = None;
            self.take_away()
        })
    }

    fn write(
        &self,
        open: &mut Open,
        added: &[Dated],
        rules: &Rules,
        faults: &Faults,
    ) -> Result<()> {
        faults.check()?;
        let Some(file) = &mut open.file else {
            // It was taken away: begin anew, with everything that works.
            let (file, len) = write_new(&self.dir, self.starts, &rules.all())?;
            (open.file, open.len) = (Some(file), len);
            return Ok(());
        };
        let mut out = Vec::new();
        for dated in added {
            out.extend_from_slice(&record(|payload| {
                payload.u8(RULE);
                dated.write(payload)
            })?);
        }
        file.write_all(&out)?;
        file.sync_data()?;
        open.len += out.len() as u64;
        Ok(())
    }

    /// Without a journal the next start trusts nothing, and so serves nothing that was purged.
    fn take_away(&self) -> Result<()> {
        match std::fs::remove_file(self.dir.join(NAME)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(&self.dir),
        }
    }

    /// Writes the journal anew if most of its rules are gone.
    pub fn shrink(&self, rules: &Rules) {
        let mut open = self.open.lock();
        if open.file.is_none() || open.len < WORTHWHILE {
            return;
        }
        match write_new(&self.dir, self.starts, &rules.all()) {
            Ok((file, len)) => (open.file, open.len) = (Some(file), len),
            // The longer one is as good.
            Err(error) => log::warn!("cache: the journal of purges stays long: {error}"),
        }
    }
}

fn record(write: impl FnOnce(&mut Writer) -> Option<()>) -> Result<Vec<u8>> {
    let mut payload = Writer::default();
    let fits = write(&mut payload).filter(|()| payload.0.len() <= MAX_RECORD);
    fits.ok_or_else(|| std::io::Error::other("a record that is too long"))?;
    let mut out = Writer::default();
    let len = payload.0.len() as u32;
    out.u32(len);
    // Twice: a damaged length must not look like a record that was cut short.
    out.u32(!len);
    out.u64(xxh3_64(&payload.0));
    out.0.extend_from_slice(&payload.0);
    Ok(out.0)
}

fn write_new(dir: &Path, starts: u64, rules: &[Dated]) -> Result<(File, u64)> {
    let mut out = record(|payload| {
        payload.u8(START);
        payload.u64(starts);
        Some(())
    })?;
    for dated in rules {
        out.extend_from_slice(&record(|payload| {
            payload.u8(RULE);
            dated.write(payload)
        })?);
    }
    let path = dir.join(NEW_NAME);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
    file.write_all(&out)?;
    file.sync_all()?;
    std::fs::rename(&path, dir.join(NAME))?;
    sync_dir(dir)?;
    Ok((file, out.len() as u64))
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)?.sync_all()
}

fn parse(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let mut from = Reader(bytes);
    let mut started = false;
    while !from.0.is_empty() {
        // Where the file ends within a record, that was never acknowledged.
        let Some((len, again)) = from.u32().zip(from.u32()) else { break };
        if len != !again {
            return Replay { trusted: false, ..replay };
        }
        let Some(sum) = from.u64() else { break };
        let Some(payload) = from.take(len as usize) else { break };
        if xxh3_64(payload) != sum {
            // The last one may be torn. Before others, it is a purge that we do not know.
            return Replay { trusted: started && from.0.is_empty(), ..replay };
        }
        let mut payload = Reader(payload);
        let read = match payload.u8() {
            Some(START) => payload.u64().map(|starts| {
                replay.starts = replay.starts.max(starts);
                started = true;
            }),
            Some(RULE) => Dated::read(&mut payload).map(|dated| replay.rules.push(dated)),
            _ => None,
        };
        if read.is_none() {
            return Replay { trusted: false, ..replay };
        }
    }
    Replay { trusted: started, ..replay }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::store::rules::{Rule, Scope};

    fn rule(n: u64) -> Dated {
        let scope = if n.is_multiple_of(2) {
            Scope::Tag(n.to_string())
        } else {
            Scope::Prefix(n.to_string())
        };
        Dated::new(&Rule { scope, soft: n.is_multiple_of(3) }, n, std::time::SystemTime::now())
    }

    fn sorted(mut rules: Vec<Dated>) -> Vec<Dated> {
        rules.sort_by_key(|dated| dated.seq);
        rules
    }

    #[test]
    fn what_was_committed_is_read_again_wherever_the_file_ends() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), 4, &[rule(1), rule(2)]).unwrap();
        let rules = Rules::default();
        let mut ends = vec![journal.open.lock().len];
        for n in 3..9 {
            rules.resume(&rule(n));
            journal.commit(rule(n), &rules, &Faults::default()).unwrap();
            ends.push(journal.open.lock().len);
        }
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        for end in ends[0] as usize..=bytes.len() {
            let replay = parse(&bytes[..end]);
            let whole = ends.iter().filter(|whole| **whole <= end as u64).count();
            assert!(replay.trusted, "cut at {end}");
            assert_eq!((replay.starts, replay.rules.len()), (4, whole + 1), "cut at {end}");
        }
        let targets = |rules| sorted(rules).into_iter().map(|dated| dated.target);
        let expected: Vec<_> = targets((3..9).map(rule).collect()).collect();
        assert_eq!(targets(rules.all()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_changed_byte_anywhere_but_in_the_last_record_loses_trust() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), 1, &[rule(1)]).unwrap();
        let before = journal.open.lock().len as usize;
        journal.commit(rule(2), &Rules::default(), &Faults::default()).unwrap();
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        for at in 0..before {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            let replay = parse(&changed);
            let all = replay.rules.len() == 2 && replay.starts == 1;
            assert!(!replay.trusted || all, "byte {at}");
        }
        assert!(!parse(b"").trusted);
    }

    #[test]
    fn many_at_once_are_all_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), 1, &[]).unwrap();
        let rules = Rules::default();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (journal, rules) = (&journal, &rules);
                scope.spawn(move || {
                    for n in 0..20 {
                        let seq = 1 + thread * 20 + n;
                        journal.commit(rule(seq), rules, &Faults::default()).unwrap();
                        let written = Journal::replay(&journal.dir).rules;
                        assert!(written.iter().any(|dated| dated.seq == seq), "{seq} is written");
                    }
                });
            }
        });
        let replay = Journal::replay(dir.path());
        assert_eq!(replay.rules.len(), 160);
    }

    #[test]
    fn a_purge_that_cannot_be_written_takes_the_trust_until_one_can() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), 1, &[rule(1)]).unwrap();
        let (rules, faults) = (Rules::default(), Faults::default());
        (1..=3).for_each(|n| rules.resume(&rule(n)));
        faults.fail_with(Some(libc::ENOSPC));
        journal.commit(rule(2), &rules, &faults).unwrap();
        assert!(!Journal::replay(dir.path()).trusted);
        faults.fail_with(None);
        journal.commit(rule(3), &rules, &faults).unwrap();
        let replay = Journal::replay(dir.path());
        assert!(replay.trusted);
        assert_eq!(sorted(replay.rules).len(), 3);
    }
}
