//! The dicts and ipsets of a configuration: read at a load, and again when their file changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::dict::Dict;
use super::geo::{Geo, Place};
use super::ipset::IpSet;
use crate::config::read::At;
use crate::config::state::State;

/// Bytes of one file.
const MOST_BYTES: u64 = 512 << 20;
/// Entries of one list.
pub(super) const MOST_ENTRIES: usize = 10_000_000;

/// What is wrong in a list's text; lines and columns from 1, 0 for the whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl Bad {
    pub(super) fn at(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self { line, column, message: message.into() }
    }

    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self::at(0, 0, message)
    }
}

/// A list that cannot be used, and where the configuration names it.
#[derive(Debug)]
pub struct ListError {
    pub file: At<PathBuf>,
    pub bad: Bad,
}

/// By name. What scripts hold is the outer pointer; a changed file becomes a new inner one.
#[derive(Default)]
pub struct Lists {
    pub dicts: BTreeMap<String, Arc<Live<Dict>>>,
    pub ipsets: BTreeMap<String, Arc<Live<IpSet>>>,
    /// Of the files that know where addresses are, the first counts most.
    pub geo: Vec<Arc<Live<Geo>>>,
}

/// A list, as its file was when it was last read.
pub struct Live<T> {
    current: ArcSwap<T>,
    source: Source,
    stamps: Mutex<Stamps>,
}

/// The file as it was when it was looked at. The two differ while it cannot be used.
#[derive(Debug, Clone, Copy)]
struct Stamps {
    used: Option<Stamp>,
    seen: Option<Stamp>,
}

/// Where a list comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    file: Option<PathBuf>,
    networks: Vec<IpNet>,
}

/// A file that is written or replaced gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// What a source becomes.
pub trait List: Sized {
    fn read(source: &Source) -> Result<Self, Bad>;
}

impl List for Dict {
    fn read(source: &Source) -> Result<Self, Bad> {
        let Some(file) = &source.file else { return Ok(Self::default()) };
        let text = text_of(file)?;
        if is_json(file) { Self::from_json(&text) } else { Self::from_csv(&text) }
    }
}

impl List for IpSet {
    fn read(source: &Source) -> Result<Self, Bad> {
        let mut networks = source.networks.clone();
        if let Some(file) = &source.file {
            let text = text_of(file)?;
            networks.extend(match is_json(file) {
                true => Self::parse_json(&text)?,
                false => Self::parse_lines(&text)?,
            });
        }
        Ok(Self::new(&networks))
    }
}

impl List for Geo {
    fn read(source: &Source) -> Result<Self, Bad> {
        let Some(file) = &source.file else { return Err(Bad::whole("there is no file")) };
        match Self::is_max_mind(file) {
            true => Self::from_max_mind(bytes_of(file)?),
            false => Self::from_csv(&text_of(file)?),
        }
    }
}

fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "json")
}

fn text_of(file: &Path) -> Result<String, Bad> {
    String::from_utf8(bytes_of(file)?).map_err(|_| Bad::whole("not a text in UTF-8"))
}

