//! Answers of name servers over TCP: messages with two octets of length before each, in segments that come as they
//! like.

use std::{collections::HashMap, net::IpAddr};

/// Connections that are put together at once; a resolver has a few.
const MAX_STREAMS: usize = 64;
/// The longest message, with its length.
const MAX_MESSAGE: usize = 2 + 65_535;

/// One connection from a name server.
#[derive(Debug, Default)]
struct Stream {
    /// Sequence number of the next byte.
    next: u32,
    pending: Vec<u8>,
    /// When it was last heard, by count.
    heard: u64,
}

/// Every connection from name servers that is being read.
#[derive(Debug, Default)]
pub struct Streams {
    streams: HashMap<(IpAddr, u16), Stream>,
    count: u64,
}

impl Streams {
    /// One more segment: the whole messages that there are then. `cut`: not all of it was handed on, so the rest of the
    /// connection cannot be put together.
    pub fn segment(
        &mut self,
        from: IpAddr,
        port: u16,
        seq: u32,
        bytes: &[u8],
        cut: bool,
    ) -> Vec<Vec<u8>> {
        self.count += 1;
        let key = (from, port);
        if self.streams.len() >= MAX_STREAMS && !self.streams.contains_key(&key) {
            let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.heard);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.streams.remove(&oldest);
            }
        }
        let stream = self.streams.entry(key).or_insert_with(|| Stream {
            next: seq,
            ..Stream::default()
        });
        stream.heard = self.count;
        // What has come before, again; or another connection of the same port, or one with a hole in it: then it is
        // read as one that begins here.
        let again = stream.next.wrapping_sub(seq) as usize;
        let new = if again <= bytes.len() {
            &bytes[again..]
        } else {
            if (again as u32 as i32) > 0 && again < MAX_MESSAGE {
                return Vec::new();
            }
            stream.pending.clear();
            bytes
        };
        stream.next = seq.wrapping_add(bytes.len() as u32);
        stream.pending.extend_from_slice(new);
        let mut messages = Vec::new();
        while let [high, low, rest @ ..] = stream.pending.as_slice() {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(message) = rest.get(..len) else {
                break;
            };
            messages.push(message.to_vec());
            stream.pending.drain(..2 + len);
        }
        if cut || stream.pending.len() > MAX_MESSAGE {
            self.streams.remove(&key);
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    proptest! {
        #[test]
        fn however_it_is_cut_the_messages_are_the_same(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
            cuts in prop::collection::vec(1usize..200, 1..40),
            start in any::<u32>(),
            twice in any::<bool>(),
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                bytes.extend((message.len() as u16).to_be_bytes());
                bytes.extend(message);
            }
            let mut streams = Streams::default();
            let (mut seq, mut rest, mut found) = (start, bytes.as_slice(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let (now, then) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                found.extend(streams.segment(FROM, 1, seq, now, false));
                if twice {
                    found.extend(streams.segment(FROM, 1, seq, now, false));
                }
                seq = seq.wrapping_add(now.len() as u32);
                rest = then;
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn arbitrary_segments_do_not_panic_and_are_bounded(
            segments in prop::collection::vec((any::<u16>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..50), any::<bool>()), 0..200),
        ) {
            let mut streams = Streams::default();
            for (port, seq, bytes, cut) in segments {
                streams.segment(FROM, port, seq, &bytes, cut);
                prop_assert!(streams.streams.len() <= MAX_STREAMS);
            }
        }
    }
}
