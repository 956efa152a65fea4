//! Asking a name server: over UDP, over TCP if the answer is too large, the next server if one is
//! silent. Small on purpose: no cache, since who asks comes back when the TTL is over, and no search
//! domains, since a proxy's names should not depend on where it runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{self, A, AAAA, Answer, Data, SRV, Service};

const PORT: u16 = 53;
const SYSTEM: &str = "/etc/resolv.conf";
/// Name servers asked at most, as resolv.conf(5) has it.
const SERVERS: usize = 3;
/// Each server is asked so often.
const TRIES: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(2);
/// Larger than any answer over UDP to a question without EDNS.
const DATAGRAM: usize = 4096;
/// Of answers without a record.
const NO_TTL: Duration = Duration::from_secs(3600);

/// Records of one name, and how long they hold.
pub(super) struct Found<T> {
    pub(super) records: Vec<T>,
    pub(super) ttl: Duration,
}

/// The IPv4 and IPv6 addresses of `name`. One family may fail if the other one does not.
pub(super) async fn addresses(
    resolver: Option<SocketAddr>,
    name: &str,
) -> Result<Found<IpAddr>, String> {
    if let Ok(address) = name.parse() {
        return Ok(Found { records: vec![address], ttl: NO_TTL });
    }
    let servers = servers(resolver).await?;
    let (four, six) = tokio::join!(ask(&servers, name, A), ask(&servers, name, AAAA));
    let (four, six) = match (four, six) {
        (Err(why), Ok(six)) if six.is_empty() => return Err(why),
        (Ok(four), Err(why)) if four.is_empty() => return Err(why),
        (Err(why), Err(_)) => return Err(why),
        (four, six) => (four.unwrap_or_default(), six.unwrap_or_default()),
    };
    Ok(found(four.into_iter().chain(six), |data| match data {
        Data::Address(address) => Some(address),
        Data::Service(_) => None,
    }))
}

pub(super) async fn services(
    resolver: Option<SocketAddr>,
    name: &str,
) -> Result<Found<Service>, String> {
    let records = ask(&servers(resolver).await?, name, SRV).await?;
    Ok(found(records.into_iter(), |data| match data {
        // A target that is the root says that there is no such service (RFC 2782).
        Data::Service(service) if !service.target.is_empty() => Some(service),
        _ => None,
    }))
}

fn found<T>(
    records: impl Iterator<Item = (Data, u32)>,
    keep: impl Fn(Data) -> Option<T>,
) -> Found<T> {
    let mut ttl = NO_TTL;
    let records = records.filter_map(|(data, seconds)| {
        let kept = keep(data)?;
        ttl = ttl.min(Duration::from_secs(seconds.into()));
        Some(kept)
    });
    Found { records: records.collect(), ttl }
}

/// Read anew each time: it may change while we run.
async fn servers(resolver: Option<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    if let Some(resolver) = resolver {
        return Ok(vec![resolver]);
    }
    let read = tokio::task::spawn_blocking(|| std::fs::read_to_string(SYSTEM)).await;
    let text = read.map_err(|error| error.to_string())?;
    let servers = parse_servers(&text.map_err(|error| format!("{SYSTEM}: {error}"))?);
    match servers.is_empty() {
        true => Err(format!("{SYSTEM} names no server")),
        false => Ok(servers),
    }
}

fn parse_servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let named = words.next() == Some("nameserver");
        let address: IpAddr = words.next().filter(|_| named)?.parse().ok()?;
        Some(SocketAddr::new(address, PORT))
    });
    lines.take(SERVERS).collect()
}

async fn ask(servers: &[SocketAddr], name: &str, kind: u16) -> Result<Vec<(Data, u32)>, String> {
    let mut failed = "no name server".to_owned();
    for server in servers.iter().cycle().take(servers.len() * TRIES) {
        let id = random_id().map_err(|error| error.to_string())?;
        let question = message::question(id, name, kind)
            .ok_or_else(|| format!("\"{name}\" is not a name in the DNS"))?;
        let asked = tokio::time::timeout(TIMEOUT, ask_one(*server, &question)).await;
        failed = match asked {
            Ok(Ok(Answer::Records(records))) => return Ok(records),
            Ok(Ok(Answer::NoSuchName)) => return Err(format!("there is no name {name}")),
            Ok(Ok(Answer::Failed(code))) => format!("{server} answers with code {code}"),
            Ok(Ok(Answer::Truncated)) => format!("{server} cuts its answer over TCP too"),
            Ok(Err(error)) => format!("{server}: {error}"),
            Err(_) => format!("{server} does not answer within {TIMEOUT:?}"),
        };
    }
    Err(failed)
}

/// Nobody must be able to guess it and answer in the server's place.
fn random_id() -> Result<u16, getrandom::Error> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

async fn ask_one(server: SocketAddr, question: &[u8]) -> std::io::Result<Answer> {
    match over_udp(server, question).await? {
        Answer::Truncated => over_tcp(server, question).await,
        answer => Ok(answer),
    }
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Answer> {
    let local: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each question, and only this server may answer.
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = message::answer(buffer.get(..length).unwrap_or_default(), question) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = message::answer(&buffer, question);
    answer.ok_or_else(|| std::io::Error::other("no answer to the question"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_servers_are_read() {
        let text = "# local\nsearch a.test\nnameserver 192.0.2.1\nnameserver 2001:db8::1 # two\n\
                    nameserver not-an-address\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let servers: Vec<String> = parse_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"]);
    }
}
