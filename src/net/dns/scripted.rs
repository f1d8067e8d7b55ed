//! A name server that does as a test says, on a port of its own, over UDP and TCP.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    runtime::Handle,
    select,
    time::sleep,
};

use super::race::Race;
use crate::task::{Owned, spawn_owned};

/// What is said to a question.
#[derive(Clone)]
pub(super) enum Say {
    Nothing,
    Code(ResponseCode),
    Addresses(Vec<IpAddr>),
    /// Over UDP: cut short. Over TCP: these.
    OverTcp(Vec<IpAddr>),
    Late(Duration, Box<Say>),
    Garbage,
}

type Script = HashMap<(String, RecordType), Say>;

pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    /// Each datagram: name and type.
    heard: Arc<Mutex<Vec<(String, RecordType)>>>,
    _tasks: [Owned; 2],
}

impl NameServer {
    /// What is not in the script is met with silence.
    pub(super) async fn start() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let (script, heard) = (Arc::<Mutex<Script>>::default(), Arc::default());
        let runtime = Handle::current();
        Self {
            address,
            _tasks: [
                spawn_owned(&runtime, serve_udp(udp, script.clone(), Arc::clone(&heard))),
                spawn_owned(&runtime, serve_tcp(tcp, script.clone())),
            ],
            script,
            heard,
        }
    }

    pub(super) fn say(&self, name: &str, kind: RecordType, say: Say) -> &Self {
        self.script
            .lock()
            .unwrap()
            .insert((name.to_owned(), kind), say);
        self
    }

    pub(super) fn heard(&self) -> Vec<(String, RecordType)> {
        self.heard.lock().unwrap().clone()
    }
}

async fn serve_udp(
    socket: UdpSocket,
    script: Arc<Mutex<Script>>,
    heard: Arc<Mutex<Vec<(String, RecordType)>>>,
) {
    let mut buffer = [0; 4096];
    let mut late = Race::new();
    loop {
        let (question, peer, say) = select! {
            heard_now = socket.recv_from(&mut buffer) => {
                let (length, peer) = heard_now.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let key = key(&question);
                heard.lock().unwrap().push(key.clone());
                let say = script.lock().unwrap().get(&key).cloned();
                (question, peer, say)
            }
            due = late.next() => due,
        };
        let reply = match say {
            None | Some(Say::Nothing) => continue,
            Some(Say::Garbage) => vec![1, 2, 3],
            Some(Say::Late(wait, say)) => {
                late.push(async move {
                    sleep(wait).await;
                    (question, peer, Some(*say))
                });
                continue;
            }
            Some(Say::OverTcp(_)) => {
                let mut short = reply(&question, ResponseCode::NoError, &[]);
                short.metadata.truncation = true;
                short.to_vec().unwrap()
            }
            Some(Say::Code(code)) => reply(&question, code, &[]).to_vec().unwrap(),
            Some(Say::Addresses(all)) => reply(&question, ResponseCode::NoError, &all)
                .to_vec()
                .unwrap(),
        };
        // A forgery first: another id, another address.
        let mut forged = reply_with_other_id(&reply);
        forged.truncate(reply.len());
        socket.send_to(&forged, peer).await.unwrap();
        socket.send_to(&reply, peer).await.unwrap();
    }
}

fn reply_with_other_id(reply: &[u8]) -> Vec<u8> {
    let mut forged = reply.to_vec();
    forged[0] ^= 0xff;
    forged
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut bytes).await.unwrap();
        let question = Message::from_vec(&bytes).unwrap();
        let say = script.lock().unwrap().get(&key(&question)).cloned();
        if let Some(Say::OverTcp(all)) = say {
            let reply = reply(&question, ResponseCode::NoError, &all)
                .to_vec()
                .unwrap();
            stream
                .write_u16(reply.len().try_into().unwrap())
                .await
                .unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    }
}

fn key(question: &Message) -> (String, RecordType) {
    let query = &question.queries[0];
    (query.name().to_string(), query.query_type())
}

fn reply(question: &Message, code: ResponseCode, addresses: &[IpAddr]) -> Message {
    let mut reply = question.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    let name = question.queries[0].name();
    for address in addresses {
        let data = match address {
            IpAddr::V4(v4) => RData::A((*v4).into()),
            IpAddr::V6(v6) => RData::AAAA((*v6).into()),
        };
        reply.add_answer(Record::from_rdata(name.clone(), 7, data));
    }
    reply
}
