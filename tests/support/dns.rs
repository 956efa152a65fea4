//! A name server whose records a test changes while it runs: A, AAAA and SRV, over UDP and TCP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const A: u16 = 1;
const SRV: u16 = 33;
const HEADER: usize = 12;
/// More does not fit into an answer over UDP without EDNS.
const DATAGRAM: usize = 512;

#[derive(Debug, Clone)]
pub enum Record {
    A(Ipv4Addr),
    Srv { priority: u16, weight: u16, port: u16, target: &'static str },
}

/// What the server does with every question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// Says that it failed.
    Fails,
    Silent,
}

struct State {
    records: BTreeMap<String, Vec<Record>>,
    mood: Mood,
    over_tcp: usize,
}

pub struct NameServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl NameServer {
    pub fn start() -> Self {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("bound");
        let state = State { records: BTreeMap::new(), mood: Mood::Answers, over_tcp: 0 };
        let state = Arc::new(Mutex::new(state));
        let (by_udp, by_tcp) = (Arc::clone(&state), Arc::clone(&state));
        std::thread::spawn(move || {
            let mut buffer = [0; DATAGRAM];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if let Some(mut answer) = answer(&buffer[..length], &by_udp) {
                    if answer.len() > DATAGRAM {
                        answer.truncate(length);
                        answer[2] |= 0x02;
                        answer[6..8].copy_from_slice(&[0, 0]);
                    }
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming().map_while(Result::ok) {
                by_tcp.lock().expect("no panic while held").over_tcp += 1;
                let _ = serve(stream, &by_tcp);
            }
        });
        Self { address, state }
    }

    pub fn set(&self, name: &str, records: &[Record]) {
        let mut state = self.state.lock().expect("no panic while held");
        state.records.insert(name.to_owned(), records.to_vec());
    }

    pub fn mood(&self, mood: Mood) {
        self.state.lock().expect("no panic while held").mood = mood;
    }

    /// Questions that came over TCP.
    pub fn over_tcp(&self) -> usize {
        self.state.lock().expect("no panic while held").over_tcp
    }
}

/// One port for both.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")) {
            return (udp, tcp);
        }
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question)?;
    let answer = answer(&question, state).unwrap_or_default();
    stream.write_all(&(answer.len() as u16).to_be_bytes())?;
    stream.write_all(&answer)
}

fn answer(question: &[u8], state: &Mutex<State>) -> Option<Vec<u8>> {
    let state = state.lock().expect("no panic while held");
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while question[at] > 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..at + 1 + length]).into_owned());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let records = state.records.get(&labels.join("."));
    let code = match state.mood {
        Mood::Silent => return None,
        Mood::Fails => 2,
        Mood::Answers if records.is_none() => 3,
        Mood::Answers => 0,
    };
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    let fitting = records.into_iter().flatten().filter_map(|record| data(record, kind));
    let data: Vec<Vec<u8>> = fitting.filter(|_| code == 0).collect();
    message[6..8].copy_from_slice(&(data.len() as u16).to_be_bytes());
    for data in data {
        // The owner is the question's name; the TTL is 0, so that a change is seen soon.
        message.extend([0xc0, 12]);
        message.extend([kind, 1].iter().flat_map(|number| number.to_be_bytes()));
        message.extend([0; 4]);
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    Some(message)
}

fn data(record: &Record, asked: u16) -> Option<Vec<u8>> {
    match record {
        Record::A(address) => (asked == A).then(|| address.octets().to_vec()),
        Record::Srv { priority, weight, port, target } => (asked == SRV).then(|| {
            let mut data: Vec<u8> =
                [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
            for label in target.split('.') {
                data.push(label.len() as u8);
                data.extend(label.bytes());
            }
            data.push(0);
            data
        }),
    }
}
