//! Discovery: finding out an upstream's endpoints while the program runs, without ever waiting for
//! it in a request. What was found last stays as long as nothing better is.

mod dns;
mod message;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::health::jittered;
use super::pool::Pool;
use crate::config::upstreams::{
    self, Address, Discovery, Endpoint, MAX_ENDPOINTS, Source, Upstream,
};

/// The shortest time between two looks, whatever a TTL says.
const SOONEST: Duration = Duration::from_millis(100);

/// Until a look that failed is repeated, if the next one is not due before.
const AGAIN: Duration = Duration::from_secs(1);

/// How often a file is looked at; reading it when nothing changed costs next to nothing.
const FILE: Duration = Duration::from_millis(500);

/// What a pool begins with: what is written down, or what is known of the same discovery.
pub(super) fn at_first(
    config: &Upstream,
    previous: Option<&Pool>,
) -> Result<Vec<Endpoint>, String> {
    let Some(discovery) = &config.discovery else { return Ok(config.endpoints.clone()) };
    if let Source::File(file) = &discovery.source {
        return read(file, &config.regions);
    }
    let same = previous.filter(|pool| {
        pool.config().discovery.as_ref().is_some_and(|known| known.source == discovery.source)
    });
    Ok(same.map(found_before).unwrap_or_default())
}

fn found_before(pool: &Pool) -> Vec<Endpoint> {
    let endpoint = |member: &super::balance::Member| Endpoint {
        address: member.endpoint.address().clone(),
        weight: member.weight,
        priority: member.priority,
        region: member.region.clone(),
    };
    pool.balancer().members().iter().map(endpoint).collect()
}

/// Keeps the pool's endpoints as its discovery finds them.
pub(super) async fn run(pool: Arc<Pool>, discovery: Discovery) {
    let mut known = found_before(&pool);
    let mut failing = false;
    loop {
        let (result, next) = look(&pool, &discovery).await;
        match result {
            Ok(found) => {
                if failing {
                    log::info!("upstream {}: discovery works again", pool.name());
                }
                failing = false;
                if found != known {
                    pool.set_endpoints(&found);
                    known = found;
                }
            }
            Err(why) => {
                pool.metrics().discovery_failed();
                if !failing {
                    let (name, count) = (pool.name(), known.len());
                    log::warn!("upstream {name}: discovery failed, {count} endpoints stay: {why}");
                }
                failing = true;
            }
        }
        pool.has_looked();
        tokio::time::sleep(jittered(next)).await;
    }
}

/// The endpoints of this moment, and when to look again.
async fn look(pool: &Pool, discovery: &Discovery) -> (Result<Vec<Endpoint>, String>, Duration) {
    let found = match &discovery.source {
        Source::File(file) => {
            let (file, regions) = (file.clone(), pool.config().regions.clone());
            let task = tokio::task::spawn_blocking(move || read(&file, &regions));
            let read = task.await.unwrap_or_else(|error| Err(error.to_string()));
            return (read, FILE.min(discovery.refresh));
        }
        Source::Dns { name, port } => addresses(discovery, name, *port).await,
        Source::Srv { name } => services(discovery, name).await,
    };
    match found {
        Ok((endpoints, _)) if endpoints.is_empty() => {
            (Err("the name has no address".to_owned()), AGAIN.min(discovery.refresh))
        }
        Ok((mut endpoints, ttl)) => {
            // In one order whatever the answer's, so that a rotation is no change.
            endpoints.sort_by(|a, b| a.address.cmp(&b.address));
            endpoints.dedup_by(|a, b| a.address == b.address);
            endpoints.truncate(MAX_ENDPOINTS);
            (Ok(endpoints), ttl.min(discovery.refresh).max(SOONEST))
        }
        Err(why) => (Err(why), AGAIN.min(discovery.refresh)),
    }
}

type Found = Result<(Vec<Endpoint>, Duration), String>;

async fn addresses(discovery: &Discovery, name: &str, port: u16) -> Found {
    let found = dns::addresses(discovery.resolver, name).await?;
    let endpoint = |ip| Endpoint {
        address: Address::Inet(SocketAddr::new(ip, port)),
        weight: 1,
        priority: 0,
        region: None,
    };
    Ok((found.records.into_iter().map(endpoint).collect(), found.ttl))
}

/// The targets' addresses too; a target that has none now is left out.
async fn services(discovery: &Discovery, name: &str) -> Found {
    let services = dns::services(discovery.resolver, name).await?;
    let (mut endpoints, mut ttl, mut failed) = (Vec::new(), services.ttl, None);
    for service in services.records.into_iter().take(MAX_ENDPOINTS) {
        match dns::addresses(discovery.resolver, &service.target).await {
            Ok(found) => {
                ttl = ttl.min(found.ttl);
                endpoints.extend(found.records.into_iter().map(|ip| Endpoint {
                    address: Address::Inet(SocketAddr::new(ip, service.port)),
                    // 0 means "hardly ever" there; here every endpoint takes part.
                    weight: u32::from(service.weight).clamp(1, upstreams::MAX_WEIGHT),
                    priority: u32::from(service.priority),
                    region: None,
                }));
            }
            Err(why) => failed = Some(why),
        }
    }
    match failed {
        Some(why) if endpoints.is_empty() => Err(why),
        _ => Ok((endpoints, ttl)),
    }
}

fn read(file: &Path, regions: &[Arc<str>]) -> Result<Vec<Endpoint>, String> {
    let found = upstreams::load_endpoints(file, regions).map_err(|problems| {
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        texts.join("; ")
    })?;
    match found.len() {
        0 => Err(format!("{} lists no endpoint", file.display())),
        count if count > MAX_ENDPOINTS => {
            Err(format!("{} lists more than {MAX_ENDPOINTS} endpoints", file.display()))
        }
        _ => Ok(found),
    }
}
