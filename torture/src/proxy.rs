//! The network between daemon and server: a TCP proxy that cuts, stalls, chops and swallows.

use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{TortureError, io};
use crate::seed;

/// What is read at once while nothing is wrong.
const READ_BYTES: usize = 64 * 1024;
/// Between two pieces of a chopped packet: long enough that the kernel does not glue them together again.
const CHOP_PAUSE: Duration = Duration::from_micros(300);

/// What the network does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weather {
    Fine,
    Stalled,
    /// At most so many bytes at a time.
    Chopped(usize),
    /// Connections that meet this are dead for ever, and stay open.
    Swallowing,
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    weather: watch::Sender<Weather>,
    cuts: watch::Sender<u64>,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr, cycle_seed: u64) -> Result<Self, TortureError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("listen for the proxy"))?;
        let port = listener.local_addr().map_err(io("listen for the proxy"))?.port();
        let (weather, weathers) = watch::channel(Weather::Fine);
        let (cuts, cut) = watch::channel(0);
        let (open, opens) = watch::channel(true);
        let door = Door { port, listener, server, open: opens, weather: weathers, cut, cycle_seed };
        let task = tokio::spawn(door.run());
        Ok(Self { port, weather, cuts, open, task })
    }

    fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    pub(crate) fn stall(&self) {
        self.set(Weather::Stalled);
    }

    /// Pieces of 1 to `piece_max` bytes.
    pub(crate) fn chop(&self, piece_max: usize) {
        self.set(Weather::Chopped(piece_max.max(1)));
    }

    pub(crate) fn swallow(&self) {
        self.set(Weather::Swallowing);
    }

    /// Fine weather, and open.
    pub(crate) fn clear(&self) {
        self.set(Weather::Fine);
        self.open.send_replace(true);
    }

    /// Refuses connections, as the port of a server that is down does. Without it they are accepted and then reset, as a
    /// load balancer in front of such a server does.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    /// Ends every connection of this moment.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where connections come in.
struct Door {
    port: u16,
    listener: TcpListener,
    server: SocketAddr,
    open: watch::Receiver<bool>,
    weather: watch::Receiver<Weather>,
    cut: watch::Receiver<u64>,
    cycle_seed: u64,
}

impl Door {
    async fn run(mut self) {
        let mut connections = tokio::task::JoinSet::new();
        let mut number = 0_u64;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                changed = self.open.changed() => match changed {
                    Ok(()) if !*self.open.borrow() => {
                        drop(self.listener);
                        let Some(again) = reopen(self.port, &mut self.open).await else { return };
                        self.listener = again;
                        continue;
                    }
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            // A connection that was gone before it was accepted is no concern of ours.
            let Ok((client, _)) = accepted else { continue };
            number += 1;
            let random_seed = self.cycle_seed.wrapping_add(number);
            connections.spawn(serve(client, self.server, self.weather.clone(), self.cut.clone(), random_seed));
            while connections.try_join_next().is_some() {}
        }
    }
}

/// Listens again as soon as it may.
async fn reopen(port: u16, open: &mut watch::Receiver<bool>) -> Option<TcpListener> {
    open.wait_for(|&open| open).await.ok()?;
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return Some(listener),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(
    client: TcpStream,
    server: SocketAddr,
    weather: watch::Receiver<Weather>,
    mut cut: watch::Receiver<u64>,
    random_seed: u64,
) {
    cut.mark_unchanged();
    // A server that is down refuses; so do we, by closing.
    let Ok(upstream) = TcpStream::connect(server).await else { return };
    // Small pieces must leave as they are.
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = upstream.into_split();
    tokio::select! {
        // Whichever side closes first, both are closed, as the kernel would.
        () = pump(from_client, to_server, weather.clone(), random_seed) => {}
        () = pump(from_server, to_client, weather, !random_seed) => {}
        _ = cut.changed() => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    random_seed: u64,
) {
    let mut random = seed::generator(random_seed, "chop");
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let now = *weather.borrow_and_update();
        let piece_max = match now {
            Weather::Fine => READ_BYTES,
            Weather::Chopped(max) => random.random_range(1..=max.min(READ_BYTES)),
            Weather::Stalled => match weather.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            },
            // Held open and never served again; the cut or the end of the cycle frees it.
            Weather::Swallowing => std::future::pending().await,
        };
        let Some(room) = buffer.get_mut(..piece_max) else { return };
        let read = tokio::select! {
            read = from.read(room) => read,
            changed = weather.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let piece = match read {
            Ok(length @ 1..) => room.get(..length).unwrap_or_default(),
            _ => return,
        };
        if to.write_all(piece).await.is_err() {
            return;
        }
        if now != Weather::Fine {
            tokio::time::sleep(CHOP_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server behind a proxy, and a connection through it.
    async fn connected() -> (Proxy, TcpStream) {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let proxy = Proxy::start(address, 1).await.unwrap();
        let client = connect(&proxy).await.unwrap();
        (proxy, client)
    }

    async fn connect(proxy: &Proxy) -> std::io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", proxy.port)).await
    }

    async fn echoes(client: &mut TcpStream, text: &[u8]) -> bool {
        let mut answer = vec![0; text.len()];
        client.write_all(text).await.is_ok() && client.read_exact(&mut answer).await.is_ok() && answer == text
    }

    /// Whether nothing at all comes back, also not an end.
    async fn is_silent(client: &mut TcpStream, text: &[u8]) -> bool {
        client.write_all(text).await.unwrap();
        let mut answer = [0; 1];
        tokio::time::timeout(Duration::from_millis(200), client.read(&mut answer)).await.is_err()
    }

    #[tokio::test]
    async fn a_chopped_stream_arrives_whole_and_a_stalled_one_later() {
        let (proxy, mut client) = connected().await;
        assert!(echoes(&mut client, b"fine").await);
        proxy.chop(3);
        assert!(echoes(&mut client, b"in many small pieces").await);
        proxy.stall();
        assert!(is_silent(&mut client, b"stalled").await);
        proxy.clear();
        let mut answer = [0; 7];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"stalled");
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_a_swallowed_one_stays_open_for_ever_silent() {
        let (proxy, mut client) = connected().await;
        assert!(echoes(&mut client, b"fine").await);
        proxy.swallow();
        assert!(is_silent(&mut client, b"lost").await);
        proxy.clear();
        assert!(is_silent(&mut client, b"lost as well").await);
        assert!(echoes(&mut connect(&proxy).await.unwrap(), b"a new one is fine").await);
        proxy.cut();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_closed_proxy_refuses_until_it_is_cleared() {
        let (proxy, _client) = connected().await;
        proxy.close();
        while connect(&proxy).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.clear();
        while connect(&proxy).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
