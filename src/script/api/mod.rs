//! What scripts can call: one table, from which engine, reference and example tests are made.

mod after;
mod body;
mod cache;
mod client;
pub(super) mod convert;
mod cookies;
mod crypto;
mod ctx;
mod definitions;
mod device;
mod document;
mod encoding;
mod ending;
mod events;
mod fetch;
mod geo;
mod hashing;
mod headers;
mod html_rewriter;
mod json;
mod jwt;
mod kv;
mod limits;
mod lists;
mod logging;
mod negotiate;
mod objects;
mod octets;
mod pending;
mod query;
mod random;
mod redirects;
mod reference;
mod request;
mod response;
mod safe;
mod schedule;
mod secret;
pub mod show;
mod state;
mod table;
mod text;
mod time;
mod transforms;
mod upstreams;
mod url;

pub use convert::handle_in;
pub use definitions::definitions;
pub use fetch::{granted, seconds};
pub use kv::WRITES as KV_WRITES;
pub use objects::{Objects, Request, Response, set_body};
pub use reference::reference;
pub use state::{Facts, State, has_reached, tag_for_load, tag_for_run, wait, work_after};
pub use table::{Direct, Directs, Doc};
pub use transforms::{Given, verdict};

use std::collections::BTreeMap;
use std::sync::Arc;

use once_cell::sync::Lazy;
use rhai::packages::{Package, StandardPackage};
use rhai::{Engine, EvalAltResult, Map, Module, Position};

type SharedModule = Arc<Module>;
type Raised = Box<EvalAltResult>;
type Outcome<T> = Result<T, Raised>;

/// An error that a script catches as `#{ kind, message }`.
fn fail(kind: &str, message: impl Into<String>) -> Raised {
    let mut map = Map::new();
    map.insert("kind".into(), kind.into());
    map.insert("message".into(), message.into().into());
    EvalAltResult::ErrorRuntime(map.into(), Position::NONE).into()
}

fn invalid(message: impl Into<String>) -> Raised {
    fail("invalid", message)
}

/// All areas, in the order of the reference.
fn table() -> table::Table {
    let mut table = table::Table::default();
    name_kinds(&mut table);
    request::area(&mut table);
    response::area(&mut table);
    cache::area(&mut table);
    headers::area(&mut table);
    body::area(&mut table);
    transforms::area(&mut table);
    html_rewriter::area(&mut table);
    events::area(&mut table);
    document::area(&mut table);
    octets::area(&mut table);
    query::area(&mut table);
    cookies::area(&mut table);
    client::area(&mut table);
    geo::area(&mut table);
    ctx::area(&mut table);
    fetch::area(&mut table);
    kv::area(&mut table);
    limits::area(&mut table);
    lists::area(&mut table);
    after::area(&mut table);
    ending::area(&mut table);
    schedule::area(&mut table);
    upstreams::area(&mut table);
    json::area(&mut table);
    encoding::area(&mut table);
    hashing::area(&mut table);
    secret::area(&mut table);
    crypto::area(&mut table);
    jwt::area(&mut table);
    random::area(&mut table);
    url::area(&mut table);
    text::area(&mut table);
    time::area(&mut table);
    logging::area(&mut table);
    safe::area(&mut table);
    show::area(&mut table);
    #[cfg(test)]
    {
        table.hidden("panic_for_test()", || -> () { panic!("as the test wants") });
        // What closures that are kept would make, were they not refused at load.
        table.hidden("cycle_for_test(text)", |text: &str| {
            let list = rhai::Dynamic::from_array(vec![text.into()]).into_shared();
            if let Some(mut items) = list.clone().write_lock::<rhai::Array>() {
                items.push(list.clone());
            }
        });
    }
    table
}

/// Types that scripts meet, by their names there.
fn name_kinds(table: &mut table::Table) {
    table
        .kind::<Request>("Request")
        .kind::<Response>("Response")
        .kind::<objects::Headers>("Headers")
        .kind::<body::Body>("Body")
        .kind::<octets::Octets>("Bytes")
        .kind::<query::Query>("Query")
        .kind::<cookies::Cookies>("Cookies")
        .kind::<cache::CacheHandle>("Cache")
        .kind::<client::ClientHandle>("Client")
        .kind::<client::Tls>("Tls")
        .kind::<client::Cert>("Cert")
        .kind::<geo::Geo>("Geo")
        .kind::<ending::EndingHandle>("Outcome")
        .kind::<ctx::CtxHandle>("Ctx")
        .kind::<pending::Pending>("Pending")
        .kind::<secret::Handle>("Secret")
        .kind::<jwt::Jwks>("Jwks")
        .kind::<text::Regex>("Regex")
        .kind::<url::Url>("Url")
        .kind::<html_rewriter::Rewriter>("HtmlRewriter")
        .kind::<html_rewriter::ElementHandle>("Element")
        .kind::<events::EventHandle>("Event")
        .kind::<document::Json>("Json")
        .kind::<kv::Kv>("Kv")
        .kind::<limits::Counter>("Counter")
        .kind::<limits::Lock>("Lock")
        .kind::<lists::Dict>("Dict")
        .kind::<lists::IpSet>("IpSet")
        .kind::<super::exchange::Event>("Event")
        .kind::<super::exchange::ErrorInfo>("Error");
}

struct Modules {
    /// Rhai's own functions.
    standard: SharedModule,
    global: SharedModule,
    named: Vec<(&'static str, SharedModule)>,
    docs: Vec<table::Doc>,
    settable: Vec<&'static str>,
    kinds: BTreeMap<&'static str, &'static str>,
    directs: table::Directs,
}

// Built once: functions without state, shared by all engines.
static MODULES: Lazy<Modules> = Lazy::new(|| {
    let table::Table { global, named, docs, settable, kinds, directs, .. } = table();
    let indexed = |mut module: Module| -> SharedModule {
        // Else each engine would copy the module to index it.
        module.build_index();
        module.into()
    };
    let named = named.into_iter().map(|(name, module)| (name, indexed(module))).collect();
    let standard = StandardPackage::new().as_shared_module();
    Modules { standard, global: global.into(), named, docs, settable, kinds, directs }
});

/// Gives an engine what the language has by itself, and the whole API.
pub fn register(engine: &mut Engine) {
    engine.register_global_module(MODULES.standard.clone());
    engine.register_global_module(MODULES.global.clone());
    for (name, module) in &MODULES.named {
        engine.register_static_module(*name, module.clone());
    }
}

/// What lowered code calls and has to know.
pub fn directs() -> &'static Directs {
    &MODULES.directs
}

/// Names before `::`.
pub fn modules() -> impl Iterator<Item = &'static str> {
    MODULES.named.iter().map(|(name, _)| *name)
}

/// Everything documented, for the reference and the test of examples.
pub fn docs() -> &'static [table::Doc] {
    &MODULES.docs
}

/// A type's name for scripts, by its name in Rust.
fn kind(rust: &str) -> Option<&'static str> {
    MODULES.kinds.get(rust).copied()
}

/// Properties that can be set, as `req.path`.
pub fn settable() -> &'static [&'static str] {
    &MODULES.settable
}
