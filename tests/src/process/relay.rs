//! A relay in front of a coordinator that counts what clients send through it.
//! Does NOT understand what passes: it is TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A listening relay; it ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Relay {
    /// A relay to `target`.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let (sent, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (target, counter, end) = (target.to_owned(), sent.clone(), over.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                // A target that is gone shows as a closed connection, as it should.
                let Ok(server) = TcpStream::connect(&target) else {
                    continue;
                };
                join(&client, &server, counter.clone());
            }
        });
        Self {
            address,
            sent,
            over,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Bytes that clients have sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; whether it is still there does not matter.
        let _ = TcpStream::connect(self.address);
    }
}

fn join(client: &TcpStream, server: &TcpStream, sent: Arc<AtomicU64>) {
    let unused = Arc::new(AtomicU64::new(0));
    for (from, to, count) in [(client, server, sent), (server, client, unused)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
            return;
        };
        std::thread::spawn(move || copy(from, to, &count));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Either may be closed already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_one_direction() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let relay = Relay::to(&server.local_addr().expect("an address").to_string());
        let mut client = TcpStream::connect(relay.address()).expect("connected");
        let (mut end, _) = server.accept().expect("accepted");
        client.write_all(b"hello").expect("sent");
        let mut word = [0; 5];
        end.read_exact(&mut word).expect("received");
        end.write_all(b"a longer answer").expect("answered");
        let mut answer = [0; 15];
        client.read_exact(&mut answer).expect("received");
        assert_eq!(
            (&word, &answer, relay.sent()),
            (b"hello", b"a longer answer", 5)
        );
    }
}
