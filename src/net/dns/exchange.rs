//! One question to the name servers, and what its answer means.
//!
//! Owns the wire: a datagram per question and server, from a socket and port of its own; TCP if the answer was cut short.
//! Promises: never a second datagram to the same server ([`ask`] is one try; the next lookup is the retry); a server that fails,
//! refuses or is silent for [`PATIENCE`] has the next one asked as well; *no such name* is said only by a server that said so.
//! Leaves the time limit and the search list to [`hickory`](super::hickory). The codec is hickory's: bytes from the network meet no
//! index of ours. Fails as [`Answer::Transient`].

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    select,
    time::sleep,
};

use super::{Answer, NoAddress, race::Race};

/// Why a server's word does not count. The worst of several is the one to tell: the later, the more it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Unreachable,
    Garbled,
    CutShort,
    Refused,
    Failed,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "name servers cannot be reached",
            Self::Garbled => "name server answers nonsense",
            Self::CutShort => "name server cuts its answer short and gives none over tcp",
            Self::Refused => "name server refused (REFUSED)",
            Self::Failed => "name server failed (SERVFAIL)",
        }
    }
}

/// Asks `servers` for the `kind` of addresses of the absolute `name`, the one that answered last first.
/// Ends only with a word from a server or the failure of all: silence is the caller's to bound.
pub(super) async fn ask(
    servers: &[SocketAddr],
    answered_last: &AtomicUsize,
    name: &Name,
    kind: RecordType,
) -> Answer {
    let first = answered_last.load(Ordering::Relaxed);
    let count = servers.len();
    let mut waiting = (0..count).filter_map(|turn| {
        let place = (first + turn) % count;
        servers.get(place).map(|server| (place, *server))
    });
    let (mut asked, mut left) = (Race::new(), count);
    let mut worst = Fault::Unreachable;
    loop {
        if let Some((place, server)) = waiting.next() {
            left -= 1;
            asked.push(async move { (place, exchange(server, name, kind).await) });
        } else if asked.is_empty() {
            return Answer::transient(worst.text());
        }
        select! {
            (place, outcome) = asked.next() => match outcome {
                Ok(answer) => {
                    answered_last.store(place, Ordering::Relaxed);
                    return answer;
                }
                Err(fault) => worst = worst.max(fault),
            },
            () = sleep(PATIENCE), if left > 0 => {}
        }
    }
}

async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Answer, Fault> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let bytes = question.to_vec().map_err(|_| Fault::Garbled)?;

    let reply = over_udp(server, &question, &bytes).await;
    let reply = reply.map_err(|_| Fault::Unreachable)?;
    if !reply.truncation {
        return read(&reply, kind);
    }
    // Half a set would look like a removal.
    match over_tcp(server, &question, &bytes).await {
        Ok(reply) if !reply.truncation => read(&reply, kind),
        _ => Err(Fault::CutShort),
    }
}

async fn over_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Connected: a port where nobody listens is known at once, and nobody but the server is heard.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; LARGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What cannot be read or answers another question may be forged: the true answer may yet come.
        let reply = Message::from_vec(buffer.get(..length).unwrap_or_default());
        if let Some(reply) = reply.ok().filter(|reply| is_answer(reply, question)) {
            return Ok(reply);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let socket = match server {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let mut stream = socket.connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes].concat())
        .await?;
    let mut reply = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut reply).await?;
    Message::from_vec(&reply)
        .ok()
        .filter(|reply| is_answer(reply, question))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn is_answer(reply: &Message, question: &Message) -> bool {
    // A server that could not read the question need not repeat it.
    let same = reply.queries == question.queries
        || (reply.queries.is_empty() && reply.response_code != ResponseCode::NoError);
    same && reply.id == question.id && reply.message_type == MessageType::Response
}

fn read(reply: &Message, kind: RecordType) -> Result<Answer, Fault> {
    match reply.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Ok(none(reply, NoAddress::NxDomain)),
        ResponseCode::Refused => return Err(Fault::Refused),
        ResponseCode::ServFail => return Err(Fault::Failed),
        _ => return Err(Fault::Garbled),
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for record in &reply.answers {
        let address = match &record.data {
            RData::A(address) if kind == RecordType::A => IpAddr::V4(address.0),
            RData::AAAA(address) if kind == RecordType::AAAA => IpAddr::V6(address.0),
            _ => continue,
        };
        if !addresses.contains(&address) && addresses.len() < MOST_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        // Neither an answer nor the means to find one: a server that was handed the wrong question (glibc calls it lame).
        let lame = reply.answers.is_empty()
            && !reply.authoritative
            && !reply.recursion_available
            && soa_ttl(reply).is_none();
        return if lame {
            Err(Fault::Refused)
        } else {
            Ok(none(reply, NoAddress::NoData))
        };
    }
    // Aliases on the way count too: the chain is good for as long as its shortest link.
    let ttl = reply.answers.iter().map(|record| record.ttl).min();
    Ok(Answer::positive(addresses, seconds(ttl)))
}

fn none(reply: &Message, reason: NoAddress) -> Answer {
    let ttl = seconds(soa_ttl(reply));
    Answer::Negative { reason, ttl }
}

fn soa_ttl(reply: &Message) -> Option<u32> {
    reply
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
}

fn seconds(ttl: Option<u32>) -> Duration {
    Duration::from_secs(ttl.unwrap_or(0).into())
}

/// How long a server may think before the next is asked as well: a name asked for often is in its cache.
const PATIENCE: Duration = Duration::from_millis(400);

/// We never announce that we could take more than 512 bytes; some servers send more all the same.
const LARGEST_DATAGRAM: usize = 4096;

const MOST_ADDRESSES: usize = 64;
