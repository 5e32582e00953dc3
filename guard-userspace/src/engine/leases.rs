//! Leases: what a session may do for a while. The kernel ends them on time; here they are given, taken
//! back and remembered.

use std::time::Duration;

use serde_json::json;

use super::{By, Engine, Refusal, session::number};
use crate::{
    clock,
    event::Kind,
    wire::{GrantInfo, Reply},
};

/// A lease without a duration.
const LEASE: Duration = Duration::from_secs(600);

/// One lease.
pub(super) struct Grant {
    pub(super) session: u32,
    pub(super) label: String,
    pub(super) since_ns: u64,
    pub(super) until_ns: u64,
    pub(super) revoked: bool,
    pub(super) reason: Option<String>,
    pub(super) by_uid: u32,
}

impl Engine {
    pub(super) fn grant(
        &mut self,
        session: u32,
        label: &str,
        duration: Option<Duration>,
        reason: Option<String>,
        by: By,
    ) -> Result<GrantInfo, Refusal> {
        let bit = self
            .bits
            .bit(label)
            .filter(|_| self.policy.labels.iter().any(|known| known == label))
            .ok_or_else(|| {
                Refusal::invalid(format!(
                    "grant: no label {label:?}: the policy has {}",
                    self.policy.labels.join(", ")
                ))
            })?;
        let now = clock::monotonic_ns();
        let until_ns = now + duration.unwrap_or(LEASE).as_nanos() as u64;
        let longest = self
            .grants
            .values()
            .filter(|g| g.session == session && g.label == label && !g.revoked)
            .map(|g| g.until_ns)
            .fold(until_ns, u64::max);
        self.kernel
            .tables
            .put_lease(session, bit, longest)
            .map_err(|error| Refusal::failed(format!("grant: {error}")))?;
        self.next_grant += 1;
        let id = self.next_grant;
        let grant = Grant {
            session,
            label: label.into(),
            since_ns: now,
            until_ns,
            revoked: false,
            reason,
            by_uid: by.uid.unwrap_or_default(),
        };
        let info = self.grant_info(id, &grant);
        self.grants.insert(id, grant);
        let mut event = self.event_for(Kind::Grant, Some(session));
        event.labels = vec![label.into()];
        event.object = Some(json!({
            "id": info.id, "what": "granted", "for_s": info.expires_in_s, "reason": info.reason, "by_uid": by.uid,
        }));
        self.tell(event);
        self.save();
        Ok(info)
    }

    pub(super) fn revoke(&mut self, name: &str, by: By) -> Result<Reply, Refusal> {
        let unknown =
            || Refusal::not_found(format!("{name}: no such grant: see 'guardctl grants'"));
        let id = number("g", name).ok_or_else(unknown)?;
        let now = clock::monotonic_ns();
        let grant = self.grants.get_mut(&id).ok_or_else(unknown)?;
        if grant.revoked || grant.until_ns <= now {
            return Err(Refusal::not_found(format!("{name}: it has ended already")));
        }
        grant.revoked = true;
        let (session, label) = (grant.session, grant.label.clone());
        let rest = self
            .grants
            .values()
            .filter(|g| g.session == session && g.label == label && !g.revoked && g.until_ns > now)
            .map(|g| g.until_ns)
            .max();
        if let Some(bit) = self.bits.bit(&label) {
            match rest {
                Some(until) => {
                    let _ = self.kernel.tables.put_lease(session, bit, until);
                }
                None => self.kernel.tables.drop_lease(session, bit),
            }
        }
        let mut event = self.event_for(Kind::Grant, Some(session));
        event.labels = vec![label];
        event.object = Some(json!({ "id": name, "what": "revoked", "by_uid": by.uid }));
        self.tell(event);
        self.save();
        Ok(Reply::Done {
            message: format!("{name} is revoked"),
        })
    }

    pub(super) fn grant_info(&self, id: u32, grant: &Grant) -> GrantInfo {
        let now = clock::monotonic_ns();
        let state = if grant.revoked {
            "revoked"
        } else if grant.until_ns <= now {
            "expired"
        } else {
            "active"
        };
        GrantInfo {
            id: format!("g-{id}"),
            session: format!("s-{}", grant.session),
            label: grant.label.clone(),
            since: clock::rfc3339_at(grant.since_ns),
            expires_in_s: if grant.revoked {
                0
            } else {
                grant.until_ns.saturating_sub(now).div_ceil(1_000_000_000)
            },
            state: state.into(),
            reason: grant.reason.clone(),
            by_uid: grant.by_uid,
        }
    }
}
