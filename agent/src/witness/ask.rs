//! The asking end: an agent asks a silent node for the leader, several times, and hears anybody there or nobody.
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::Question;
use super::packet::{Key, Nonce, PACKET_BYTES, is_answer, question};

/// One packet may get lost, three in a row hardly ever.
const TRIES: u32 = 3;
/// Between two tries, and after the last one.
const PAUSE: Duration = Duration::from_millis(300);
/// Everything, the lookup of a name included.
const DEADLINE: Duration = Duration::from_secs(3);

/// Whether anybody of those asked answers; `None`: this node could not ask, so it knows nothing.
pub async fn seen(asked: &Question) -> Option<bool> {
    let end = Instant::now() + DEADLINE;
    match timeout_at(end, ask(asked)).await {
        Ok(Ok(seen)) => Some(seen),
        Ok(Err(error)) => {
            debug!(node = asked.node, %error, "cannot ask a silent node");
            None
        }
        Err(_) => None,
    }
}

async fn ask(asked: &Question) -> std::io::Result<bool> {
    let found = lookup_host((asked.address.as_str(), 0)).await?.next();
    let Some(host) = found else {
        return Err(std::io::ErrorKind::NotFound.into());
    };
    let any: SocketAddr = match host {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    let mut open: Vec<(Key, Nonce)> = Vec::new();
    let mut sent = Err(std::io::ErrorKind::InvalidInput.into());
    for _ in 0..TRIES {
        for target in &asked.targets {
            let nonce: Nonce = rand::random();
            let packet = question(&target.key, &nonce);
            let there = SocketAddr::new(host.ip(), target.port);
            sent = socket.send_to(&packet, there).await.map(|_| ());
            open.push((target.key, nonce));
        }
        if answered(&socket, &open, Instant::now() + PAUSE).await {
            return Ok(true);
        }
    }
    // If not even the last question could be sent, the silence is ours.
    sent.map(|()| false)
}

/// Waits for an answer to any open question.
async fn answered(socket: &UdpSocket, open: &[(Key, Nonce)], end: Instant) -> bool {
    let mut buffer = [0; PACKET_BYTES + 1];
    while let Ok(received) = timeout_at(end, socket.recv_from(&mut buffer)).await {
        // A port that is closed is an error here: nobody listens there, and others may.
        let Ok((count, _)) = received else {
            continue;
        };
        let fits = |(key, nonce): &(Key, Nonce)| is_answer(key, nonce, &buffer[..count]);
        if open.iter().any(fits) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::ProbePort;
    use crate::witness::answer::Answering;

    fn asked(targets: Vec<ProbePort>) -> Question {
        Question {
            id: 1,
            node: "n1".into(),
            address: "127.0.0.1".into(),
            targets,
        }
    }

    #[tokio::test]
    async fn whoever_is_there_is_seen_and_a_wrong_key_is_not_answered() {
        let there = Answering::bind().expect("a port");
        let own = there.port();
        let gone = Answering::bind().expect("a port").port();
        let serving = tokio::spawn(there.serve_for_ever());
        assert_eq!(seen(&asked(vec![gone, own])).await, Some(true));
        let forged = ProbePort {
            key: [0; 32],
            ..own
        };
        assert_eq!(seen(&asked(vec![forged])).await, Some(false));
        serving.abort();
    }

    #[tokio::test]
    async fn who_cannot_ask_knows_nothing() {
        assert_eq!(seen(&asked(vec![])).await, None);
        let nowhere = Question {
            address: "no.such.host.invalid".into(),
            ..asked(vec![])
        };
        assert_eq!(seen(&nowhere).await, None);
    }
}
