//! Servers that no real one would be: a peer that does what a script says, and a fake that answers commands as it is told.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use holdfast_lab::task::{Owned, own};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, sleep},
};

use super::ms;

/// A listener whose connections, counted from 1, do what a script says; they end with it.
pub struct Peer {
    pub addr: SocketAddr,
    dials: Arc<Mutex<Vec<Instant>>>,
    _task: Owned,
}

impl Peer {
    pub async fn start<F, T>(script: F) -> Self
    where
        F: Fn(TcpStream, usize) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        super::watch();
        let listener = TcpListener::bind((holdfast_lab::ip(), 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let dials = Arc::<Mutex<Vec<Instant>>>::default();
        let seen = dials.clone();
        let task = own(async move {
            let mut open = Vec::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(Instant::now());
                    seen.len()
                };
                open.push(own(script(socket, number)));
            }
        });
        Self {
            addr,
            dials,
            _task: task,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    pub fn dials(&self) -> usize {
        self.dials.lock().unwrap().len()
    }

    /// When each connection was accepted.
    pub fn dialled(&self) -> Vec<Instant> {
        self.dials.lock().unwrap().clone()
    }
}

/// What a well-behaved server answers to a whole handshake of ours (RESP2, no credentials, no name).
pub fn greeting(number: usize) -> Vec<u8> {
    let words = [
        "+OK\r\n+OK\r\n".to_owned(),
        bulk(&format!("id={number} addr=127.0.0.1:{number} flags=N\n")),
        bulk("redis_mode:standalone\r\nrun_id:abc\r\n"),
        bulk("role:master\r\nmaster_replid:def\r\n"),
        "+PONG\r\n".to_owned(),
    ];
    words.concat().into_bytes()
}

/// Reads a whole handshake: its last word is the first `PING`. Nothing more when the client has gone.
pub async fn hear_handshake(socket: &mut TcpStream) -> Option<()> {
    let (mut heard, mut chunk) = (Vec::new(), [0; 1024]);
    while !heard.ends_with(b"PING\r\n") {
        let count = socket
            .read(&mut chunk)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        heard.extend_from_slice(&chunk[..count]);
    }
    Some(())
}

/// Waits for the next bytes of the client, whatever they are.
pub async fn hear(socket: &mut TcpStream) -> Option<()> {
    let mut chunk = [0; 4096];
    socket
        .read(&mut chunk)
        .await
        .ok()
        .filter(|count| *count > 0)
        .map(drop)
}

/// Greets like a server, and waits for the first call.
pub async fn greet(socket: &mut TcpStream, number: usize) -> Option<()> {
    hear_handshake(socket).await?;
    socket.write_all(&greeting(number)).await.ok()?;
    hear(socket).await
}

/// Reads until the client goes.
pub async fn listen(mut socket: TcpStream) {
    while hear(&mut socket).await.is_some() {}
}

/// Ends a connection with an RST.
pub fn reset(socket: TcpStream) {
    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}

/// What the fake does with a command.
pub enum Act {
    Say(String),
    /// Asks again in a moment.
    Hang,
}

type Brain = Arc<Mutex<Box<dyn FnMut(usize, &[String]) -> Option<Act> + Send>>>;

/// Answers each command, of each connection, as a closure says; what it leaves open, like a server in good health.
pub struct Fake {
    peer: Peer,
    /// Closes every connection.
    pub kick: Arc<Notify>,
}

impl Fake {
    pub async fn start(
        brain: impl FnMut(usize, &[String]) -> Option<Act> + Send + 'static,
    ) -> Self {
        let brain: Brain = Arc::new(Mutex::new(Box::new(brain)));
        let kick = Arc::new(Notify::new());
        let kicked = kick.clone();
        let peer = Peer::start(move |socket, number| {
            converse(socket, number, brain.clone(), kicked.clone())
        })
        .await;
        Self { peer, kick }
    }

    pub fn port(&self) -> u16 {
        self.peer.addr.port()
    }

    /// `redis://`, credentials with their `@` or nothing, and the address.
    pub fn url(&self, credentials: &str) -> String {
        format!("redis://{credentials}{}", self.peer.addr)
    }

    pub fn accepts(&self) -> usize {
        self.peer.dials()
    }

    pub fn ip(&self) -> std::net::IpAddr {
        self.peer.addr.ip()
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn answer(number: usize, command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|word| word.to_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["CLIENT", "INFO"] => bulk(&format!("id={number} addr=127.0.0.1:{number} flags=N\n")),
        ["CLIENT", "LIST", ..] => bulk(&format!("id={number} flags=N\n")),
        ["CLIENT", "KILL", ..] => ":1\r\n".to_owned(),
        ["INFO", "SERVER"] => bulk("redis_mode:standalone\r\nrun_id:abc\r\n"),
        ["INFO", "REPLICATION"] => bulk("role:master\r\nmaster_replid:def\r\n"),
        ["PING"] => "+PONG\r\n".to_owned(),
        ["GET", ..] => bulk("value"),
        _ => "+OK\r\n".to_owned(),
    }
}

/// Takes a whole command off the front of `buffer`.
fn command(buffer: &mut Vec<u8>) -> Option<Vec<String>> {
    let (mut at, mut words) = (0, Vec::new());
    let line = |at: &mut usize| {
        let end = buffer[*at..].windows(2).position(|pair| pair == b"\r\n")? + *at;
        let number = std::str::from_utf8(&buffer[*at + 1..end]).ok()?;
        *at = end + 2;
        number.parse::<usize>().ok()
    };
    for _ in 0..line(&mut at)? {
        let length = line(&mut at)?;
        let word = buffer.get(at..at + length + 2)?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
        at += length + 2;
    }
    buffer.drain(..at);
    Some(words)
}

/// Answers the commands of one connection as `brain` says.
async fn converse(mut socket: TcpStream, number: usize, brain: Brain, kick: Arc<Notify>) {
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(command) = command(&mut buffer) {
            let reply = loop {
                let act = (brain.lock().unwrap())(number, &command);
                match act.unwrap_or_else(|| Act::Say(answer(number, &command))) {
                    Act::Say(reply) => break reply,
                    Act::Hang => sleep(ms(2)).await,
                }
            };
            if socket.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
        tokio::select! {
            read = socket.read(&mut chunk) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            },
            () = kick.notified() => return,
        }
    }
}
