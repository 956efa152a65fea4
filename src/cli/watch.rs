//! Sees that files change, by looking at them twice a second.
//!
//! Editors and deployments replace files, links and whole folders in many ways; looking at what is
//! there sees all of them, on every file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const EVERY: Duration = Duration::from_millis(500);

/// Files, with what tells one content from the next; `None` for one that is not there.
pub type Seen = BTreeMap<PathBuf, Option<(SystemTime, u64)>>;

pub fn look(files: impl IntoIterator<Item = PathBuf>) -> Seen {
    let stamp = |file: &Path| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.modified().ok()?, about.len()))
    };
    files.into_iter().map(|file| (file.clone(), stamp(&file))).collect()
}

/// Returns what is seen once it differs from `before`, and which files do.
pub fn wait(before: &Seen, list: impl Fn() -> Vec<PathBuf>) -> (Seen, Vec<PathBuf>) {
    loop {
        pause();
        let now = look(list());
        let changed = differing(before, &now);
        if !changed.is_empty() {
            return (now, changed);
        }
    }
}

fn differing(before: &Seen, now: &Seen) -> Vec<PathBuf> {
    let gone = before.keys().filter(|file| !now.contains_key(*file));
    let changed = now.iter().filter(|(file, stamp)| before.get(*file) != Some(stamp));
    changed.map(|(file, _)| file).chain(gone).cloned().collect()
}

#[expect(clippy::disallowed_methods, reason = "this thread does nothing but wait")]
fn pause() {
    std::thread::sleep(EVERY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_changed_and_lost_files_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("a"), "1").unwrap();
        std::fs::write(file("b"), "1").unwrap();
        let before = look([file("a"), file("b"), file("c")]);
        assert_eq!(differing(&before, &before), Vec::<PathBuf>::new());
        std::fs::write(file("a"), "22").unwrap();
        std::fs::remove_file(file("b")).unwrap();
        std::fs::write(file("c"), "").unwrap();
        let now = look([file("a"), file("b"), file("c")]);
        assert_eq!(differing(&before, &now), [file("a"), file("b"), file("c")]);
        assert_eq!(differing(&now, &look([file("a"), file("c")])), [file("b")]);
    }
}