fn bytes_of(file: &Path) -> Result<Vec<u8>, Bad> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| Bad::whole(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Bad::whole(format!("larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(bytes)
}

fn stamp_of(file: &Path) -> Option<Stamp> {
    let data = file.metadata().ok()?;
    let changed = (data.mtime(), data.mtime_nsec());
    Some(Stamp { inode: data.ino(), bytes: data.len(), changed })
}

impl<T: List> Live<T> {
    fn load(source: Source) -> Result<Self, Bad> {
        // Before the content: what is written in between is seen as a change.
        let stamp = source.file.as_deref().and_then(stamp_of);
        let list = T::read(&source)?;
        Ok(Self::new(list, source, stamp))
    }

    /// The one of before, if it is the same.
    fn load_or_keep(source: Source, before: Option<&Arc<Self>>) -> Result<Arc<Self>, Bad> {
        if let Some(before) = before.filter(|before| before.source == source) {
            let stamp = source.file.as_deref().and_then(stamp_of);
            if before.stamps.lock().used == stamp {
                return Ok(Arc::clone(before));
            }
        }
        Self::load(source).map(Arc::new)
    }

    /// Reads the file again if it changed. None where it did not.
    fn refresh(&self) -> Option<Result<(), (PathBuf, Bad)>> {
        let file = self.source.file.as_deref()?;
        // A file that is gone for a moment is being replaced.
        let now = stamp_of(file)?;
        if self.stamps.lock().seen.replace(now) == Some(now) {
            return None;
        }
        let read = T::read(&self.source).map_err(|bad| (file.to_owned(), bad));
        Some(read.map(|list| {
            self.current.store(Arc::new(list));
            self.stamps.lock().used = Some(now);
        }))
    }
}

impl<T> Live<T> {
    fn new(list: T, source: Source, stamp: Option<Stamp>) -> Self {
        let stamps = Mutex::new(Stamps { used: stamp, seen: stamp });
        Self { current: ArcSwap::from_pointee(list), source, stamps }
    }

    /// A list that has no file.
    pub fn fixed(list: T) -> Self {
        Self::new(list, Source { file: None, networks: Vec::new() }, None)
    }

    /// Its name; empty where there is none.
    fn file(&self) -> String {
        self.source.file.as_ref().map_or_else(String::new, |file| file.display().to_string())
    }

    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.current.load())
    }
}

impl Lists {
    /// Reads what is new or changed; `before` is what serves now.
    pub fn load(declared: &State, before: Option<&Lists>) -> Result<Self, Vec<ListError>> {
        let mut lists = Self::default();
        let mut errors = Vec::new();
        for dict in &declared.dicts {
            let source = Source { file: Some(dict.file.value.clone()), networks: Vec::new() };
            let before = before.and_then(|lists| lists.dicts.get(&dict.name));
            match Live::load_or_keep(source, before) {
                Ok(live) => drop(lists.dicts.insert(dict.name.clone(), live)),
                Err(bad) => errors.push(ListError { file: dict.file.clone(), bad }),
            }
        }
        for set in &declared.ipsets {
            let file = set.file.as_ref();
            let source =
                Source { file: file.map(|f| f.value.clone()), networks: set.networks.clone() };
            let before = before.and_then(|lists| lists.ipsets.get(&set.name));
            match (Live::load_or_keep(source, before), file) {
                (Ok(live), _) => drop(lists.ipsets.insert(set.name.clone(), live)),
                (Err(bad), Some(file)) => errors.push(ListError { file: file.clone(), bad }),
                // Without a file nothing can be wrong any more.
                (Err(_), None) => {}
            }
        }
        for (index, file) in declared.geo.iter().enumerate() {
            let source = Source { file: Some(file.value.clone()), networks: Vec::new() };
            let before = before.and_then(|lists| lists.geo.get(index));
            match Live::load_or_keep(source, before) {
                Ok(live) => lists.geo.push(live),
                Err(bad) => errors.push(ListError { file: file.clone(), bad }),
            }
        }
        if errors.is_empty() { Ok(lists) } else { Err(errors) }
    }

    /// Where an address is. The error is a damaged file's.
    pub fn place(&self, address: IpAddr) -> Result<Place, String> {
        // As a connection over IPv6 shows an IPv4 client.
        let address = address.to_canonical();
        let mut place = Place::default();
        for file in &self.geo {
            place = place.or(file.read(|geo| geo.place(address))?);
        }
        Ok(place)
    }

    /// Takes in files that changed, and tells the log. One that cannot be used changes nothing.
    /// Reads files: not for a worker thread.
    pub fn refresh(&self) {
        let dicts = self.dicts.iter().map(|(name, dict)| ("dict", name.clone(), dict.refresh()));
        let ipsets = self.ipsets.iter().map(|(name, set)| ("ipset", name.clone(), set.refresh()));
        let geo = self.geo.iter().map(|file| ("geo file", file.file(), file.refresh()));
        for (kind, name, refreshed) in dicts.chain(ipsets).chain(geo) {
            match refreshed {
                None => {}
                Some(Ok(())) => log::info!("the {kind} {name} was read anew"),
                Some(Err((file, Bad { line, message, .. }))) => {
                    let file = file.display();
                    log::error!("the {kind} {name} stays as it was: {file}:{line}: {message}");
                }
            }
        }
    }
}
