//! The far ends of the router's links: raw sockets in a namespace of their own that has no address, so that nobody but
//! the test sends or answers there.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A frame of 1,514 bytes fits, and what is too long is seen to be.
const BUFFER_BYTES: usize = 4096;

/// One end of a link.
pub struct Wire {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Wire {
    /// Opens `interfaces` of the network namespace `namespace`; each [`Wire::receive`] waits as long as its `wait` says.
    pub fn open(namespace: &str, interfaces: &[(&'static str, Duration)]) -> Vec<Self> {
        let path = format!("/run/netns/{namespace}");
        let interfaces = interfaces.to_vec();
        // A socket stays in the namespace where it was made; the thread that goes there ends with it.
        let opened = thread::spawn(move || {
            let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root, to enter a namespace");
            interfaces.into_iter().map(|(name, wait)| Self::open_here(name, wait)).collect()
        });
        opened.join().expect("the far ends of the links")
    }

    fn open_here(name: &str, wait: Duration) -> Self {
        let interface = pnet_datalink::interfaces().into_iter().find(|interface| interface.name == name);
        let config = Config {
            read_timeout: Some(wait),
            read_buffer_size: BUFFER_BYTES,
            write_buffer_size: BUFFER_BYTES,
            ..Config::default()
        };
        let interface = interface.unwrap_or_else(|| panic!("no interface {name}"));
        match pnet_datalink::channel(&interface, config).unwrap_or_else(|error| panic!("{name}: {error}")) {
            Channel::Ethernet(sender, receiver) => Self { sender, receiver },
            _ => panic!("{name} is no Ethernet interface"),
        }
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.sender.send_to(frame, None).expect("room in the buffer").expect("a wire that takes frames");
    }

    /// The next frame; `None`: none came in time.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        match self.receiver.next() {
            Ok(frame) => Some(frame.to_vec()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
            Err(error) => panic!("a wire that gives frames: {error}"),
        }
    }
}
