//! The tables of the embedded store, and what is done in one transaction on them.

use bytes::Bytes;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::store::{Page, Put, StoreError, expiry, weight};
use crate::config::state::Namespace;

/// Namespace and key to the entry's end, in milliseconds since 1970, and its value.
type Entry<'a> = (u64, &'a [u8]);
const ENTRIES: TableDefinition<(&str, &str), Entry> = TableDefinition::new("entries");
/// End, namespace and key of all entries that have an end.
const ENDS: TableDefinition<(u64, &str, &str), ()> = TableDefinition::new("ends");
/// Bytes by namespace.
const SIZES: TableDefinition<&str, u64> = TableDefinition::new("sizes");

/// Entries that one transaction drops because their time is over.
const SWEPT_AT_ONCE: usize = 1000;

type Done<T> = Result<T, redb::Error>;

/// Makes the tables, so that readers always find them.
pub fn prepare(database: &Database) -> Done<()> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(ENDS)?;
    transaction.open_table(SIZES)?;
    transaction.commit()?;
    Ok(())
}

/// Reads of one moment.
pub struct Reading(ReadTransaction);

impl Reading {
    pub fn begin(database: &Database) -> Done<Self> {
        Ok(Self(database.begin_read()?))
    }

    pub fn get(&self, namespace: &str, key: &str, now: u64) -> Done<Option<Bytes>> {
        let entries = self.0.open_table(ENTRIES)?;
        let found = entries.get((namespace, key))?;
        let alive = found.filter(|entry| entry.value().0 > now);
        Ok(alive.map(|entry| Bytes::copy_from_slice(entry.value().1)))
    }

    pub fn list(&self, namespace: &str, page: &Page, now: u64) -> Done<Vec<String>> {
        let entries = self.0.open_table(ENTRIES)?;
        let after = page.after.as_deref().filter(|after| *after >= page.prefix.as_str());
        let mut keys = Vec::new();
        for entry in entries.range((namespace, after.unwrap_or(&page.prefix))..)? {
            let (key, value) = entry?;
            let (of, key) = key.value();
            if of != namespace || !key.starts_with(&page.prefix) || keys.len() >= page.limit {
                break;
            }
            if value.value().0 > now && after != Some(key) {
                keys.push(key.to_owned());
            }
        }
        Ok(keys)
    }

    /// Bytes by namespace.
    pub fn sizes(&self) -> Done<Vec<(String, u64)>> {
        let sizes = self.0.open_table(SIZES)?;
        let all = sizes.iter()?.map(|entry| {
            let (name, size) = entry?;
            Ok((name.value().to_owned(), size.value()))
        });
        all.collect()
    }
}

/// Writes that become durable together.
pub struct Writing(WriteTransaction);

impl Writing {
    pub fn begin(database: &Database) -> Done<Self> {
        Ok(Self(database.begin_write()?))
    }

    pub fn commit(self) -> Done<()> {
        Ok(self.0.commit()?)
    }

    /// The outer error is the disk's, the inner one the caller's.
    pub fn put(&self, of: &Namespace, put: &Put, now: u64) -> Done<Result<bool, StoreError>> {
        let name = of.name.as_str();
        let mut entries = self.0.open_table(ENTRIES)?;
        let before = entries.get((name, put.key.as_str()))?.map(|entry| {
            let (end, value) = entry.value();
            (end, weight(&put.key, value), put.when.allows((end > now).then_some(value)))
        });
        if !before.map_or_else(|| put.when.allows(None), |(.., allowed)| allowed) {
            return Ok(Ok(false));
        }
        let freed = before.map_or(0, |(_, bytes, _)| bytes);
        let size = self.size(name)?.saturating_sub(freed) + weight(&put.key, &put.value);
        if size > of.size {
            return Ok(Err(StoreError::Full { namespace: name.to_owned(), size: of.size }));
        }
        let end = expiry(of, put, now);
        entries.insert((name, put.key.as_str()), (end, &*put.value))?;
        let old = before.map_or(u64::MAX, |(end, ..)| end);
        self.change_end(name, &put.key, old, end)?;
        self.0.open_table(SIZES)?.insert(name, size)?;
        Ok(Ok(true))
    }

    pub fn delete(&self, name: &str, key: &str, now: u64) -> Done<bool> {
        let removed = self.0.open_table(ENTRIES)?.remove((name, key))?.map(|entry| {
            let (end, value) = entry.value();
            (end, weight(key, value))
        });
        let Some((end, bytes)) = removed else { return Ok(false) };
        self.change_end(name, key, end, u64::MAX)?;
        let size = self.size(name)?.saturating_sub(bytes);
        self.0.open_table(SIZES)?.insert(name, size)?;
        Ok(end > now)
    }

    /// Drops entries whose time is over; true when there may be more of them.
    pub fn sweep(&self, now: u64) -> Done<bool> {
        let due: Vec<(String, String)> = {
            let ends = self.0.open_table(ENDS)?;
            let due = ends.range(..=(now, "", ""))?.take(SWEPT_AT_ONCE).map(|entry| {
                let (key, _) = entry?;
                let (_, name, key) = key.value();
                Ok::<_, redb::Error>((name.to_owned(), key.to_owned()))
            });
            due.collect::<Result<_, _>>()?
        };
        for (name, key) in &due {
            self.delete(name, key, now)?;
        }
        Ok(due.len() == SWEPT_AT_ONCE)
    }

    fn size(&self, name: &str) -> Done<u64> {
        Ok(self.0.open_table(SIZES)?.get(name)?.map_or(0, |size| size.value()))
    }

    fn change_end(&self, name: &str, key: &str, from: u64, to: u64) -> Done<()> {
        if from == to {
            return Ok(());
        }
        let mut ends = self.0.open_table(ENDS)?;
        if from != u64::MAX {
            ends.remove((from, name, key))?;
        }
        if to != u64::MAX {
            ends.insert((to, name, key), ())?;
        }
        Ok(())
    }
}

/// Whether something is due, without a write.
pub fn is_due(database: &Database, now: u64) -> Done<bool> {
    let reading = database.begin_read()?;
    let ends = reading.open_table(ENDS)?;
    let first = ends.iter()?.next().transpose()?;
    Ok(first.is_some_and(|(key, _)| key.value().0 < now))
}
