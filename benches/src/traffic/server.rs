//! The serving side of an agent: one thread per listening socket, one per TCP connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use super::message::{DATAGRAM_PAYLOAD_BYTES_MAX, REQUEST_HEADER_BYTES, Reply, Request, RequestKind};
use super::pattern;

/// A connection on which nothing arrives for so long is given up, so that lost clients do not keep threads.
const IDLE_SECONDS_MAX: u64 = 120;
/// Payload that a server takes or gives, so that a broken header cannot ask for gigabytes.
const PAYLOAD_BYTES_MAX: u32 = 60_000;

/// Serves TCP and UDP at `address` in threads of its own, answering as `identity`.
pub fn serve(identity: &str, address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let socket = UdpSocket::bind(address)?;
    let name = identity.to_owned();
    thread::Builder::new().name(format!("tcp {address}")).spawn(move || accept(&listener, &name))?;
    let name = identity.to_owned();
    thread::Builder::new().name(format!("udp {address}")).spawn(move || answer_datagrams(&socket, &name))?;
    Ok(())
}

fn accept(listener: &TcpListener, identity: &str) {
    loop {
        // A connection that was reset before it was taken is no reason to stop serving.
        let Ok((stream, peer)) = listener.accept() else { continue };
        let identity = identity.to_owned();
        let spawned = thread::Builder::new().name("connection".into()).stack_size(256 * 1024).spawn(move || {
            // The client notices a broken connection itself and counts it.
            let _ = answer_connection(stream, peer, &identity);
        });
        if let Err(error) = spawned {
            eprintln!("cannot start a thread for {peer}: {error}");
        }
    }
}

fn answer_connection(mut stream: TcpStream, peer: SocketAddr, identity: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(IDLE_SECONDS_MAX)))?;
    stream.set_nodelay(true)?;
    let mut header = [0; REQUEST_HEADER_BYTES];
    loop {
        match stream.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let request = Request::decode(&header)?;
        let reply = match request.kind {
            RequestKind::Echo => {
                let mut payload = vec![0; request.payload_bytes.min(PAYLOAD_BYTES_MAX) as usize];
                stream.read_exact(&mut payload)?;
                reply_to(&request, &payload, identity, peer)
            }
            RequestKind::Sink => {
                let (bytes, intact) = sink(&mut stream, request.payload_seed())?;
                Reply {
                    number: bytes,
                    intact,
                    identity: identity.into(),
                    source: peer.to_string(),
                    payload: Vec::new(),
                }
            }
        };
        stream.write_all(&reply.encode())?;
    }
}

/// Takes a stream to its end and checks every byte of it.
fn sink(stream: &mut TcpStream, seed: u64) -> io::Result<(u64, bool)> {
    let mut buffer = vec![0; 256 * 1024];
    let mut position = 0;
    let mut intact = true;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok((position, intact));
        }
        intact &= pattern::first_difference(seed, position, &buffer[..count]).is_none();
        position += count as u64;
    }
}

fn answer_datagrams(socket: &UdpSocket, identity: &str) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error for an earlier answer is reported here; the next datagram comes all the same.
        let Ok((count, peer)) = socket.recv_from(&mut buffer) else { continue };
        let Some((header, payload)) = buffer[..count].split_first_chunk::<REQUEST_HEADER_BYTES>() else { continue };
        let Ok(request) = Request::decode(header) else { continue };
        if request.kind != RequestKind::Echo || request.reply_bytes > DATAGRAM_PAYLOAD_BYTES_MAX {
            continue;
        }
        // A datagram that cannot be sent is a lost answer: the client counts it.
        let _ = socket.send_to(&reply_to(&request, payload, identity, peer).encode(), peer);
    }
}

fn reply_to(request: &Request, payload: &[u8], identity: &str, peer: SocketAddr) -> Reply {
    let intact = payload.len() == request.payload_bytes as usize
        && pattern::first_difference(request.payload_seed(), 0, payload).is_none();
    let mut answer = vec![0; request.reply_bytes.min(PAYLOAD_BYTES_MAX) as usize];
    pattern::fill(request.reply_seed(), 0, &mut answer);
    Reply { number: request.number, intact, identity: identity.into(), source: peer.to_string(), payload: answer }
}
