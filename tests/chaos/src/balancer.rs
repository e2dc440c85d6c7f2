//! What stands before the replicas of the API in any real installation, as small as it can be: each
//! connection goes to the next replica that is ready, and to the one after it where that one refuses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Between two looks at whether a replica is ready.
const LOOK: Duration = Duration::from_millis(50);
/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long a replica may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Balancer {
    replicas: Arc<[Replica]>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Replica {
    address: SocketAddr,
    ready: AtomicBool,
    /// Taken out by whoever runs the installation.
    out: AtomicBool,
    connections: AtomicUsize,
}

impl Balancer {
    pub(crate) async fn start(
        front: SocketAddr,
        replicas: &[SocketAddr],
        http: &reqwest::Client,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(front).await.context("listen for clients")?;
        let replica = |address: &SocketAddr| Replica {
            address: *address,
            ready: AtomicBool::new(true),
            out: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        };
        let replicas: Arc<[Replica]> = replicas.iter().map(replica).collect();
        let mut tasks = JoinSet::new();
        for index in 0..replicas.len() {
            tasks.spawn(watch(Arc::clone(&replicas), index, http.clone()));
        }
        tasks.spawn(accept(listener, Arc::clone(&replicas)));
        Ok(Self { replicas, _tasks: tasks })
    }

    /// Sends no connection there any more, or again.
    pub(crate) fn take_out(&self, address: SocketAddr, out: bool) {
        for replica in self.replicas.iter().filter(|replica| replica.address == address) {
            replica.out.store(out, Ordering::Relaxed);
        }
    }

    /// Waits until the connections that lead there are over, but no longer than this.
    pub(crate) async fn is_left(&self, address: SocketAddr, at_most: Duration) {
        let open = || {
            let there = self.replicas.iter().filter(|replica| replica.address == address);
            there.map(|replica| replica.connections.load(Ordering::Relaxed)).sum::<usize>()
        };
        let deadline = Instant::now() + at_most;
        while open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn watch(replicas: Arc<[Replica]>, index: usize, http: reqwest::Client) {
    let Some(replica) = replicas.get(index) else { return };
    let url = format!("http://{}/readyz", replica.address);
    loop {
        let answer = http.get(&url).timeout(LOOK_MAX).send().await;
        let ready = answer.is_ok_and(|answer| answer.status().is_success());
        replica.ready.store(ready, Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}

async fn accept(listener: TcpListener, replicas: Arc<[Replica]>) {
    let turn = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        let (replicas, turn) = (Arc::clone(&replicas), turn.fetch_add(1, Ordering::Relaxed));
        connections.spawn(async move {
            if let Some((replica, mut there)) = connect(&replicas, turn).await {
                let mut client = client;
                replica.connections.fetch_add(1, Ordering::Relaxed);
                // Whichever side breaks off: the other sees that it did.
                let _ = copy_bidirectional(&mut client, &mut there).await;
                replica.connections.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }
}

/// The ready ones first, each in turn; then the others, which may have become so.
async fn connect(replicas: &[Replica], turn: usize) -> Option<(&Replica, TcpStream)> {
    let count = replicas.len();
    let round = (turn..turn + count).map(|index| &replicas[index % count]);
    let round = round.filter(|replica| !replica.out.load(Ordering::Relaxed));
    let (ready, rest): (Vec<_>, Vec<_>) = round.partition(|replica| replica.ready.load(Ordering::Relaxed));
    for replica in ready.into_iter().chain(rest) {
        let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(replica.address)).await;
        if let Ok(Ok(stream)) = connected {
            return Some((replica, stream));
        }
    }
    None
}
