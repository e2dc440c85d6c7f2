//! Whoever is told of ends: takes every message, and remembers which evaluation it was of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hood_wire::api::Evaluation;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A message is smaller.
const MESSAGE_MAX: usize = 256 * 1024;
const POLL: Duration = Duration::from_millis(100);

const TAKEN: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

/// Ids of messages and the verdicts that they told, by evaluation.
type Told = BTreeMap<String, BTreeSet<(String, String)>>;

#[derive(Debug)]
pub(super) struct Hooks {
    pub(super) url: String,
    told: Arc<Mutex<Told>>,
    _tasks: JoinSet<()>,
}

#[derive(Deserialize)]
struct Message {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    id: String,
    verdict: String,
}

impl Hooks {
    pub(super) async fn listen() -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen for what is told")?;
        let address: SocketAddr = listener.local_addr()?;
        let told = Arc::new(Mutex::new(Told::new()));
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&told);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else { continue };
                let told = Arc::clone(&shared);
                connections.spawn(async move { take(stream, &told).await });
            }
        });
        Ok(Self { url: format!("http://{address}/hook"), told, _tasks: tasks })
    }

    /// What was to be told and was not, or differently, once it has had its time.
    pub(super) async fn missing(&self, evaluations: &[&Evaluation], patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        loop {
            let missing: Vec<String> =
                evaluations.iter().filter_map(|evaluation| wrong(evaluation, &lock(&self.told))).collect();
            if missing.is_empty() || Instant::now() > deadline {
                return missing;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn wrong(evaluation: &Evaluation, told: &Told) -> Option<String> {
    let id = &evaluation.id;
    let Some(messages) = told.get(id) else { return Some(format!("{id}: its end was told to nobody")) };
    // The same message may come twice, under the same id.
    let verdict = serde_json::to_value(evaluation.verdict).unwrap_or_default();
    let right = messages.len() == 1 && messages.iter().all(|(_, said)| verdict == said.as_str());
    (!right).then(|| format!("{id}: its end, {verdict}, was told as {messages:?}"))
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(mut stream: TcpStream, told: &Mutex<Told>) -> Option<()> {
    let mut bytes = Vec::new();
    let (id, body) = loop {
        let read = stream.read_buf(&mut bytes).await.ok()?;
        if read == 0 || bytes.len() > MESSAGE_MAX {
            return None;
        }
        if let Some(whole) = message(&bytes) {
            break whole;
        }
    };
    let Message { data } = serde_json::from_slice(&body).ok()?;
    lock(told).entry(data.id).or_default().insert((id, data.verdict));
    stream.write_all(TAKEN).await.ok()?;
    stream.shutdown().await.ok()
}

/// Its id and its body, when all of it is there.
fn message(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let header = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let length: usize = header("content-length")?.parse().ok()?;
    let body = bytes.get(end + 4..end + 4 + length)?;
    Some((header("webhook-id")?.to_owned(), body.to_vec()))
}
