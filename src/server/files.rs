//! What stands behind the names of a configuration: files, secrets and addresses, as hashes. They
//! tell a reload what changed where the configuration's own text is the same.
//!
//! Scripts are not here: a compiled one knows its sources.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::config::Config;
use crate::config::listeners::{ClientAuth, Tls};

/// By section and name.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<(&'static str, String), u64>);

impl Files {
    pub fn of(config: &Config) -> Self {
        let mut files = Self::default();
        for listener in &config.listeners {
            let tls = listener.tls.as_ref();
            files.add("listeners", &listener.name, tls.map(tls_files).unwrap_or_default());
        }
        for upstream in &config.upstreams {
            let addresses: Vec<_> = upstream.endpoints.iter().map(|e| &e.address).collect();
            let tls = upstream.tls.as_ref();
            let named = tls.map(|tls| {
                let pair = tls.certificate.iter().flat_map(|pair| [&pair.cert, &pair.key]);
                tls.ca.iter().chain(pair).map(|file| content(file)).collect::<Vec<_>>()
            });
            files.add("upstreams", &upstream.name, (addresses, named));
        }
        for filter in &config.filters {
            let secrets: Vec<_> = filter.secrets.values().map(|secret| secret.expose()).collect();
            files.add("filters", &filter.name, secrets);
        }
        files
    }

    /// Whether an entry that is in both stands for something else than `before`.
    pub fn changed(&self, before: &Files, section: &'static str, name: &str) -> bool {
        let key = (section, name.to_owned());
        self.0.get(&key) != before.0.get(&key)
    }

    fn add(&mut self, section: &'static str, name: &str, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.0.insert((section, name.to_owned()), hasher.finish());
    }
}

fn tls_files(tls: &Tls) -> Vec<Option<Vec<u8>>> {
    let pairs = tls.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    let authority = match &tls.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional(file) | ClientAuth::Required(file) => Some(file),
    };
    pairs.chain(authority).map(|file| content(file)).collect()
}

/// `None` for what cannot be read: whoever needs the file says so.
fn content(file: &Path) -> Option<Vec<u8>> {
    std::fs::read(file).ok()
}
