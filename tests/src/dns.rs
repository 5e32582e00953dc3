//! A name server on an address of the loopback that nobody else uses.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use domain::{
    base::{Message, MessageBuilder, Name, iana::Rtype},
    rdata::{A, Cname},
};

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Stands {
    /// An address.
    For(Ipv4Addr),
    /// Another name.
    Alias(String),
}

/// It answers for the names that it was given, over UDP and TCP.
pub struct NameServer {
    addr: Ipv4Addr,
    over: Arc<AtomicBool>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

impl NameServer {
    /// With `truncating`, what it says over UDP is only that it should be asked over TCP.
    ///
    /// # Panics
    /// When no address is free.
    pub fn new(names: &[(&str, Stands)], truncating: bool) -> Self {
        let names: BTreeMap<String, Stands> = names
            .iter()
            .map(|(name, stands)| ((*name).to_owned(), stands.clone()))
            .collect();
        // Another suite may run at the same time.
        let free = (0..200u32).find_map(|n| {
            let [.., a, b] = (std::process::id().wrapping_mul(251).wrapping_add(n)).to_be_bytes();
            let addr = Ipv4Addr::new(127, 53, a, b.max(2));
            let udp = UdpSocket::bind((addr, 53)).ok()?;
            let tcp = TcpListener::bind((addr, 53)).ok()?;
            Some((addr, udp, tcp))
        });
        let (addr, udp, tcp) = free.expect("a free address");
        let over = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(names);
        let (ends, of_udp) = (over.clone(), shared.clone());
        thread::spawn(move || {
            udp.set_read_timeout(Some(Duration::from_millis(200)))
                .expect("a limit");
            let mut buffer = [0; 4096];
            while !ends.load(Ordering::SeqCst) {
                if let Ok((len, from)) = udp.recv_from(&mut buffer)
                    && let Some(answer) = answer(&buffer[..len], &of_udp, truncating)
                {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let ends = over.clone();
        thread::spawn(move || {
            tcp.set_nonblocking(true).expect("a listener");
            while !ends.load(Ordering::SeqCst) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let shared = shared.clone();
                thread::spawn(move || {
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                    let mut len = [0; 2];
                    while stream.read_exact(&mut len).is_ok() {
                        let mut question = vec![0; usize::from(u16::from_be_bytes(len))];
                        if stream.read_exact(&mut question).is_err() {
                            break;
                        }
                        let Some(answer) = answer(&question, &shared, false) else {
                            break;
                        };
                        // In two segments.
                        let _ = stream.set_nodelay(true);
                        let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
                        let _ = stream.write_all(&answer);
                    }
                });
            }
        });
        Self { addr, over }
    }

    /// Where it listens.
    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }
}

fn answer(question: &[u8], names: &BTreeMap<String, Stands>, truncated: bool) -> Option<Vec<u8>> {
    let question = Message::from_octets(question).ok()?;
    let asked = question.sole_question().ok()?;
    let mut builder = MessageBuilder::new_vec()
        .start_answer(&question, domain::base::iana::Rcode::NOERROR)
        .ok()?;
    builder.header_mut().set_ra(true);
    if truncated {
        builder.header_mut().set_tc(true);
        return Some(builder.finish());
    }
    let mut name = asked.qname().to_string().to_ascii_lowercase();
    while let Some(stands) = names.get(&name) {
        let owner: Name<Vec<u8>> = name.parse().ok()?;
        match stands {
            Stands::For(addr) => {
                if asked.qtype() == Rtype::A {
                    builder.push((owner, 60, A::new(*addr))).ok()?;
                }
                break;
            }
            Stands::Alias(other) => {
                let to: Name<Vec<u8>> = other.parse().ok()?;
                builder.push((owner, 60, Cname::new(to))).ok()?;
                name.clone_from(other);
            }
        }
    }
    Some(builder.finish())
}
