//! Clients that are no `redis` connections, each with the client that its own README has first.
//!
//! Owns one [`Caller`] for each. Promises that each gets the bytes of its answer, as the others do. Only rows of one command.

use fred::interfaces::{ClientLike, KeysInterface};
use redis_tower::{MultiplexedClient, commands};
use rustis::{commands::StringCommands, resp::BulkString};

use super::measure::{Caller, Contender, Shape, Verb};

/// fred, rustis and redis-tower, connected.
pub async fn connect(addr: &str) -> Vec<Contender> {
    let config = fred::types::config::Config::from_url(&format!("redis://{addr}")).unwrap();
    let fred = fred::types::Builder::from_config(config).build().unwrap();
    fred.init().await.unwrap();
    let rustis = rustis::client::Client::connect(addr).await.unwrap();
    let tower = MultiplexedClient::connect(addr).await.unwrap();
    vec![
        Contender::new("fred", move |row| Fred(fred.clone(), Words::of(row))),
        Contender::new("rustis", move |row| Rustis(rustis.clone(), Words::of(row))),
        Contender::new("redis-tower", move |row| {
            Tower(tower.clone(), Words::of(row))
        }),
    ]
}

struct Words {
    row: Shape,
    key: String,
    value: Vec<u8>,
}

impl Words {
    fn of(row: Shape) -> Self {
        assert_eq!(row.batch, 1, "they are compared by single commands");
        Self {
            row,
            key: row.key(),
            value: row.value(),
        }
    }
}

struct Fred(fred::clients::Client, Words);

impl Caller for Fred {
    async fn call(&mut self) {
        let Self(client, words) = self;
        match words.row.verb {
            Verb::Get => {
                let value: Vec<u8> = client.get(&words.key).await.unwrap();
                assert_eq!(value.len(), words.row.bytes);
            }
            Verb::Set => {
                let value = words.value.as_slice();
                let () = client
                    .set(&words.key, value, None, None, false)
                    .await
                    .unwrap();
            }
        }
    }
}

struct Rustis(rustis::client::Client, Words);

impl Caller for Rustis {
    async fn call(&mut self) {
        let Self(client, words) = self;
        match words.row.verb {
            Verb::Get => {
                let value: BulkString = client.get(&words.key).await.unwrap();
                assert_eq!(value.len(), words.row.bytes);
            }
            Verb::Set => {
                let value = BulkString::from(words.value.clone());
                client.set(&words.key, value).await.unwrap();
            }
        }
    }
}

struct Tower(MultiplexedClient, Words);

impl Caller for Tower {
    async fn call(&mut self) {
        let Self(client, words) = self;
        match words.row.verb {
            Verb::Get => {
                let value = client
                    .execute(commands::Get::new(&words.key))
                    .await
                    .unwrap();
                assert_eq!(value.unwrap().len(), words.row.bytes);
            }
            Verb::Set => {
                let set = commands::Set::new(&words.key, words.value.clone());
                client.execute(set).await.unwrap();
            }
        }
    }
}
