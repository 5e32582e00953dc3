//! Leases: what a session may do for a while. The kernel ends them on time and counts their uses; here they are asked for,
//! given, taken back and remembered.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use guard_common::{
    event::tier,
    state::{Lease, LeaseKey, UNCOUNTED, address_object, file_object, watched},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{By, Engine, Refusal, asks::Ask, requests::Peer, session::number};
use crate::{
    clock,
    event::Kind,
    kernel::kernel_dev,
    wire::{GrantInfo, Operation, Reply, Terms, Via},
};

/// A lease without a duration.
const LEASE: Duration = Duration::from_secs(600);
/// Leases that one session may be asking for at once.
const MAX_ASKED: usize = 8;
/// Bytes of a reason.
const MAX_REASON: usize = 500;
/// Leases that are remembered. Those in force are far fewer: each costs a person an answer.
const MAX_REMEMBERED: usize = 2_000;

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Its session has asked for it.
    Asked,
    /// A person has refused it.
    Refused,
    /// It was given, and may have run out since.
    #[default]
    Given,
    /// It was taken back.
    Revoked,
}

/// One lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) session: u32,
    pub(super) label: String,
    /// What alone it is for, as text and as the kernel has it.
    #[serde(default)]
    pub(super) object: Option<(String, u64)>,
    /// Operations that it is for; empty for all.
    #[serde(default)]
    pub(super) operations: Vec<Operation>,
    /// Uses that are left, as far as is known; `None` where they are not counted.
    #[serde(default)]
    pub(super) uses: Option<u32>,
    /// When it was asked for or given.
    pub(super) since_ns: u64,
    /// Its end; of one that is asked for, how long it is to be instead.
    pub(super) until_ns: u64,
    #[serde(default)]
    pub(super) stage: Stage,
    pub(super) reason: Option<String>,
    /// uid of who gave, refused or asked for it.
    pub(super) by_uid: u32,
    /// While it is asked for.
    #[serde(default)]
    pub(super) ask: Option<Ask>,
}

impl Grant {
    pub(super) fn is_active(&self, now_ns: u64) -> bool {
        self.stage == Stage::Given && self.until_ns > now_ns && self.uses != Some(0)
    }

    /// Its session has ended.
    fn end(&mut self, now_ns: u64) {
        self.until_ns = self.until_ns.min(now_ns);
    }

    fn kinds(&self) -> u32 {
        let kinds = self
            .operations
            .iter()
            .flat_map(|operation| operation.kinds());
        kinds.fold(0, |all, kind| all | 1 << kind)
    }

    /// For the kernel.
    pub(super) fn lease(&self) -> Lease {
        Lease {
            until_ns: self.until_ns,
            uses: self.uses.map_or(UNCOUNTED, i64::from),
            kinds: self.kinds(),
            pad: 0,
        }
    }

    /// Its place in the kernel's table.
    pub(super) fn key(&self, bit: u8) -> LeaseKey {
        LeaseKey {
            session: self.session,
            label: bit.into(),
            object: self.object.as_ref().map_or(0, |(_, object)| *object),
        }
    }
}

impl Engine {
    /// Gives a lease.
    ///
    /// # Errors
    /// When the terms are wrong, another is in the way, or the kernel's table is full.
    pub(super) fn grant(
        &mut self,
        session: u32,
        terms: &Terms,
        by: By,
    ) -> Result<GrantInfo, Refusal> {
        let grant = self.grant_of("grant", session, terms, by.uid.unwrap_or_default())?;
        self.next_grant += 1;
        self.give(self.next_grant, grant, by, None)
    }

    /// Notes that a session asks for a lease: a person answers.
    ///
    /// # Errors
    /// When the terms are wrong, or it asks for too many at once.
    pub(super) fn ask_for_lease(
        &mut self,
        session: u32,
        terms: &Terms,
        peer: &Peer,
    ) -> Result<GrantInfo, Refusal> {
        let mut grant = self.grant_of("request", session, terms, peer.uid)?;
        let asked = |grant: &&Grant| grant.session == session && grant.stage == Stage::Asked;
        if self.grants.values().filter(asked).count() >= MAX_ASKED {
            return Err(Refusal::failed(format!(
                "request: s-{session} waits for {MAX_ASKED} answers already"
            )));
        }
        grant.stage = Stage::Asked;
        grant.ask = Some(Ask::by(peer.pid, peer.start));
        grant.until_ns -= grant.since_ns;
        self.next_grant += 1;
        let id = self.next_grant;
        // Kept before it is told: whoever hears of it asks what it is.
        let info = self.keep_grant(id, grant.clone());
        self.tell_grant(id, &grant, "asked", By::default(), None);
        Ok(info)
    }

