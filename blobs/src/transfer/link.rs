//! A link: a stream of bytes each way to a node whose name is proven, over QUIC or over TCP, and frames on it.
//! Does NOT know which way it takes beyond its name.
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::error::LinkError;
use super::protocol::{
    BadFrame, FRAME_BYTES_MAX, Frame, HELLO_BYTES, PREFIX_BYTES, Refusal, frame_bytes, hello,
    is_our_hello,
};

/// Nothing came for so long where something must come: the other end is gone.
pub(super) const STALL: Duration = Duration::from_secs(20);
/// How often an end that is busy says so, or looks whether it has to stop.
pub(super) const TICK: Duration = Duration::from_secs(2);
/// How long the last words may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Read and sent at once, bytes.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP, where UDP does not get through.
    Tcp,
}

/// What an asynchronous call of a trait object gives.
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The sending half.
pub(super) trait Outlet: Send {
    /// Sends all of `bytes`; waits while the other end takes no more.
    fn put(&mut self, bytes: Bytes) -> Later<'_, std::io::Result<()>>;
    /// Nothing follows; waits until the other end has what was sent.
    fn finish(&mut self) -> Later<'_, std::io::Result<()>>;
}

/// The receiving half.
pub(super) struct Inlet(pub(super) Box<dyn AsyncRead + Send + Unpin>);

/// Both halves, and who is at the other end.
pub(super) struct Link {
    pub(super) node: String,
    pub(super) way: Way,
    pub(super) from: Inlet,
    pub(super) to: Box<dyn Outlet>,
}

impl Inlet {
    /// Fills `bytes`; only silence is limited, not the time that it takes.
    pub(super) async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), LinkError> {
        let mut at = 0;
        while at < bytes.len() {
            let read = timeout(STALL, self.0.read(&mut bytes[at..]));
            let read = read
                .await
                .map_err(|_| LinkError::Stalled(STALL.as_secs()))?;
            match read? {
                0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                count => at += count,
            }
        }
        Ok(())
    }

    /// The next frame; a refusal is an error. May be waited for at will, but must not be given up half-way.
    pub(super) async fn frame(&mut self) -> Result<Frame, LinkError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.fill(&mut prefix).await?;
        self.rest_of_frame(prefix).await
    }

    /// The same, for one who may have nothing to say for a long time.
    pub(super) async fn frame_at_last(&mut self, patience: Duration) -> Result<Frame, LinkError> {
        let mut prefix = [0; PREFIX_BYTES];
        let first = timeout(patience, self.0.read(&mut prefix[..1]));
        let first = first
            .await
            .map_err(|_| LinkError::Stalled(patience.as_secs()))?;
        if first? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        self.fill(&mut prefix[1..]).await?;
        self.rest_of_frame(prefix).await
    }

    async fn rest_of_frame(&mut self, prefix: [u8; PREFIX_BYTES]) -> Result<Frame, LinkError> {
        let mut bytes = [0; FRAME_BYTES_MAX];
        let bytes = &mut bytes[..frame_bytes(prefix)?];
        self.fill(bytes).await?;
        match Frame::decode(bytes)? {
            Frame::Refused { why, text } => Err(LinkError::Refused { why, text }),
            frame => Ok(frame),
        }
    }

    /// What a dialler says first. False if it speaks another version.
    pub(super) async fn hello(&mut self) -> Result<bool, LinkError> {
        let mut bytes = [0; HELLO_BYTES];
        self.fill(&mut bytes).await?;
        Ok(is_our_hello(bytes)?)
    }

    /// `length` bytes that were announced: memory grows with what is really there.
    pub(super) async fn bytes(&mut self, length: usize) -> Result<Vec<u8>, LinkError> {
        let mut all = Vec::new();
        while all.len() < length {
            let at = all.len();
            all.resize(length.min(at + PIECE_BYTES), 0);
            self.fill(&mut all[at..]).await?;
        }
        Ok(all)
    }
}

impl Link {
    /// Says hello and what the link is for.
    pub(super) async fn begin(&mut self, frame: &Frame) -> Result<(), LinkError> {
        let mut bytes = hello().to_vec();
        bytes.extend(frame.encode());
        Ok(self.to.put(bytes.into()).await?)
    }

    pub(super) async fn say(&mut self, frame: &Frame) -> Result<(), LinkError> {
        say(self.to.as_mut(), frame).await
    }

    /// Says the last thing and waits until it has arrived.
    pub(super) fn end(
        mut self,
        frame: &Frame,
    ) -> impl Future<Output = Result<(), LinkError>> + Send + use<> {
        let bytes = frame.encode();
        let last = async move {
            self.to.put(bytes.into()).await?;
            self.to.finish().await
        };
        async { Ok(timeout(LAST_WORDS, last).await.unwrap_or(Ok(()))?) }
    }

    /// Says no.
    pub(super) async fn refuse(self, why: Refusal, text: &str) -> Result<(), LinkError> {
        let text = text.to_owned();
        self.end(&Frame::Refused { why, text }).await
    }
}

pub(super) async fn say(to: &mut dyn Outlet, frame: &Frame) -> Result<(), LinkError> {
    Ok(to.put(frame.encode().into()).await?)
}

/// What came is a frame, but none that may come here.
pub(super) fn unexpected<T>() -> Result<T, LinkError> {
    Err(BadFrame("a frame that has no place here").into())
}
