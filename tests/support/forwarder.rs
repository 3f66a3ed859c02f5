//! A TCP address that stays while the server behind it changes: what a floating address or a service name is to a failover.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Forwards every new connection to the port it points to now. Its threads live as long as their connections, and the
/// listening one as long as the test.
pub(crate) struct Forwarder {
    port: u16,
    target: Arc<AtomicU16>,
}

impl Forwarder {
    /// Listens, and points to this local port.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let target = Arc::new(AtomicU16::new(port));
        let forwarder = Self { port: listener.local_addr().expect("an address").port(), target: Arc::clone(&target) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody there: the client sees its connection closed, as it would without us.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::Acquire))) {
                    join(client, server);
                }
            }
        });
        forwarder
    }

    /// The port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// New connections go to another local port.
    pub(crate) fn point_to(&self, port: u16) {
        self.target.store(port, Ordering::Release);
    }
}

fn join(client: TcpStream, server: TcpStream) {
    let copies = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
    for (from, to) in copies {
        if let (Ok(from), Ok(to)) = (from, to) {
            std::thread::spawn(move || copy(from, to));
        }
    }
}

/// Until one side is gone; then the other is closed too.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(read) if read > 0 && to.write_all(&buffer[..read]).is_ok() => {}
            _ => break,
        }
    }
    for side in [&from, &to] {
        let _ = side.shutdown(Shutdown::Both);
    }
}