    fn grant_of(
        &self,
        what: &str,
        session: u32,
        terms: &Terms,
        uid: u32,
    ) -> Result<Grant, Refusal> {
        if !self.policy.labels.contains(&terms.label) || self.bits.bit(&terms.label).is_none() {
            return Err(Refusal::invalid(format!(
                "{what}: no label {:?}: the policy has {}",
                terms.label,
                self.policy.labels.join(", ")
            )));
        }
        if terms.uses == Some(0) {
            return Err(Refusal::invalid(format!("{what}: --uses 0 allows nothing")));
        }
        if terms
            .reason
            .as_ref()
            .is_some_and(|text| text.len() > MAX_REASON)
        {
            return Err(Refusal::invalid(format!(
                "{what}: the reason is longer than {MAX_REASON} bytes"
            )));
        }
        let object = match (&terms.path, &terms.address) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid(format!(
                    "{what}: a path or an address, not both"
                )));
            }
            (Some(path), None) => Some((path.clone(), self.file_of(what, path)?)),
            (None, Some(address)) => Some((address.clone(), address_of(what, address)?)),
            (None, None) => None,
        };
        let now = clock::monotonic_ns();
        let length = terms.for_ms.map_or(LEASE, Duration::from_millis);
        Ok(Grant {
            session,
            label: terms.label.clone(),
            object,
            operations: terms.operations.clone(),
            uses: terms.uses,
            since_ns: now,
            until_ns: now + length.as_nanos() as u64,
            stage: Stage::Given,
            reason: terms.reason.clone(),
            by_uid: uid,
            ask: None,
        })
    }

    /// The file at a path, as the kernel has it in leases.
    fn file_of(&self, what: &str, path: &str) -> Result<u64, Refusal> {
        // Where an open is judged after it has happened, nothing says what it was of.
        if self.kernel.tables.tier_of(watched::OPEN) == tier::TRACEPOINT {
            return Err(Refusal::failed(format!(
                "{what}: {path}: this kernel cannot tell files apart when it judges an open (see 'guardctl doctor'): leave --path out"
            )));
        }
        if !Path::new(path).is_absolute() {
            return Err(Refusal::invalid(format!(
                "{what}: {path}: expected an absolute path"
            )));
        }
        let meta = fs::metadata(path)
            .map_err(|error| Refusal::not_found(format!("{what}: {path}: {error}")))?;
        Ok(file_object(meta.ino(), kernel_dev(meta.dev())))
    }

    /// Puts a lease in force.
    fn give(
        &mut self,
        id: u32,
        mut grant: Grant,
        by: By,
        via: Option<&Via>,
    ) -> Result<GrantInfo, Refusal> {
        let Some(bit) = self.bits.bit(&grant.label) else {
            return Err(Refusal::failed(format!(
                "g-{id}: the policy has no label {:?} any more",
                grant.label
            )));
        };
        self.refresh_uses();
        let now = clock::monotonic_ns();
        let key = grant.key(bit);
        let mut lease = grant.lease();
        for (other_id, other) in &self.grants {
            if !other.is_active(now) || other.label != grant.label || other.key(bit) != key {
                continue;
            }
            // There is one entry for both.
            let plain = other.uses.is_none() && grant.uses.is_none();
            if !plain || other.kinds() != grant.kinds() {
                return Err(Refusal::failed(format!(
                    "g-{other_id} is in force for the same, on other terms: revoke it first"
                )));
            }
            lease.until_ns = lease.until_ns.max(other.until_ns);
        }
        self.kernel
            .tables
            .put_lease(&key, lease)
            .map_err(|error| Refusal::failed(format!("grant: {error}")))?;
        grant.stage = Stage::Given;
        grant.ask = None;
        grant.by_uid = by.uid.unwrap_or_default();
        self.tell_grant(id, &grant, "granted", by, via);
        Ok(self.keep_grant(id, grant))
    }

    fn keep_grant(&mut self, id: u32, grant: Grant) -> GrantInfo {
        let info = self.grant_info(id, &grant);
        self.grants.insert(id, grant);
        let now = clock::monotonic_ns();
        let over = self.grants.len().saturating_sub(MAX_REMEMBERED);
        let ended: Vec<u32> = self
            .grants
            .iter()
            .filter(|(_, grant)| !grant.is_active(now) && grant.stage != Stage::Asked)
            .map(|(id, _)| *id)
            .take(over)
            .collect();
        for id in ended {
            self.grants.remove(&id);
        }
        self.save();
        info
    }

    fn tell_grant(&mut self, id: u32, grant: &Grant, what: &str, by: By, via: Option<&Via>) {
        let mut event = self.event_for(Kind::Grant, Some(grant.session));
        event.labels = vec![grant.label.clone()];
        let length = match grant.stage {
            Stage::Asked => grant.until_ns,
            _ => grant.until_ns.saturating_sub(clock::monotonic_ns()),
        };
        let mut object = json!({ "id": format!("g-{id}"), "what": what, "by_uid": by.uid });
        if matches!(what, "asked" | "granted") {
            object["for_s"] = length.div_ceil(1_000_000_000).into();
            object["reason"] = json!(grant.reason);
        }
        if what == "refused" {
            object["why"] = json!(grant.reason);
        }
        if let Some(via) = via {
            object["via"] = json!(via);
        }
        if let Some((text, _)) = &grant.object {
            object["for"] = text.clone().into();
        }
        if let Some(uses) = grant.uses {
            object["uses"] = uses.into();
        }
        if !grant.operations.is_empty() {
            object["operations"] = json!(grant.operations);
        }
        event.object = Some(object);
        self.tell(event);
    }

    /// Answers a session that asks for a lease.
    ///
    /// # Errors
    /// When nothing is asked under this name, or the lease cannot be given.
    pub(super) fn answer_ask(
        &mut self,
        name: &str,
        approve: bool,
        for_ms: Option<u64>,
        reason: Option<String>,
        by: By,
        via: Option<&Via>,
    ) -> Result<Reply, Refusal> {
        let unknown = || {
            Refusal::not_found(format!(
                "{name}: nobody asks for it: see 'guardctl pending'"
            ))
        };
        let id = number("g", name).ok_or_else(unknown)?;
        let asked = self
            .grants
            .get(&id)
            .filter(|grant| grant.stage == Stage::Asked);
        let mut grant = asked.ok_or_else(unknown)?.clone();
        let now = clock::monotonic_ns();
        if approve {
            let length = for_ms.map_or(grant.until_ns, |ms| ms.saturating_mul(1_000_000));
            (grant.since_ns, grant.until_ns) = (now, now.saturating_add(length));
            return self
                .give(id, grant, by, via)
                .map(|grant| Reply::Granted { grant });
        }
        self.refuse_ask(id, reason, by, via);
        Ok(Reply::Done {
            message: format!("{name} is refused"),
        })
    }

    /// Ends a lease that is asked for.
    pub(super) fn refuse_ask(
        &mut self,
        id: u32,
        reason: Option<String>,
        by: By,
        via: Option<&Via>,
    ) {
        let Some(mut grant) = self.grants.get(&id).cloned() else {
            return;
        };
        grant.stage = Stage::Refused;
        grant.ask = None;
        grant.by_uid = by.uid.unwrap_or(grant.by_uid);
        // Told is why it was refused, and not why it was asked for.
        let asked_for = std::mem::replace(&mut grant.reason, reason);
        self.tell_grant(id, &grant, "refused", by, via);
        grant.reason = grant.reason.or(asked_for);
        self.keep_grant(id, grant);
    }

    /// Ends what a session that has ended has, and what it has asked for.
    pub(super) fn end_grants_of(&mut self, session: u32) {
        let now = clock::monotonic_ns();
        let mut asked = Vec::new();
        for (id, grant) in &mut self.grants {
            if grant.session == session {
                match grant.stage {
                    Stage::Asked => asked.push(*id),
                    _ => grant.end(now),
                }
            }
        }
        for id in asked {
            self.refuse_ask(
                id,
                Some("its session has ended".into()),
                By::default(),
                None,
            );
        }
    }

    pub(super) fn revoke(&mut self, name: &str, by: By) -> Result<Reply, Refusal> {
        let unknown =
            || Refusal::not_found(format!("{name}: no such grant: see 'guardctl grants'"));
        let id = number("g", name).ok_or_else(unknown)?;
        self.refresh_uses();
        let now = clock::monotonic_ns();
        let grant = self.grants.get_mut(&id).ok_or_else(unknown)?;
        if !grant.is_active(now) {
            return Err(Refusal::not_found(format!("{name}: it has ended already")));
        }
        grant.stage = Stage::Revoked;
        let grant = grant.clone();
        if let Some(bit) = self.bits.bit(&grant.label) {
            let key = grant.key(bit);
            let rest = self
                .grants
                .values()
                .filter(|other| {
                    other.is_active(now) && other.label == grant.label && other.key(bit) == key
                })
                .map(Grant::lease)
                .max_by_key(|lease| lease.until_ns);
            match rest {
                Some(lease) => {
                    if let Err(error) = self.kernel.tables.put_lease(&key, lease) {
                        self.problems.insert("leases", error.to_string());
                    }
                }
                None => self.kernel.tables.drop_lease(&key),
            }
        }
        self.tell_grant(id, &grant, "revoked", by, None);
        self.save();
        Ok(Reply::Done {
            message: format!("{name} is revoked"),
        })
    }

    /// Takes over from the kernel how many uses are left.
    pub(super) fn refresh_uses(&mut self) {
        let now = clock::monotonic_ns();
        for grant in self.grants.values_mut() {
            if grant.uses.is_some()
                && grant.is_active(now)
                && let Some(bit) = self.bits.bit(&grant.label)
                && let Some(lease) = self.kernel.tables.lease(&grant.key(bit))
            {
                grant.uses = Some(u32::try_from(lease.uses).unwrap_or(0));
            }
        }
    }

    /// Every lease that a peer may see.
    pub(super) fn grants_for(&mut self, may_see: impl Fn(&Self, u32) -> bool) -> Vec<GrantInfo> {
        self.refresh_uses();
        self.grants
            .iter()
            .filter(|(_, grant)| may_see(self, grant.session))
            .map(|(id, grant)| self.grant_info(*id, grant))
            .collect()
    }

    pub(super) fn grant_info(&self, id: u32, grant: &Grant) -> GrantInfo {
        let now = clock::monotonic_ns();
        let left = match grant.stage {
            Stage::Asked => grant.until_ns,
            Stage::Given => grant.until_ns.saturating_sub(now),
            Stage::Refused | Stage::Revoked => 0,
        };
        let state = match grant.stage {
            Stage::Asked => "asked",
            Stage::Refused => "refused",
            Stage::Revoked => "revoked",
            Stage::Given if grant.until_ns <= now => "expired",
            Stage::Given if grant.uses == Some(0) => "used up",
            Stage::Given => "active",
        };
        GrantInfo {
            id: format!("g-{id}"),
            session: format!("s-{}", grant.session),
            label: grant.label.clone(),
            object: grant.object.as_ref().map(|(text, _)| text.clone()),
            operations: grant.operations.clone(),
            uses: grant.uses,
            // Of one that is asked for, that is when it was.
            since: clock::rfc3339_at(grant.since_ns),
            expires_in_s: left.div_ceil(1_000_000_000),
            state: state.into(),
            reason: grant.reason.clone(),
            by_uid: grant.by_uid,
        }
    }
}

/// An address with a port, as the kernel has it in leases.
fn address_of(what: &str, text: &str) -> Result<u64, Refusal> {
    let address: SocketAddr = text.parse().map_err(|_| {
        Refusal::invalid(format!(
            "{what}: {text}: expected an address with a port, like 192.0.2.7:443 or [2001:db8::7]:443"
        ))
    })?;
    let octets = match address.ip() {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0u32; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Ok(address_object(&words, address.port().to_be()))
}
