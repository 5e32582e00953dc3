//! Addresses as a policy writes them: `203.0.113.0/24`, `127.0.0.1:18443`, `[2001:db8::1]:443`,
//! `[2001:db8::]/32`, `*:5432`.

use std::net::{IpAddr, Ipv6Addr};

use guard_common::matching::{ADDRESS_FIXED_BITS, AddressKey};

use super::error::Mistake;

/// A prefix of addresses and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// IPv6, or IPv4 as v4-mapped.
    pub addr: Ipv6Addr,
    /// Bits of `addr` that count, 0 to 128; 96 more than written for IPv4.
    pub prefix: u32,
    /// Destination port; 0 for any.
    pub port: u16,
}

impl Address {
    /// Prefix length and data for the kernel's trie.
    pub(super) fn key(&self, generation: u8) -> (u32, AddressKey) {
        let key = AddressKey {
            generation: u16::from(generation),
            port: self.port.to_be(),
            addr: self.addr.octets(),
        };
        (ADDRESS_FIXED_BITS + self.prefix, key)
    }

    /// Whether every connection that `other` means is meant.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix
            && (self.port == 0 || self.port == other.port)
            && self.contains(other.addr.into(), other.port)
    }

    /// Whether a connection there is meant.
    pub fn contains(&self, addr: IpAddr, port: u16) -> bool {
        let mask = mask(self.prefix);
        (self.port == 0 || self.port == port)
            && u128::from(mapped(addr)) & mask == u128::from(self.addr) & mask
    }
}

/// The IPv6 form of an address.
pub(super) fn mapped(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn mask(prefix: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

/// Reads one address of a policy.
pub(super) fn parse(text: &str) -> Result<Address, Mistake> {
    let bad = |reason: String| Mistake::BadAddress {
        text: text.into(),
        reason,
    };
    let form = "expected an address like 203.0.113.7, 203.0.113.0/24, 127.0.0.1:443, [2001:db8::1]:443, *:443 or unix:/run/x.sock";
    // What is before the port, and the port.
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner
            .split_once(']')
            .ok_or_else(|| bad(format!("a \"[\" without its \"]\": {form}")))?;
        match rest.split_once(':') {
            Some((bits, port)) => (format!("{host}{bits}"), Some(port)),
            None => (format!("{host}{rest}"), None),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host.to_owned(), Some(port)),
            _ => (text.to_owned(), None),
        }
    };
    let port = match port {
        None => 0,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 && !text.ends_with(&format!("+{port}")) => port,
            _ => {
                return Err(bad(format!(
                    "port \"{port}\": expected a port from 1 to 65535"
                )));
            }
        },
    };
    if host == "*" {
        if port == 0 {
            return Err(bad("every address: expected a port with \"*\", like *:5432; for every address write ::/0".into()));
        }
        return Ok(Address {
            addr: Ipv6Addr::UNSPECIFIED,
            prefix: 0,
            port,
        });
    }
    let (host, bits) = match host.split_once('/') {
        Some((host, bits)) => (host, Some(bits)),
        None => (host.as_str(), None),
    };
    let ip: IpAddr = host.parse().map_err(|_| {
        let named = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':');
        bad(if named {
            format!("\"{host}\" is a name: expected an address; names go under hosts")
        } else {
            form.into()
        })
    })?;
    let (width, extra) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
    let bits = match bits {
        None => width,
        Some(bits) => match bits.parse::<u32>() {
            Ok(number) if number <= width && !bits.starts_with('+') => number,
            _ => {
                return Err(bad(format!(
                    "prefix length \"{bits}\": expected 0 to {width}"
                )));
            }
        },
    };
    let (addr, prefix) = (mapped(ip), bits + extra);
    let network = Ipv6Addr::from(u128::from(addr) & mask(prefix));
    if network != addr {
        let network = network
            .to_ipv4_mapped()
            .filter(|_| ip.is_ipv4())
            .map_or(IpAddr::V6(network), IpAddr::V4);
        return Err(bad(format!(
            "bits after the first {bits} are set: expected {network}/{bits}"
        )));
    }
    Ok(Address { addr, prefix, port })
}
